"""The fused steps: native and reference leave the same bits, whatever the options, dtypes, sizes and strides."""

import pytest
import torch
from native import each_instruction_set
from steps import ADAM_DEFAULTS, RULES, SGD_DEFAULTS, assert_same, full_options, make_lists, run

from nvrm_fast import noise, ops
from nvrm_fast.reference import DISTRIBUTIONS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = [(0,), (1,), (15,), (16,), (17,), (127,), (128,), (129,), (), (3, 5, 7)]
CODES = {name: code for name, (code, _) in DISTRIBUTIONS.items()}


def compare(lists, rule, options, **noise_options):
    reference = run(lists, rule, options, backend="reference", **noise_options)
    for name in each_instruction_set():
        native = run(lists, rule, options, backend="native", **noise_options)
        assert_same(native, reference, (name, rule, options, noise_options))
    return reference


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_and_storage(name, dtype, masters):
    rule, options = full_options(name)
    lists = make_lists(SIZES, rule, dtype, masters, options)
    for keep_noise in (False, True):
        compare(lists, rule, options, keep_noise=keep_noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adam_after_any_number_of_steps(dtype):
    """The bias corrections are the reference's, in float64 to the last bit."""
    for betas in (dict(beta1=0.9, beta2=0.999), dict(beta1=0.95, beta2=0.9999), dict(beta1=0.0, beta2=0.5)):
        options = {**ADAM_DEFAULTS, **betas}
        for step in (0, 1, 5, 6, 98, 999, 12_345, 999_999, 10**7 - 1, 10**7, 2**31 + 3):
            compare(make_lists([(40,), (9,)], "adam", dtype, False, options, step=step), "adam", options)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_every_noise(distribution, masters):
    lists = make_lists(SIZES, "adam", torch.float32, masters, ADAM_DEFAULTS)
    for coat_distribution in CODES.values():
        for scale, coat_scale in ((0.05, 0.1), (0.0, 0.1), (0.05, 0.0), (0.0, 0.0), (-1e-3, 1e-30), (1e-60, 1e-60)):
            compare(
                lists, "adam", ADAM_DEFAULTS, distribution=CODES[distribution], coat_distribution=coat_distribution,
                scale=scale, coat_scale=coat_scale,
            )  # fmt: skip


@pytest.mark.parametrize("size", [4097, 65535, 65536, 65537])
def test_large_sizes(size):
    lists = make_lists([(size,), (3,), (size,)], "adam", torch.float32, False, ADAM_DEFAULTS)
    compare(lists, "adam", ADAM_DEFAULTS)


def test_masters_that_outgrow_the_caches():
    """Beyond 4 Mi elements parameters are written past the caches, by other instructions."""
    lists = make_lists([(2_100_000,), (2_100_001,), (77,)], "sgd", torch.float32, True, SGD_DEFAULTS)
    compare(lists, "sgd", SGD_DEFAULTS)


def misalign(x):
    """The same values one element after an aligned address."""
    storage = torch.empty(x.numel() + 1, dtype=x.dtype)
    return storage[1:].copy_(x.flatten()).view(x.shape)


def channels_last(x):
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def transpose(x):
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else x


def spread(x):
    """Every third element of a larger tensor, in every dimension: strides that never merge."""
    storage = torch.empty(*(3 * s for s in x.shape), dtype=x.dtype)
    view = storage[tuple(slice(None, None, 3) for _ in x.shape)]
    return view.copy_(x)


def huge_stride(x):
    """Columns 2^20 elements apart."""
    if x.shape != (128, 2):
        return x
    storage = torch.empty(x.shape[1] * 2**20, dtype=x.dtype)
    return storage.as_strided(x.shape, (1, 2**20)).copy_(x)


@pytest.mark.parametrize("lay_out", [misalign, channels_last, transpose, spread, huge_stride])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_strides_and_alignment(lay_out, masters):
    sizes = [(7, 3, 5, 5), (9, 31), (128, 2), (1, 1, 1, 1), (300,), (0, 4), (1, 260)]
    for dtype in (torch.float32, torch.bfloat16):
        lists = make_lists(sizes, "adam", dtype, masters, ADAM_DEFAULTS, lay_out)
        left = compare(lists, "adam", ADAM_DEFAULTS)
        # Strides change where elements lie, never which noise they get.
        plain = make_lists(sizes, "adam", dtype, masters, ADAM_DEFAULTS)
        assert_same(left, run(plain, "adam", ADAM_DEFAULTS, backend="native"), lay_out)


def test_gradient_and_parameter_with_different_strides():
    lists = make_lists([(6, 4, 3, 3), (40, 30)], "sgd", torch.float32, False, SGD_DEFAULTS)
    plain = run(lists, "sgd", SGD_DEFAULTS, backend="native")
    lists["grads"] = [transpose(grad) for grad in lists["grads"]]
    assert_same(compare(lists, "sgd", SGD_DEFAULTS), plain)


@pytest.mark.parametrize("offset", [1, 100, 128, 2**33 + 77])
def test_a_shard_gets_its_place(offset):
    """A slice of a parameter, told its offset, ends as the slice of the whole parameter."""
    rule, options = "sgd", SGD_DEFAULTS
    whole = make_lists([(1000,)], rule, torch.float32, False, options, offsets=[offset])
    full = compare(whole, rule, options)
    for begin, end in ((0, 1), (5, 900), (128, 256), (999, 1000)):
        part = {k: [x[begin:end] if x.dim() else x for x in v] for k, v in whole.items() if k not in NOT_TENSORS}
        part = {**whole, **part, "offsets": [offset + begin]}
        shard = compare(part, rule, options)
        for name in ("params", "momentum_buffers"):
            assert torch.equal(shard[name][0], full[name][0][begin:end])


def columns_of(lists, begin, end):
    """The lists of a shard that holds some columns of each (matrix) parameter, and its runs."""
    shapes = [x.shape for x in lists["params"]]
    part = {
        k: [x[:, begin:end].contiguous() if x.dim() == 2 else x for x in v] if k not in NOT_TENSORS else v
        for k, v in lists.items()
    }
    if lists["masters"]:
        part["masters"] = [x[:, begin:end].contiguous() for x in lists["masters"]]
    part["offsets"] = [offset + begin for offset in lists["offsets"]]
    return part, dict(run_lengths=[end - begin] * len(shapes), run_strides=[shape[1] for shape in shapes])


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("name", ["nesterov", "amsgrad adamw"])
def test_a_shard_of_columns_gets_its_place(name, masters):
    """What torch.distributed calls Shard(1): the shard lies in runs in its full tensor."""
    rule, options = full_options(name)
    whole = make_lists([(7, 300), (130, 9)], rule, torch.float32, masters, options, offsets=[0, 2**33 + 77])
    full = compare(whole, rule, options)
    for begin, end in ((0, 1), (2, 9), (0, 9)):
        part, runs = columns_of(whole, begin, end)
        shard = compare(part, rule, options, **runs)
        for key, tensors in shard.items():
            if key != "steps":
                assert all(torch.equal(a, b[:, begin:end]) for a, b in zip(tensors, full[key])), key


def test_a_shard_of_columns_changes_its_coat():
    full, part = torch.zeros(5, 300), torch.zeros(5, 130)
    coat = ([torch.tensor(3)], [7])
    ops.change_coat_([full], [], *coat, [0], [0.5], 1, 0, [0.0], 0, 0)
    for backend in ("reference", "native"):
        part.zero_()
        ops.change_coat_([part], [], *coat, [150], [0.5], 1, 0, [0.0], 0, 0, [130], [300], backend=backend)
        assert torch.equal(part, full[:, 150:280])


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["nesterov first decay", "adamw"])
def test_gradient_scaling(name, dtype, masters):
    """grad_scale divides; found_inf stops everything, the counters included."""
    rule, options = full_options(name)
    lists = make_lists(SIZES, rule, dtype, masters, options)
    scale = torch.tensor([3.0])
    scaled = compare(lists, rule, options, grad_scale=scale, found_inf=torch.zeros(()))
    if dtype in (torch.float32, torch.float64):  # elsewhere the quotient would be rounded
        divided = {**lists, "grads": [x / 3.0 for x in lists["grads"]]}
        left = run(divided, rule, options, backend="native")
        assert_same({**scaled, "grads": []}, {**left, "grads": []})
    for grad_scale in (scale, None):
        skipped = compare(lists, rule, options, grad_scale=grad_scale, found_inf=torch.ones(1))
        assert_same(skipped, {k: lists[k] for k in skipped})


