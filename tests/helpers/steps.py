"""Arguments for the step operator: build lists of parameters, run an implementation, collect what it wrote."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nvrm_fast.contract import rules
from nvrm_fast.contract.arguments import StepArguments
from nvrm_fast.contract.cycles import draw_and_turn
from nvrm_fast.contract.record import Record, pack
from nvrm_fast.contract.rules import Rule
from nvrm_fast.ops.step import step_

#: A value for every hyper-parameter that a rule may have.
HYPER = dict(
    lr=0.1, momentum=0.9, dampening=0.0, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0, nesterov=False,
    decoupled_weight_decay=False, maximize=False,
)  # fmt: skip

#: Every option of the rules: name -> (rule, options). is_first: the gradient is the first that the rule sees.
RULES: dict[str, tuple[Rule, dict[str, Any]]] = {
    "sgd": (rules.SGD, {}),
    "sgd decay maximize": (rules.SGD, dict(weight_decay=0.03, maximize=True)),
    "momentum": (rules.SGD_MOMENTUM, {}),
    "momentum first": (rules.SGD_MOMENTUM, dict(is_first=True, dampening=0.4)),
    "momentum dampening decay": (rules.SGD_MOMENTUM, dict(dampening=0.4, weight_decay=0.03)),
    "nesterov": (rules.SGD_MOMENTUM, dict(nesterov=True)),
    "nesterov first decay": (rules.SGD_MOMENTUM, dict(is_first=True, nesterov=True, weight_decay=0.03)),
    "adam": (rules.ADAM, dict(lr=0.01)),
    "adam decay maximize": (rules.ADAM, dict(lr=0.01, weight_decay=0.03, maximize=True)),
    "adamw": (rules.ADAM, dict(lr=0.01, weight_decay=0.03, decoupled_weight_decay=True)),
    "amsgrad": (rules.ADAM_AMSGRAD, dict(lr=0.01)),
    "lion": (rules.LION, dict(lr=0.01)),
    "lion decay maximize": (rules.LION, dict(lr=0.01, weight_decay=0.03, maximize=True)),
    "amsgrad adamw": (rules.ADAM_AMSGRAD, dict(lr=0.01, weight_decay=0.03, decoupled_weight_decay=True)),
}
assert {rule for rule, _ in RULES.values()} == set(rules.RULES)

Make = Callable[[Tensor], Tensor]


def hyper_of(rule: Rule, options: dict[str, Any]) -> list[float]:
    """All hyper-parameters of a rule, in its order."""
    return [float({**HYPER, **options}[hyper.name]) for hyper in rule.hyper]


def make_lists(
    sizes: list[tuple[int, ...]], name: str, dtype: torch.dtype, masters: bool, lay_out: Make = lambda x: x,
    step: int = 5, offsets: list[int] | None = None, seed: int = 0,
) -> dict[str, list[Any]]:  # fmt: skip
    """Lists of operator arguments with random values; lay_out may change each tensor's strides.

    name: of RULES. Records hold streams, and no noise: `run` puts it in.
    """
    rule, options = RULES[name]
    generator = torch.Generator().manual_seed(seed)
    math = torch.float64 if dtype == torch.float64 else torch.float32

    def tensors(dtype: torch.dtype, positive: bool = False) -> list[Tensor]:
        values = [torch.randn(size, generator=generator, dtype=math) for size in sizes]
        return [lay_out((x.square() if positive else x).to(dtype)) for x in values]

    n = len(sizes)
    lists: dict[str, list[Any]] = {"params": tensors(dtype), "grads": tensors(dtype), "states": []}
    for state in rule.states:
        lists["states"] += tensors(math if masters else dtype, positive="_sq" in state)
    lists["masters"] = tensors(math) if masters else []
    lists["steps"] = [torch.tensor(step + i % 2) for i in range(n)]
    rule_steps = 0 if options.get("is_first") else 3
    lists["records"] = [
        torch.tensor(pack(Record(0.0, 0, 0, 2**32 - 1 - i, step + i % 2, 0, rule_steps, x.numel())))
        for i, x in enumerate(lists["params"])
    ]
    lists["offsets"] = offsets or [0] * n
    return lists


#: Of the noise that a step puts on.
NEW_SEED = 11


def with_noise(
    lists: dict[str, list[Any]], scale: float = 0.05, distribution: int = 0, cycle: bool = False
) -> dict[str, list[Any]]:
    """The lists, with records that tell of noise of seed -12 at the counters' present value. cycle: of noise in cycles
    that the step will go on with, where that is of the same distribution."""
    records = [words.clone() for words in lists["records"]]
    for words, step in zip(records, lists["steps"]):
        seed = NEW_SEED if cycle else -12
        words[:3] = torch.tensor(pack(Record(scale, seed, distribution, 0, 0, 0, 0, 0))[:3])
        words[4], words[5] = draw_and_turn(int(step), cycle)
    return {**lists, "records": records}


def arguments_of(name: str, lists: dict[str, list[Any]], **others: Any) -> StepArguments:
    """The operator's arguments; others: hyper-parameters by their names, and fields of StepArguments."""
    rule, options = RULES[name]
    fields = {key: others.pop(key) for key in list(others) if key in StepArguments._fields}
    given: dict[str, Any] = dict(
        rule=rule.code, **lists, hyper=hyper_of(rule, {**options, **others}), scale=0.05, seed=NEW_SEED, distribution=0,
        keep_noise=False, scale_tensors=[],
    )  # fmt: skip
    return StepArguments(**{**given, **fields})


def run(
    lists: dict[str, list[Any]], name: str, *, backend: str, old_scale: float = 0.05, old_distribution: int = 0,
    old_cycle: bool = False, **others: Any,
) -> dict[str, list[Tensor]]:  # fmt: skip
    """Runs one step on copies (strides kept) and returns every tensor list as it was left.

    old_scale, old_distribution, old_cycle: of the noise that the weights carry. others: as for `arguments_of`.
    """
    lists = with_noise(lists, old_scale, old_distribution, old_cycle)
    copies = {k: [copy_of(x) if isinstance(x, Tensor) else x for x in v] for k, v in lists.items()}
    step_(arguments_of(name, copies, **others), backend=backend)
    return {k: v for k, v in copies.items() if v and isinstance(v[0], Tensor)}


def copy_of(x: Tensor) -> Tensor:
    """A copy with the same strides and the same place within its storage; the gaps hold NaN."""
    storage = torch.empty(x.untyped_storage().nbytes() // x.element_size(), dtype=x.dtype)
    if x.dtype.is_floating_point:
        storage.fill_(float("nan"))
    copy = storage.as_strided(x.size(), x.stride(), x.storage_offset())
    copy.copy_(x)
    return copy


def place(x: Tensor, device: str) -> Tensor:
    """A copy on the device with the same strides."""
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=device).copy_(x)


def assert_same(a: dict[str, list[Tensor]], b: dict[str, list[Tensor]], what: Any = None) -> None:
    for name, i in itertools.chain.from_iterable(((n, i) for i in range(len(a[n]))) for n in a):
        assert a[name][i].dtype == b[name][i].dtype
        assert not a[name][i].isnan().any() if a[name][i].is_floating_point() else True, (name, i, what)
        assert torch.equal(a[name][i], b[name][i]), (name, i, what)
