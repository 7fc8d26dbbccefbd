"""The fused steps of the Triton kernel, in the interpreter: the reference's bits. Started by test_interpreted.py."""

import itertools

import pytest
import torch
from interpreter import rounding_of_bfloat16  # noqa: F401
from steps import ADAM_DEFAULTS, RULES, SGD_DEFAULTS, assert_same, full_options, make_lists, run
from test_ops import BAD, arguments, call
from test_step import check_versions, columns_of, misalign, spread, transpose

from nvrm_fast import ops
from nvrm_fast.reference import DISTRIBUTIONS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
#: One tensor that fits in a tile, one that does not, a scalar and nothing at all.
SIZES = [(0,), (129,), (), (7, 150)]
CODES = [code for code, _ in DISTRIBUTIONS.values()]


def compare(lists, rule, options, **noise_options):
    reference = run(lists, rule, options, backend="reference", **noise_options)
    assert_same(run(lists, rule, options, backend="triton", **noise_options), reference, (rule, options, noise_options))
    return reference


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_and_storage(name, dtype, masters):
    rule, options = full_options(name)
    lists = make_lists(SIZES, rule, dtype, masters, options, offsets=[0, 100, 5, 2**33 + 77])
    for keep_noise in (False, True):
        compare(lists, rule, options, keep_noise=keep_noise)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_every_noise(masters):
    lists = make_lists([(300,)], "sgd", torch.float32, masters, SGD_DEFAULTS, offsets=[55])
    for distribution, coat_distribution in itertools.product(CODES, CODES):
        compare(lists, "sgd", SGD_DEFAULTS, distribution=distribution, coat_distribution=coat_distribution)
    for scale, coat_scale in ((0.0, 0.1), (0.05, 0.0), (0.0, 0.0), (-1e-3, 1e-30), (1e-60, 1e-60)):
        compare(lists, "sgd", SGD_DEFAULTS, scale=scale, coat_scale=coat_scale)


def test_mixed_scales_and_first_gradients():
    """What differs from tensor to tensor within one launch."""
    lists = make_lists([(200,), (40,), (1500,)], "sgd", torch.float32, False, SGD_DEFAULTS)
    lists["momentum_buffers"][1].fill_(float("nan"))
    left = []
    for backend in ("triton", "reference"):
        copies = {k: [x.clone() for x in v] if v and isinstance(v[0], torch.Tensor) else v for k, v in lists.items()}
        hyper = {**SGD_DEFAULTS, "dampening": 0.3, "is_first": [False, True, False]}
        noise = [[0.1, 0.0, 0.2], 11, 0, [0.0, 0.3, 0.1], -12, 2, False]
        ops.sgd_step_(*copies.values(), *noise, *hyper.values(), backend=backend)
        left.append({k: v for k, v in copies.items() if v and isinstance(v[0], torch.Tensor)})
    assert_same(*left)


def test_many_tensors_and_several_programs():
    sizes = [(3,), (20_000,), (0,), (129, 7)] + [(13,)] * 20
    lists = make_lists(sizes, "adam", torch.float32, False, ADAM_DEFAULTS, offsets=[i * 37 for i in range(len(sizes))])
    compare(lists, "adam", ADAM_DEFAULTS)


@pytest.mark.parametrize("lay_out", [misalign, transpose, spread])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_strides_and_alignment(lay_out, masters):
    for dtype in (torch.float32, torch.bfloat16):
        lists = make_lists([(7, 3, 5, 5), (9, 31), (0, 4)], "adam", dtype, masters, ADAM_DEFAULTS, lay_out)
        compare(lists, "adam", ADAM_DEFAULTS)


