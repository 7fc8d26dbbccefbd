"""The fused steps of the Triton kernel, in the interpreter: the reference's bits. Started by test_interpreted.py."""

import itertools

import pytest
import torch
from bad_arguments import BAD, BAD_TARGETS, arguments, check_refused, reperturb_arguments
from covering import covering
from interpreter import rounding_of_bfloat16  # noqa: F401
from step_checks import (
    change_turns,
    check_versions,
    columns_of,
    misalign,
    record_of,
    run_reperturb,
    spread,
    transpose,
)
from steps import RULES, arguments_of, assert_same, hyper_of, make_lists, run

from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.ops.step import reperturb_, step_

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
#: One tensor that fits in a tile, one that does not, a scalar and nothing at all.
SIZES = [(0,), (129,), (), (7, 150)]
CODES = list(DISTRIBUTIONS.values())


def compare(lists, name, **others):
    reference = run(lists, name, backend="reference", **others)
    assert_same(run(lists, name, backend="triton", **others), reference, (name, others))
    return reference


@pytest.mark.parametrize(
    "name, dtype, masters, keep_noise", covering(RULES, DTYPES, (False, True), (False, True)), ids=str
)
def test_every_rule_and_storage(name, dtype, masters, keep_noise):
    lists = make_lists(SIZES, name, dtype, masters, offsets=[0, 100, 5, 2**33 + 77])
    compare(lists, name, keep_noise=keep_noise)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_every_noise(masters):
    lists = make_lists([(300,)], "momentum", torch.float32, masters, offsets=[55])
    for distribution, old_distribution in itertools.product(CODES, CODES):
        compare(lists, "momentum", distribution=distribution, old_distribution=old_distribution)
    for scale, old_scale in ((0.0, 0.1), (0.05, 0.0), (0.0, 0.0), (-1e-3, 1e-30), (1e-60, 1e-60)):
        compare(lists, "momentum", scale=scale, old_scale=old_scale)


@pytest.mark.parametrize(
    "step, dtype, masters, name", covering((4, 5, 6, 7), DTYPES, (False, True), ("sgd", "adamw")), ids=str
)
def test_cycles(step, dtype, masters, name):
    """Every turn goes on and comes off, also as another turn of the draw that goes on."""
    lists = make_lists(SIZES, name, dtype, masters, step=step, offsets=[0, 100, 5, 2**33 + 77])
    compare(lists, name, cycle=True, old_cycle=True)


def test_changes_in_the_middle_of_a_cycle():
    lists = make_lists([(300,)], "momentum", torch.float32, False, step=5, offsets=[55])
    for distribution, old_distribution in itertools.product(CODES, CODES):
        given = dict(distribution=distribution, old_distribution=old_distribution)
        compare(lists, "momentum", cycle=True, old_cycle=True, **given)
    for scale, old_scale in ((0.0, 0.1), (0.05, 0.0), (-1e-3, 1e-30)):
        compare(lists, "momentum", cycle=True, old_cycle=True, scale=scale, old_scale=old_scale)
    compare(lists, "momentum", cycle=False, old_cycle=True)
    compare(lists, "momentum", cycle=True, old_cycle=False)
    compare(lists, "momentum", cycle=True, old_cycle=True, denoise_every=3)
    for late in (2**34 + 1, 2**40 + 2):
        lists = make_lists([(300,)], "adam", torch.float32, False, step=late)
        compare(lists, "adam", cycle=True, old_cycle=True)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_reperturb_turns(masters):
    for dtype, distribution in itertools.product((torch.float32, torch.float64), CODES):
        expected = change_turns(dtype, masters, distribution, "reference")
        assert_same(change_turns(dtype, masters, distribution, "triton"), expected)


def test_mixed_records_and_first_gradients():
    """What differs from tensor to tensor within one launch; two of them share a counter."""
    lists = make_lists([(200,), (40,), (1500,), (0,)], "momentum", torch.float32, False)
    lists["states"][1].fill_(float("nan"))
    lists["records"] = [
        record_of(200, 0.0, rule_steps=3, stream=2**32 - 1), record_of(40, 0.3, 2**63 - 1, 2, step=2**40),
        record_of(1500, 0.1, -(2**63), 1, rule_steps=1), record_of(0, 0.1, rule_steps=1),
    ]  # fmt: skip
    left = []
    for backend in ("triton", "reference"):
        copies = {k: [x.clone() if isinstance(x, torch.Tensor) else x for x in v] for k, v in lists.items()}
        copies["steps"][2] = copies["steps"][0]
        given = arguments_of("momentum", copies, dampening=0.3, distribution=1)
        step_(given, backend=backend)
        left.append({k: v for k, v in copies.items() if v and isinstance(v[0], torch.Tensor)})
    assert_same(*left)


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_denoise_every(name):
    compare(make_lists([(300,), (40,)], name, torch.float32, False), name, denoise_every=3)


