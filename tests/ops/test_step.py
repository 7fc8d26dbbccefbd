"""The fused steps: native and reference leave the same bits, whatever the options, dtypes, sizes and strides."""

import pytest
import torch
from covering import covering
from native import each_instruction_set
from step_checks import (
    ELEMENTS,
    change_turns,
    check_versions,
    columns_of,
    misalign,
    record_of,
    run_reperturb,
    spread,
    transpose,
)
from steps import NEW_SEED, RULES, arguments_of, assert_same, hyper_of, make_lists, run, with_noise

from nvrm_fast import noise
from nvrm_fast.contract.arguments import ReperturbArguments
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.contract.record import Record, pack
from nvrm_fast.ops.step import reperturb_, step_

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = [(0,), (1,), (15,), (16,), (17,), (127,), (128,), (129,), (), (3, 5, 7)]


def compare(lists, name, **others):
    reference = run(lists, name, backend="reference", **others)
    for instruction_set in each_instruction_set():
        assert_same(run(lists, name, backend="native", **others), reference, (instruction_set, name, others))
    return reference


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_and_storage(name, dtype, masters):
    lists = make_lists(SIZES, name, dtype, masters)
    for keep_noise in (False, True):
        compare(lists, name, keep_noise=keep_noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adam_after_any_number_of_steps(dtype):
    """The bias corrections are the reference's, in float64 to the last bit."""
    for betas in (dict(beta1=0.9, beta2=0.999), dict(beta1=0.95, beta2=0.9999), dict(beta1=0.0, beta2=0.5)):
        for step in (0, 1, 5, 6, 98, 999, 12_345, 999_999, 10**7 - 1, 10**7, 2**31 + 3):
            compare(make_lists([(40,), (9,)], "adam", dtype, False, step=step), "adam", **betas)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_every_noise(distribution, masters):
    lists = make_lists(SIZES, "adam", torch.float32, masters)
    for old_distribution in DISTRIBUTIONS.values():
        for scale, old_scale in ((0.05, 0.1), (0.0, 0.1), (0.05, 0.0), (0.0, 0.0), (-1e-3, 1e-30), (1e-60, 1e-60)):
            compare(
                lists, "adam", distribution=DISTRIBUTIONS[distribution], old_distribution=old_distribution,
                scale=scale, old_scale=old_scale,
            )  # fmt: skip


@pytest.mark.parametrize("size", [4097, 65535, 65536, 65537])
def test_large_sizes(size):
    lists = make_lists([(size,), (3,), (size,)], "adam", torch.float32, False)
    compare(lists, "adam")


def test_masters_that_outgrow_the_caches():
    """Beyond 4 Mi elements parameters are written past the caches, by other instructions."""
    lists = make_lists([(2_100_000,), (2_100_001,), (77,)], "momentum", torch.float32, True)
    compare(lists, "momentum")


def channels_last(x):
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


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
        lists = make_lists(sizes, "adam", dtype, masters, lay_out)
        left = compare(lists, "adam")
        # Strides change where elements lie, never which noise they get.
        plain = make_lists(sizes, "adam", dtype, masters)
        assert_same(left, run(plain, "adam", backend="native"), lay_out)


def test_gradient_and_parameter_with_different_strides():
    lists = make_lists([(6, 4, 3, 3), (40, 30)], "momentum", torch.float32, False)
    plain = run(lists, "momentum", backend="native")
    lists["grads"] = [transpose(grad) for grad in lists["grads"]]
    assert_same(compare(lists, "momentum"), plain)


@pytest.mark.parametrize("offset", [1, 100, 128, 2**33 + 77])
def test_a_shard_gets_its_place(offset):
    """A slice of a parameter, told its offset, ends as the slice of the whole parameter."""
    whole = make_lists([(1000,)], "momentum", torch.float32, False, offsets=[offset])
    full = compare(whole, "momentum")
    for begin, end in ((0, 1), (5, 900), (128, 256), (999, 1000)):
        part = {k: [x[begin:end] for x in whole[k]] for k in ELEMENTS}
        shard = compare({**whole, **part, "offsets": [offset + begin]}, "momentum")
        for name in ("params", "states"):
            assert torch.equal(shard[name][0], full[name][0][begin:end])


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("name", ["nesterov", "amsgrad adamw"])
def test_a_shard_of_columns_gets_its_place(name, masters):
    """What torch.distributed calls Shard(1): the shard lies in runs in its full tensor."""
    whole = make_lists([(7, 300), (30, 9)], name, torch.float32, masters, offsets=[0, 2**33 + 77])
    full = compare(whole, name)
    for begin, end in ((0, 1), (2, 9), (0, 9)):
        part, runs = columns_of(whole, begin, end)
        shard = compare(part, name, **runs)
        for key in ELEMENTS:
            assert all(torch.equal(a, b[:, begin:end]) for a, b in zip(shard.get(key, []), full.get(key, []))), key


def test_a_shard_of_columns_changes_its_noise():
    full, part = torch.zeros(5, 300), torch.zeros(5, 130)
    target = record_of(1500, 0.5, seed=1)
    reperturb_(ReperturbArguments([full], [], [record_of(1500)], [target], [0]))
    for backend in ("reference", "native"):
        part.zero_()
        arguments = ReperturbArguments(
            [part], [], [record_of(1500)], [target], [150], run_lengths=[130], run_strides=[300]
        )
        reperturb_(arguments, backend=backend)
        assert torch.equal(part, full[:, 150:280])


@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["nesterov first decay", "adamw"])
def test_gradient_scaling(name, dtype, masters):
    """grad_scale divides; found_inf stops everything, counters and records included."""
    lists = make_lists(SIZES, name, dtype, masters)
    scale = torch.tensor([3.0])
    scaled = compare(lists, name, grad_scale=scale, found_inf=torch.zeros(()))
    if dtype in (torch.float32, torch.float64):  # elsewhere the quotient would be rounded
        divided = {**lists, "grads": [x / 3.0 for x in lists["grads"]]}
        left = run(divided, name, backend="native")
        assert_same({**scaled, "grads": []}, {**left, "grads": []})
    for grad_scale in (scale, None):
        skipped = compare(lists, name, grad_scale=grad_scale, found_inf=torch.ones(1))
        before = with_noise(lists)
        assert_same(skipped, {k: before[k] for k in skipped})


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_denoise_every(name):
    """Counters say whose weights are left clean: at 5 and 6 done, those that are at their sixth step."""
    lists = make_lists([(300,), (40,)], name, torch.float32, False)
    left, plain = compare(lists, name, denoise_every=3), run(lists, name, backend="reference")
    clean = run(lists, name, backend="reference", scale=0.0)
    assert torch.equal(left["params"][0], clean["params"][0]) and int(left["records"][0][0]) == 0
    assert torch.equal(left["params"][1], plain["params"][1])
    assert torch.equal(left["records"][1], plain["records"][1])


