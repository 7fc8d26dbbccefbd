"""The update rules as data: what backends, operators and optimizers have to know of each.

The mathematics of one element is written once per language: nvrm_fast/reference/rule.py (which says where it comes
from), nvrm_fast/triton/rule.py, csrc/math/update_rule.h.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple


class Hyper(NamedTuple):
    """A hyper-parameter: where optimizers find it, and its bounds."""

    name: str
    low: float = 0.0
    high: float = math.inf  # exclusive; a finite one is checked by the operators, too
    option: str = ""  # of a parameter group; empty: the name
    item: int | None = None  # of that option
    title: str = ""  # in error messages, which are torch.optim's; empty: the name
    is_flag: bool = False


class NoiseScale(Enum):
    """Where the scale of the noise that is put on comes from."""

    #: One number a tensor: `scale` or `scale_tensors`.
    TENSOR = "tensor"


class Rule(NamedTuple):
    """Specification of an update rule."""

    name: str
    code: int  # in operator arguments; never renumber
    #: State tensors of a parameter, under torch.optim's names. They have the parameter's shape and its dtype, or the
    #: master's where there is one, and begin with zeros.
    states: tuple[str, ...]
    #: In the order of the operators' `hyper`. The rule combines them in float64 and rounds once.
    hyper: tuple[Hyper, ...]
    #: Numbers that the rule works out for each tensor from its step.
    scalars: tuple[str, ...] = ()
    #: The first gradient is treated in a way of its own (record word RULE_STEPS is 0).
    first_gradient_special: bool = False
    noise_scale: NoiseScale = NoiseScale.TENSOR


_LR = Hyper("lr", title="learning rate")
_WEIGHT_DECAY = Hyper("weight_decay")
_MAXIMIZE = Hyper("maximize", is_flag=True)
_BETAS = tuple(
    Hyper(f"beta{i + 1}", high=1.0, option="betas", item=i, title=f"beta parameter at index {i}") for i in range(2)
)
_SGD = (
    _LR,
    Hyper("momentum"),
    Hyper("dampening", low=-math.inf),
    _WEIGHT_DECAY,
    Hyper("nesterov", is_flag=True),
    _MAXIMIZE,
)
_ADAM = (
    _LR,
    *_BETAS,
    Hyper("eps", title="epsilon"),
    _WEIGHT_DECAY,
    Hyper("decoupled_weight_decay", is_flag=True),
    _MAXIMIZE,
)
_BIAS_CORRECTIONS = ("step_size", "root_scale")

SGD = Rule("sgd", 0, (), _SGD)
SGD_MOMENTUM = Rule("sgd_momentum", 1, ("momentum_buffer",), _SGD, first_gradient_special=True)
ADAM = Rule("adam", 2, ("exp_avg", "exp_avg_sq"), _ADAM, _BIAS_CORRECTIONS)
ADAM_AMSGRAD = Rule("adam_amsgrad", 3, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), _ADAM, _BIAS_CORRECTIONS)
LION = Rule("lion", 4, ("exp_avg",), (_LR, *_BETAS, _WEIGHT_DECAY, _MAXIMIZE))

#: Every rule, by its code. The native list is NVRM_FOR_EACH_RULE in csrc/math/update_rule.h.
RULES: tuple[Rule, ...] = (SGD, SGD_MOMENTUM, ADAM, ADAM_AMSGRAD, LION)