NOT_TENSORS = ("streams", "offsets", "masters")


def test_threads_change_nothing(threads):
    lists = make_lists([(50_000,), (3,), (), (129, 77)] + [(13,)] * 50, "adam", torch.float32, False, ADAM_DEFAULTS)
    results = []
    for count in (1, 2, 7):
        threads(count)
        results.append(run(lists, "adam", ADAM_DEFAULTS, backend="native"))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_what_a_step_does():
    """The three lines of the contract, with noise() for the coats."""
    lists = make_lists([(1000,)], "sgd", torch.float32, False, SGD_DEFAULTS, step=41)
    after = run(lists, "sgd", SGD_DEFAULTS, backend="native", scale=0.25, coat_scale=0.5)
    where = dict(stream=lists["streams"][0])
    clean = lists["params"][0] - noise(1000, seed=2**64 - 12, step=41, scale=0.5, **where)
    buffer = torch.tensor(0.9) * lists["momentum_buffers"][0] + lists["grads"][0]
    clean = clean - torch.tensor(0.1) * buffer
    assert torch.equal(after["params"][0], clean + noise(1000, seed=11, step=42, scale=0.25, **where))
    assert torch.equal(after["momentum_buffers"][0], buffer)
    assert int(after["steps"][0]) == 42


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_change_coat(backend, dtype, masters):
    lists = make_lists(SIZES, "sgd", dtype, masters, {**SGD_DEFAULTS, "momentum": 0.0})
    n = len(SIZES)
    params, masters_list, steps = ([x.clone() for x in lists[k]] for k in ("params", "masters", "steps"))
    before = [int(step) for step in steps]
    ops.change_coat_(
        params, masters_list, steps, lists["streams"], lists["offsets"], [0.5] * n, 3, 1, [0.25] * n, 4, 2,
        backend=backend,
    )  # fmt: skip
    assert [int(step) for step in steps] == before
    for i, (old, new) in enumerate(zip(lists["params"], params)):
        where = dict(stream=lists["streams"][i], step=before[i])
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        off = noise(old.numel(), seed=4, distribution="laplace", scale=0.25, **where).view(old.shape)
        on = noise(old.numel(), seed=3, distribution="uniform", scale=0.5, **where).view(old.shape)
        clean = lists["masters"][i] if masters else old.to(wide) - off.to(wide)
        assert torch.equal(new, (clean + on.to(wide)).to(dtype))
        if masters:
            assert torch.equal(masters_list[i], lists["masters"][i])