@pytest.mark.parametrize("name", RULES)
def test_hyper_parameters_and_scales_from_tensors(name):
    """The same numbers in tensors leave the same bits, whatever stands in their places."""
    lists = make_lists([(300,), (40,)], name, torch.float32, False)
    plain = run(lists, name, backend="reference", scale=0.25)
    rule, options = RULES[name]
    tensors = dict(
        hyper_tensor=torch.tensor(hyper_of(rule, options), dtype=torch.float64),
        scale_tensors=[torch.tensor(0.25), torch.tensor([0.25])],
    )
    assert_same(compare(lists, name, lr=7.0, scale=3.0, **tensors), plain)


#: Steps done: the next puts on the second turn of a draw, the third, the fourth, and the first of another draw.
IN_A_CYCLE = (4, 5, 6, 7)


@pytest.mark.parametrize(
    "name, dtype, masters, step",
    covering(("sgd", "nesterov first decay", "adamw", "amsgrad", "lion"), DTYPES, (False, True), IN_A_CYCLE),
    ids=str,
)
def test_cycles(name, dtype, masters, step):
    """Every turn goes on and comes off; where what comes off is another turn of the draw that goes on, too."""
    lists = make_lists(SIZES, name, dtype, masters, step=step, offsets=[37 * i for i in range(len(SIZES))])
    compare(lists, name, cycle=True, old_cycle=True)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values())
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_changes_in_the_middle_of_a_cycle(distribution, masters):
    """Of scale, law and option, and steps that leave the weights clean."""
    for step in IN_A_CYCLE:
        lists = make_lists([(300,), (3, 50)], "momentum", torch.float32, masters, step=step, offsets=[0, 77])
        for old_distribution in DISTRIBUTIONS.values():
            compare(
                lists, "momentum", cycle=True, old_cycle=True, distribution=distribution,
                old_distribution=old_distribution,
            )  # fmt: skip
        same = dict(distribution=distribution, old_distribution=distribution)
        for scale, old_scale in ((0.05, 0.5), (0.0, 0.1), (0.05, 0.0), (-1e-3, 1e-30), (1e-60, 1e-60)):
            compare(lists, "momentum", cycle=True, old_cycle=True, scale=scale, old_scale=old_scale, **same)
        compare(lists, "momentum", cycle=False, old_cycle=True, **same)
        compare(lists, "momentum", cycle=True, old_cycle=False, **same)
        compare(lists, "momentum", cycle=True, old_cycle=True, denoise_every=step + 1, **same)
        compare(lists, "momentum", cycle=True, old_cycle=True, found_inf=torch.ones(1), **same)


