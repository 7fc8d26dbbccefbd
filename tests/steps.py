"""Arguments for the step operators: build lists of parameters, run an implementation, collect what it wrote."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nvrm_fast.ops import step as ops

SGD_DEFAULTS = dict(
    is_first=False, lr=0.1, momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False
)
ADAM_DEFAULTS = dict(
    lr=0.01, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0, amsgrad=False, decoupled_weight_decay=False,
    maximize=False,
)  # fmt: skip

#: Every option of the rules: name -> (rule, options).
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", dict(momentum=0.0)),
    "sgd decay maximize": ("sgd", dict(momentum=0.0, weight_decay=0.03, maximize=True)),
    "momentum": ("sgd", {}),
    "momentum first": ("sgd", dict(is_first=True, dampening=0.4)),
    "momentum dampening decay": ("sgd", dict(dampening=0.4, weight_decay=0.03)),
    "nesterov": ("sgd", dict(nesterov=True)),
    "nesterov first decay": ("sgd", dict(is_first=True, nesterov=True, weight_decay=0.03)),
    "adam": ("adam", {}),
    "adam decay maximize": ("adam", dict(weight_decay=0.03, maximize=True)),
    "adamw": ("adam", dict(weight_decay=0.03, decoupled_weight_decay=True)),
    "amsgrad": ("adam", dict(amsgrad=True)),
    "amsgrad adamw": ("adam", dict(amsgrad=True, weight_decay=0.03, decoupled_weight_decay=True)),
}

Make = Callable[[Tensor], Tensor]


def full_options(name: str) -> tuple[str, dict[str, Any]]:
    """The rule behind a name of RULES, and all its options."""
    rule, options = RULES[name]
    return rule, {**(SGD_DEFAULTS if rule == "sgd" else ADAM_DEFAULTS), **options}


def make_lists(
    sizes: list[tuple[int, ...]], rule: str, dtype: torch.dtype, masters: bool, options: dict[str, Any],
    lay_out: Make = lambda x: x, step: int = 5, offsets: list[int] | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Operator arguments with random values, by name; lay_out may change each tensor's strides."""
    generator = torch.Generator().manual_seed(seed)
    math = torch.float64 if dtype == torch.float64 else torch.float32
    state_dtype = math if masters else dtype

    def tensors(dtype: torch.dtype, positive: bool = False) -> list[Tensor]:
        values = [torch.randn(size, generator=generator, dtype=math) for size in sizes]
        return [lay_out((x.square() if positive else x).to(dtype)) for x in values]

    n = len(sizes)
    lists: dict[str, Any] = {"params": tensors(dtype), "grads": tensors(dtype)}
    if rule == "sgd":
        lists["momentum_buffers"] = tensors(state_dtype) if options["momentum"] else []
    else:
        lists["exp_avgs"] = tensors(state_dtype)
        lists["exp_avg_sqs"] = tensors(state_dtype, positive=True)
        lists["max_exp_avg_sqs"] = tensors(state_dtype, positive=True) if options["amsgrad"] else []
    lists["masters"] = tensors(math) if masters else []
    lists["steps"] = [torch.tensor(step + i % 2) for i in range(n)]
    lists["streams"] = [2**32 - 1 - i for i in range(n)]
    lists["offsets"] = offsets or [0] * n
    return lists


def run(
    lists: dict[str, Any], rule: str, options: dict[str, Any], *, backend: str, scale: float = 0.05,
    coat_scale: float = 0.05, distribution: int = 0, coat_distribution: int = 0, keep_noise: bool = False,
    **last: Any,
) -> dict[str, list[Tensor]]:  # fmt: skip
    """Runs one step on copies (strides kept) and returns every tensor list as it was left.

    last: grad_scale, found_inf, run_lengths, run_strides.
    """
    copies = {k: [copy_of(x) for x in v] if v and isinstance(v[0], Tensor) else v for k, v in lists.items()}
    n = len(copies["params"])
    hyper = {**(SGD_DEFAULTS if rule == "sgd" else ADAM_DEFAULTS), **options}
    if rule == "sgd":
        hyper["is_first"] = [hyper["is_first"]] * n
    noise = [[scale] * n, 11, distribution, [coat_scale] * n, -12, coat_distribution, keep_noise]
    function = ops.sgd_step_ if rule == "sgd" else ops.adam_step_
    last = {**dict(grad_scale=None, found_inf=None, run_lengths=[], run_strides=[]), **last}
    function(*copies.values(), *noise, *hyper.values(), *last.values(), backend=backend)
    return {k: v for k, v in copies.items() if v and isinstance(v[0], Tensor)}


def copy_of(x: Tensor) -> Tensor:
    """A copy with the same strides and the same place within its storage; the gaps hold NaN."""
    storage = torch.empty(x.untyped_storage().nbytes() // x.element_size(), dtype=x.dtype)
    if x.dtype.is_floating_point:
        storage.fill_(float("nan"))
    copy = storage.as_strided(x.size(), x.stride(), x.storage_offset())
    copy.copy_(x)
    return copy


def assert_same(a: dict[str, list[Tensor]], b: dict[str, list[Tensor]], what: Any = None) -> None:
    for name, i in itertools.chain.from_iterable(((n, i) for i in range(len(a[n]))) for n in a):
        assert a[name][i].dtype == b[name][i].dtype
        assert not a[name][i].isnan().any() if a[name][i].is_floating_point() else True, (name, i, what)
        assert torch.equal(a[name][i], b[name][i]), (name, i, what)