def test_empty_lists_and_infinite_gradients():
    for rule, options in (("sgd", SGD_DEFAULTS), ("adam", ADAM_DEFAULTS)):
        lists = make_lists([], rule, torch.float32, False, options)
        arguments = [[], 0, 0, [], 0, 0, False]
        operator = getattr(torch.ops.nvrm_fast, f"{rule}_step_")
        hyper = {**options, "is_first": []} if rule == "sgd" else options
        operator(*lists.values(), *arguments, *hyper.values())
    lists = make_lists([(200,)], "adam", torch.float32, False, ADAM_DEFAULTS)
    lists["grads"][0][7] = float("inf")
    after = run(lists, "adam", ADAM_DEFAULTS, backend="native")
    assert after["params"][0].isnan().nonzero().flatten().tolist() == [7]


def check_versions(backend):
    """Whoever saved a tensor for backward hears that it was overwritten."""
    for masters in (False, True):
        lists = make_lists([(5,), (2, 70)], "sgd", torch.float32, masters, SGD_DEFAULTS)
        written = [*lists["params"], *lists["masters"], *lists["momentum_buffers"]]
        before = [x._version for x in written]
        noise = [[0.1] * 2, 1, 0, [0.1] * 2, 1, 0, False]
        hyper = {**SGD_DEFAULTS, "is_first": [False] * 2}
        ops.sgd_step_(*lists.values(), *noise, *hyper.values(), backend=backend)
        assert all(x._version > version for x, version in zip(written, before))
        before = [x._version for x in lists["params"]]
        coat = [lists["steps"], [0, 1], [0, 0], [0.1] * 2, 1, 0, [0.1] * 2, 1, 0]
        ops.change_coat_(lists["params"], lists["masters"], *coat, backend=backend)
        assert all(x._version > version for x, version in zip(lists["params"], before))
    with torch.inference_mode():
        own = torch.zeros(3)
        ops.change_coat_([own], [], [torch.tensor(3)], [7], [0], [0.5], 1, 0, [0.0], 0, 0, backend=backend)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_autograd_hears_of_the_write(backend):
    check_versions(backend)
