"""Layouts, shards and records for tests of the steps, and what every backend must leave behind."""

import torch
from steps import arguments_of, make_lists, with_noise

from nvrm_fast.contract.arguments import ReperturbArguments
from nvrm_fast.contract.record import Record, pack
from nvrm_fast.ops.step import reperturb_, step_


def misalign(x):
    """The same values one element after an aligned address."""
    storage = torch.empty(x.numel() + 1, dtype=x.dtype)
    return storage[1:].copy_(x.flatten()).view(x.shape)


def transpose(x):
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else x


def spread(x):
    """Every third element of a larger tensor, in every dimension: strides that never merge."""
    storage = torch.empty(*(3 * s for s in x.shape), dtype=x.dtype)
    view = storage[tuple(slice(None, None, 3) for _ in x.shape)]
    return view.copy_(x)


#: The lists whose tensors have a parameter's elements.
ELEMENTS = ("params", "grads", "states", "masters")


def columns_of(lists, begin, end):
    """The lists of a shard that holds some columns of each (matrix) parameter, and its runs."""
    shapes = [x.shape for x in lists["params"]]
    part = {**lists, **{k: [x[:, begin:end].contiguous() for x in lists[k]] for k in ELEMENTS}}
    part["offsets"] = [offset + begin for offset in lists["offsets"]]
    return part, dict(run_lengths=[end - begin] * len(shapes), run_strides=[shape[1] for shape in shapes])


def record_of(numel, scale=0.0, seed=0, distribution=0, stream=7, step=3, rule_steps=0, turn=0):
    return torch.tensor(pack(Record(scale, seed, distribution, stream, step, turn, rule_steps, numel)))


def run_reperturb(lists, backend):
    """Laplace noise off, uniform noise on, with a target that differs in every word."""
    copies = {k: [x.clone() for x in with_noise(lists, 0.25, 2)[k]] for k in ("params", "masters", "records")}
    targets = [record_of(1, 0.5, 3, 1, stream=40 + i, step=2**34 + i) for i in range(len(copies["params"]))]
    arguments = ReperturbArguments(**copies, targets=targets, offsets=lists["offsets"])
    reperturb_(arguments, backend=backend)
    return copies


def change_turns(dtype, masters, distribution, backend):
    """What a list that carries turned noise is left with: other turns of the same draws, of other scale; one tensor is
    left clean, one gets another draw."""
    lists = make_lists([(300,), (0,), (129,), (7, 40), (17,)], "sgd", dtype, masters)
    copies = {k: [x.clone() for x in lists[k]] for k in ("params", "masters")}
    numels = [x.numel() for x in lists["params"]]
    records = [record_of(n, 0.25, 5, distribution, turn=i % 4) for i, n in enumerate(numels)]
    targets = [record_of(n, 0.5, 5, distribution, turn=(i + 1 + i // 2) % 4) for i, n in enumerate(numels)]
    targets[2][0], targets[3][4] = 0, 77
    arguments = ReperturbArguments(**copies, records=records, targets=targets, offsets=[0, 0, 77, 2**33 + 5, 1])
    reperturb_(arguments, backend=backend)
    return {**copies, "records": records}


def check_versions(backend):
    """Whoever saved a tensor for backward hears that it was overwritten."""
    for masters in (False, True):
        lists = make_lists([(5,), (2, 70)], "momentum", torch.float32, masters)
        written = [x for key in ("params", "masters", "states") for x in lists[key]]
        before = [x._version for x in written]
        step_(arguments_of("momentum", lists), backend=backend)
        assert all(x._version > version for x, version in zip(written, before))
        before = [x._version for x in lists["params"]]
        targets = [record_of(5, 0.1), record_of(140, 0.2)]
        arguments = ReperturbArguments(lists["params"], lists["masters"], lists["records"], targets, [0, 0])
        reperturb_(arguments, backend=backend)
        assert all(x._version > version for x, version in zip(lists["params"], before))
    with torch.inference_mode():
        arguments = ReperturbArguments([torch.zeros(3)], [], [record_of(3)], [record_of(3, 0.5)], [0])
        reperturb_(arguments, backend=backend)
