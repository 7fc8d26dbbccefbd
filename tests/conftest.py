"""Markers by folder and file; the order of files; fixtures: poisoned fresh memory, torch's threads and seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nvrm_fast.ops.registry import _native

TESTS = Path(__file__).parent
#: Files, folders and single tests under tests/ by their marks. pyproject.toml says what the marks mean.
MARKS = {
    "studies": ["studies"],
    "gpu": [
        "csrc/test_cuda_measures.py",
        "csrc/test_cuda_step.py",
        "nn/test_gpu.py",
        "optim/test_cuda_graph.py",
        "triton_kernels/test_gpu.py",
    ],
    "slow": [
        "bench/test_bench.py::test_the_gate_is_green_on_layers_and_red_on_a_wrong_kernel",
        "bench/test_bench_gpu.py",
        "csrc/test_cuda_compiles.py",
        "csrc/test_headers.py::test_clang_takes_the_kernels",
        "csrc/test_launch_emulation.py",
        "docs/test_examples.py",
        "docs/test_extend_noise.py",
        "docs/test_extend_rule.py",
        "docs/test_tutorial.py",
        "docs/test_variability_page.py",
        "integrations/test_transformers.py",
        "integrations/test_wrappers.py::test_a_missing_library_is_named",
        "nn/test_direction_law.py",
        "nn/test_draws.py::test_chi_of_projected_noise",
        "nn/test_draws.py::test_extreme_projected_noise_is_finite",
        "nn/test_draws.py::test_gamma_magnitude",
        "nn/test_draws.py::test_gamma_magnitude_of_next_to_no_shape",
        "nn/test_draws.py::test_truncated_normal",
        "nn/test_draws.py::test_von_mises_fisher_cosine",
        "nn/test_draws.py::test_words_of_one_block_are_independent",
        "nn/test_entropy.py::test_second_derivatives_through_a_dense_layer",
        "nn/test_gradients.py::test_first_and_second_derivatives",
        "nn/test_gradients.py::test_gaussian_dropout_layers",
        "nn/test_kernels.py::test_more_neurons_and_rows_than_a_tile",
        "nn/test_layer_ops.py::test_compiled_by_inductor_fresh_noise_at_every_call",
        "nn/test_layer_ops.py::test_compiled_layers_draw_the_same_noise",
        "nn/test_layer_ops.py::test_opcheck",
        "nn/test_stochastic.py::test_compiled",
        "nn/test_stochastic.py::test_first_and_second_derivatives",
        "nn/test_stochastic.py::test_operators",
        "nn/test_transforms.py::test_first_derivatives_by_every_transform",
        "nn/test_transforms.py::test_in_place_operations_after_a_layer",
        "nn/test_transforms.py::test_second_derivatives_by_every_transform",
        "nn/test_transforms.py::test_third_derivatives",
        "nn/test_variational.py::test_divergence_of_the_angle",
        "ops/test_fuzz.py",
        "ops/test_measures.py::test_shards_sum_up_to_the_whole",
        "ops/test_measures.py::test_steps",
        "ops/test_measures.py::test_what_is_off_and_on",
        "ops/test_step.py::test_a_shard_of_columns_gets_its_place",
        "ops/test_step.py::test_masters_that_outgrow_the_caches",
        "optim/test_amp.py::test_bounded_drift_in_place",
        "optim/test_amp.py::test_no_drift_with_masters",
        "optim/test_distributed.py",
        "optim/test_interrupts.py::test_interrupted",
        "optim/test_momentum_sam.py::test_it_is_the_papers_algorithm",
        "optim/test_state_fuzz.py::test_sequences",
        "optim/test_torch_compile.py::test_groups_that_are_edited_and_states_that_are_loaded",
        "optim/test_torch_compile.py::test_inductor",
        "optim/test_torch_suite.py",
        "optim/test_torch_suite_state.py",
        "packaging/test_import.py::test_an_environment_with_torch_alone",
        "packaging/test_install.py",
        "probe/test_injection.py::test_the_variance_of_each_law",
        "probe/test_layer_derivatives.py::test_hutchinson_finds_the_trace_within_its_error",
        "probe/test_layer_derivatives.py::test_the_averages_of_eq_2_are_those_of_many_batches",
        "probe/test_linear.py::test_sigma_div_on_true_batches",
        "probe/test_scan.py::test_a_recorder_beside_a_users_own_loop",
        "probe/test_scan.py::test_a_scan_is_so_many_plain_runs",
        "probe/test_scan.py::test_probe_finds_four_phases_of_a_small_network",
        "probe/test_suggest.py::test_in_evaluation_mode_it_is_deterministic",
        "probe/test_variability.py::test_intervals_cover_the_closed_form_of_a_quadratic_loss",
        "ptx",
        "reference/test_noise_battery.py",
        "reference/test_philox.py::test_neighbours_are_independent_in_every_order_of_use",
        "triton_kernels/test_compiled.py",
        "triton_kernels/test_interpreted.py",
        "triton_kernels/test_layers_compiled.py",
        "triton_kernels/test_stochastic_compiled.py",
    ],
}
#: The files that take longest, the longest first. Where several processes share the tests, by whole files, they begin
#: with these, so that none runs alone at the end; all others follow in their order.
LONGEST = [
    "triton_kernels/test_interpreted.py",
    "ptx/test_ptx.py",
    "packaging/test_install.py",
    "csrc/test_cuda_compiles.py",
    "csrc/test_launch_emulation.py",
    "ptx/test_layers.py",
    "docs/test_tutorial.py",
    "triton_kernels/test_compiled.py",
    "docs/test_examples.py",
    "bench/test_bench_gpu.py",
    "nn/test_transforms.py",
    "ops/test_step.py",
    "optim/test_distributed.py",
    "nn/test_layer_ops.py",
]


def is_there(name: str) -> bool:
    path, _, test = name.partition("::")
    return (TESTS / path).exists() and (not test or f"def {test}(" in (TESTS / path).read_text())


missing = [name for names in (*MARKS.values(), LONGEST) for name in names if not is_there(name)]
assert not missing, f"tests/conftest.py names what is not there: {missing}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes (pytest-xdist)
        places = {TESTS / name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))
    for item in items:
        if not item.path.is_relative_to(TESTS):  # the bench's
            continue
        place = item.path.relative_to(TESTS)
        for mark, names in MARKS.items():
            if f"{place.as_posix()}::{getattr(item, 'originalname', '')}" in names or any(
                place.is_relative_to(n) for n in names
            ):
                item.add_marker(mark)


def pytest_report_header() -> str:
    sets = ", ".join(_native.available_instruction_sets()) if _native is not None else "none (not built)"
    return f"nvrm_fast: native instruction sets: {sets}; torch {torch.__version__}"


@pytest.fixture
def threads():
    """Sets the number of torch's threads; restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh memory that nvrm_fast asks for holds NaN (or nonsense integers), so that what is never written shows."""

    def poison(function):
        def poisoned(*args, **kwargs):
            tensor = function(*args, **kwargs)
            if sys._getframe(1).f_globals.get("__name__", "").startswith("nvrm_fast"):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 0x5A)
            return tensor

        return poisoned

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))


@pytest.fixture(autouse=True)
def one_default_seed(monkeypatch):
    """Every optimizer that is made without a seed has seed 0, so that tests may compare one with another."""
    monkeypatch.setattr("nvrm_fast.optim.base.default_seed", lambda earlier: 0)


@pytest.fixture(autouse=True)
def same_random_numbers():
    """No test depends on chance or on those before it, not even where it draws without a seed of its own."""
    torch.manual_seed(0)