def test_a_shard_gets_its_place():
    whole = make_lists([(1000,)], "sgd", torch.float32, False, SGD_DEFAULTS, offsets=[2**33 + 77])
    full = compare(whole, "sgd", SGD_DEFAULTS)
    for begin, end in ((0, 1), (5, 900), (128, 256), (999, 1000)):
        part = {
            k: [x[begin:end] for x in v] if k in ("params", "grads", "momentum_buffers") else v
            for k, v in whole.items()
        }
        shard = compare({**part, "offsets": [2**33 + 77 + begin]}, "sgd", SGD_DEFAULTS)
        assert torch.equal(shard["params"][0], full["params"][0][begin:end])


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_a_shard_of_columns_gets_its_place(masters):
    whole = make_lists([(5, 300), (130, 9)], "adam", torch.float32, masters, ADAM_DEFAULTS, offsets=[0, 2**33 + 77])
    part, runs = columns_of(whole, 2, 9)
    compare(part, "adam", ADAM_DEFAULTS, **runs)
    mixed = {"run_lengths": [7, 0], "run_strides": [300, 0]}
    compare(part, "adam", ADAM_DEFAULTS, **mixed)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_scaling(dtype, masters):
    for name in ("nesterov first decay", "adamw"):
        rule, options = full_options(name)
        lists = make_lists(SIZES, rule, dtype, masters, options)
        for found_inf in (torch.zeros(()), torch.ones(1)):
            compare(lists, rule, options, grad_scale=torch.tensor([3.0]), found_inf=found_inf)


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_change_coat(dtype, masters):
    lists = make_lists(SIZES, "sgd", dtype, masters, {**SGD_DEFAULTS, "momentum": 0.0}, offsets=[0, 3, 4, 5])
    n = len(SIZES)
    left = []
    for backend in ("triton", "reference"):
        params, own_masters, steps = ([x.clone() for x in lists[k]] for k in ("params", "masters", "steps"))
        ops.change_coat_(
            params, own_masters, steps, lists["streams"], lists["offsets"], [0.5] * n, 3, 1, [0.25] * n, 4, 2,
            backend=backend,
        )  # fmt: skip
        left.append({"params": params, "masters": own_masters, "steps": steps})
    assert_same(*left)


@pytest.mark.parametrize("special", [float("inf"), float("nan"), -0.0, 1e-42])
def test_special_gradients(special):
    for rule, options in (("sgd", SGD_DEFAULTS), ("adam", ADAM_DEFAULTS)):
        lists = make_lists([(200,)], rule, torch.float32, False, options)
        lists["grads"][0][7] = special
        a, b = (run(lists, rule, options, backend=backend) for backend in ("triton", "reference"))
        for name in a:
            assert all(torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)) for x, y in zip(a[name], b[name])), name


@pytest.mark.parametrize("name, spoil, error, message", BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)])
def test_bad_arguments_leave_everything_as_it_was(name, spoil, error, message):
    named = arguments("adam")
    named[name] = spoil(named[name])
    tensors = [x for v in named.values() if isinstance(v, list) for x in v if isinstance(x, torch.Tensor)]
    dense = [x for x in tensors if x.layout == torch.strided]
    before = [x.clone() for x in dense]
    with pytest.raises(error, match=message):
        call("adam", named, "triton")
    assert all(torch.equal(a, b) for a, b in zip(before, dense))


def test_autograd_hears_of_the_write():
    check_versions("triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_counters_and_bias_corrections_on_the_device(dtype, monkeypatch):
    """The path of counters that lie on the GPU, with memory of the CPU in its place."""
    from nvrm_fast.triton import step

    def on_device(steps, device):
        return {"step": [0] * len(steps), "step_pointer": [s.data_ptr() for s in steps]}

    monkeypatch.setattr(step, "_counter_columns", on_device)
    for done in (0, 5, 1000, 10**7, 2**31 + 3):
        for (rule, options), found_inf in itertools.product(
            (("sgd", SGD_DEFAULTS), ("adam", ADAM_DEFAULTS)), (None, torch.zeros(()), torch.ones(()))
        ):
            lists = make_lists([(300,), (40,)], rule, dtype, False, options, step=done)
            compare(lists, rule, options, found_inf=found_inf)


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