def test_late_cycles():
    """Draws and turns at every size of the counter, and where the draw's number outgrows 32 bits."""
    for step in (2**31 + 3, 2**34 + 1, 2**40 + 2):
        compare(make_lists([(300,)], "adam", torch.float32, False, step=step), "adam", cycle=True, old_cycle=True)


def test_what_a_cycle_is():
    """(x, y), (-y, x), (-x, -y), (y, -x), of the two elements of a word, which lie 16 apart."""
    element = torch.arange(1000)
    partner = element ^ 16
    for name in DISTRIBUTIONS:
        draw = noise(1024, seed=NEW_SEED, stream=2**32 - 1, step=6, distribution=name, scale=0.25)
        own, other = draw[element], draw[partner]
        sign = torch.where(element & 16 == 0, -1.0, 1.0)
        for turn, expected in enumerate((own, sign * other, -own, -sign * other)):
            lists = make_lists([(1000,)], "sgd", torch.float32, False, step=24 + turn - 1)
            lists["params"] = [torch.zeros(1000)]
            given = dict(cycle=True, old_scale=0.0, scale=0.25, lr=0.0, distribution=DISTRIBUTIONS[name])
            after = compare(lists, "sgd", **given)
            assert torch.equal(after["params"][0], expected)
            assert after["records"][0].tolist() == pack(
                Record(0.25, NEW_SEED, DISTRIBUTIONS[name], 2**32 - 1, 6, turn, 4, 1000)
            )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values())
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
def test_reperturb_turns(distribution, masters):
    for dtype in DTYPES:
        expected = change_turns(dtype, masters, distribution, "reference")
        for instruction_set in each_instruction_set():
            assert_same(change_turns(dtype, masters, distribution, "native"), expected, instruction_set)