@pytest.mark.parametrize("name", RULES)
def test_hyper_parameters_and_scales_from_tensors(name):
    lists = make_lists([(300,), (40,)], name, torch.float32, False)
    tensors = dict(
        hyper_tensor=torch.tensor(hyper_of(*RULES[name]), dtype=torch.float64),
        scale_tensors=[torch.tensor(0.25), torch.tensor([0.0])],
    )
    compare(lists, name, lr=7.0, scale=3.0, **tensors)


@pytest.mark.parametrize("step", [0, 1000, 2**31 + 3, 2**40])
def test_late_steps(step):
    """Bias corrections and draws at every size of the counter."""
    for name in ("nesterov", "adamw"):
        compare(make_lists([(300,), (40,)], name, torch.float64, False, step=step), name)


def test_many_tensors_and_several_programs():
    sizes = [(3,), (20_000,), (0,), (129, 7)] + [(13,)] * 20
    lists = make_lists(sizes, "adam", torch.float32, False, offsets=[i * 37 for i in range(len(sizes))])
    compare(lists, "adam")


@pytest.mark.parametrize("lay_out", [misalign, transpose, spread])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_strides_and_alignment(lay_out, masters):
    for dtype in (torch.float32, torch.bfloat16):
        compare(make_lists([(7, 3, 5, 5), (9, 31), (0, 4)], "adam", dtype, masters, lay_out), "adam")


def test_a_shard_gets_its_place():
    whole = make_lists([(1000,)], "momentum", torch.float32, False, offsets=[2**33 + 77])
    full = compare(whole, "momentum")
    for begin, end in ((0, 1), (5, 900), (128, 256), (999, 1000)):
        part = {k: [x[begin:end] for x in whole[k]] for k in ("params", "grads", "states")}
        shard = compare({**whole, **part, "offsets": [2**33 + 77 + begin]}, "momentum")
        assert torch.equal(shard["params"][0], full["params"][0][begin:end])


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_a_shard_of_columns_gets_its_place(masters):
    whole = make_lists([(5, 300), (20, 9)], "adam", torch.float32, masters, offsets=[0, 2**33 + 77])
    part, runs = columns_of(whole, 2, 9)
    compare(part, "adam", **runs)
    mixed = {"run_lengths": [7, 0], "run_strides": [300, 0]}
    compare(part, "adam", **mixed)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_scaling(dtype, masters):
    for name in ("nesterov first decay", "adamw"):
        lists = make_lists(SIZES, name, dtype, masters)
        for found_inf in (torch.zeros(()), torch.ones(1)):
            compare(lists, name, grad_scale=torch.tensor([3.0]), found_inf=found_inf)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reperturb(dtype, masters):
    lists = make_lists(SIZES, "momentum", dtype, masters, offsets=[0, 3, 4, 5])
    assert_same(run_reperturb(lists, "triton"), run_reperturb(lists, "reference"))


def test_nothing_off_and_nothing_on_writes_no_weights():
    from nvrm_fast.contract.arguments import ReperturbArguments

    params, records, targets = [torch.ones(5)], [record_of(5)], [record_of(5, stream=9)]
    reperturb_(ReperturbArguments(params, [torch.zeros(5)], records, targets, [0]), backend="triton")
    assert torch.equal(params[0], torch.ones(5)) and records[0].tolist() == targets[0].tolist()


@pytest.mark.parametrize("special", [float("inf"), float("nan"), -0.0, 1e-42])
def test_special_gradients(special):
    for name in ("momentum", "adam"):
        lists = make_lists([(200,)], name, torch.float32, False)
        lists["grads"][0][7] = special
        a, b = (run(lists, name, backend=backend) for backend in ("triton", "reference"))
        for key in a:
            assert all(torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)) for x, y in zip(a[key], b[key])), key


@pytest.mark.parametrize("name, spoil, error, message", BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_bad_arguments_leave_everything_as_it_was(name, spoil, error, message):
    check_refused(step_, arguments(), name, spoil, error, message, "triton")


@pytest.mark.parametrize(
    "name, spoil, error, message", BAD_TARGETS, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD_TARGETS)]
)
def test_bad_targets_leave_everything_as_it_was(name, spoil, error, message):
    check_refused(reperturb_, reperturb_arguments(), name, spoil, error, message, "triton")


def test_autograd_hears_of_the_write():
    check_versions("triton")


def test_optimizers_train_alike():
    """Through the public classes, with a schedule of the noise, a late gradient and denoise()."""
    import nvrm_fast

    left = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(70, 3)), torch.nn.Parameter(torch.randn(5))]
        optimizer = nvrm_fast.NVRMAdamW(params, variability=0.02, noise="laplace", seed=4, backend=backend)
        for i in range(4):
            params[0].grad = torch.full_like(params[0], 0.1 * i)
            params[1].grad = None if i == 0 else torch.ones_like(params[1])
            optimizer.param_groups[0]["variability"] = 0.02 / (i + 1)
            optimizer.step()
        noisy = [p.detach().clone() for p in params]
        optimizer.denoise()
        left.append({"noisy": noisy, "clean": [p.detach() for p in params]})
    assert_same(*left)