def test_records_say_what_comes_off_and_what_was_put_on():
    """Every parameter of a call may carry another noise and see its first gradient; a shared counter counts twice."""
    lists = make_lists([(300,), (40,), (129,)], "momentum", torch.float32, False)
    lists["steps"] = [lists["steps"][0]] * 2 + lists["steps"][2:]
    lists["states"][1].fill_(float("nan"))
    lists["records"] = [
        record_of(300, 0.5, seed=-3, distribution=2, stream=1, step=2**33 + 5, rule_steps=9),
        record_of(40, rule_steps=0, stream=2),
        record_of(129, 0.1, seed=2**62, distribution=1, stream=3, step=8, rule_steps=1),
    ]
    left = []
    for backend in ("reference", "native"):
        copies = {k: [x.clone() if isinstance(x, torch.Tensor) else x for x in v] for k, v in lists.items()}
        copies["steps"] = [copies["steps"][0]] * 2 + copies["steps"][2:]
        step_(arguments_of("momentum", copies, dampening=0.3, distribution=1), backend=backend)
        left.append({k: v for k, v in copies.items() if v and isinstance(v[0], torch.Tensor)})
    assert_same(*left)
    expected = [
        Record(0.05, 11, 1, 1, 6, 0, 10, 300), Record(0.05, 11, 1, 2, 6, 0, 1, 40), Record(0.05, 11, 1, 3, 6, 0, 2, 129)
    ]  # fmt: skip
    assert [words.tolist() for words in left[0]["records"]] == [pack(record) for record in expected]
    assert [int(step) for step in left[0]["steps"]] == [7, 7, 6]


def test_threads_change_nothing(threads):
    lists = make_lists([(50_000,), (3,), (), (129, 77)] + [(13,)] * 50, "adam", torch.float32, False)
    results = []
    for count in (1, 2, 7):
        threads(count)
        results.append(run(lists, "adam", backend="native"))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_what_a_step_does():
    """The three lines of the contract, with noise() for the draws."""
    lists = make_lists([(1000,)], "momentum", torch.float32, False, step=41)
    after = run(lists, "momentum", backend="native", scale=0.25, old_scale=0.5)
    where = dict(stream=2**32 - 1)
    clean = lists["params"][0] - noise(1000, seed=2**64 - 12, step=41, scale=0.5, **where)
    buffer = torch.tensor(0.9) * lists["states"][0] + lists["grads"][0]
    clean = clean - torch.tensor(0.1) * buffer
    assert torch.equal(after["params"][0], clean + noise(1000, seed=11, step=42, scale=0.25, **where))
    assert torch.equal(after["states"][0], buffer)
    assert int(after["steps"][0]) == 42
    assert after["records"][0].tolist() == pack(Record(0.25, 11, 0, 2**32 - 1, 42, 0, 4, 1000))


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("masters", [False, True], ids=["in place", "masters"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reperturb(backend, dtype, masters):
    lists = make_lists(SIZES, "momentum", dtype, masters)
    after = run_reperturb(lists, backend)
    for i, (old, new) in enumerate(zip(lists["params"], after["params"])):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        size, step = old.numel(), int(lists["steps"][i])
        off = noise(size, seed=2**64 - 12, stream=2**32 - 1 - i, step=step, distribution="laplace", scale=0.25)
        on = noise(size, seed=3, stream=40 + i, step=i, distribution="uniform", scale=0.5)
        clean = lists["masters"][i] if masters else old.to(wide) - off.view(old.shape).to(wide)
        assert torch.equal(new, (clean + on.view(old.shape).to(wide)).to(dtype))
        assert after["records"][i].tolist() == pack(Record(0.5, 3, 1, 40 + i, 2**34 + i, 0, 3, size))
        if masters:
            assert torch.equal(after["masters"][i], lists["masters"][i])


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_nothing_off_and_nothing_on_writes_no_weights(backend):
    """What somebody wrote into a parameter without noise stays, whatever its master says."""
    params, masters = [torch.ones(5)], [torch.zeros(5)]
    records, targets = [record_of(5)], [record_of(5, stream=9)]
    reperturb_(ReperturbArguments(params, masters, records, targets, [0]), backend=backend)
    assert torch.equal(params[0], torch.ones(5)) and records[0].tolist() == targets[0].tolist()


def test_empty_lists_and_infinite_gradients():
    for name in RULES:
        torch.ops.nvrm_fast.step_(*arguments_of(name, make_lists([], name, torch.float32, False)))
    torch.ops.nvrm_fast.reperturb_([], [], [], [], [], [])
    lists = make_lists([(200,)], "adam", torch.float32, False)
    lists["grads"][0][7] = float("inf")
    after = run(lists, "adam", backend="native")
    assert after["params"][0].isnan().nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_autograd_hears_of_the_write(backend):
    check_versions(backend)
