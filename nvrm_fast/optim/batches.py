"""Parameters that one operator call can serve: of one group, device, dtype and storage."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contract.measures import SUM_WORDS, row_length
from ..contract.rules import Rule
from ..ops.native import are_plain, hold
from .shards import Place, is_distributed, local_gradient, local_tensor

#: Keys of a parameter's state beside the rule's.
PERTURBATION = "perturbation"
MASTER = "master_param"
STEP = "step"
MEASURE = "weight_measure"


class ParamRef(NamedTuple):
    """A parameter of a group, and where its elements lie in the full tensor."""

    param: Tensor
    place: Place
    name: object  # for messages
    stream: int = 0  # of its noise, unless its record says another
    is_selected: bool = True  # it carries noise; otherwise the step leaves it clean


class StateLists(NamedTuple):
    """The operator's arguments of these names."""

    states: list[Tensor]
    masters: list[Tensor]
    steps: list[Tensor]
    records: list[Tensor]
    measures: list[Tensor]


@dataclass
class ParamBatch:
    """What one operator call is told of its parameters, apart from gradients. Tensors are this process's own."""

    members: list[int]  # positions in the plan
    has_masters: bool
    has_measures: bool
    is_selected: bool
    states: list[dict[str, Any]]
    offsets: list[int]
    run_lengths: list[int]
    run_strides: list[int]
    row_lengths: list[int]

    def tensors(self, key: str) -> list[Tensor]:
        return [state[key] for state in self.states]

    def masters(self) -> list[Tensor]:
        return self.tensors(MASTER) if self.has_masters else []

    def measures(self) -> list[Tensor]:
        return self.tensors(MEASURE) if self.has_measures else []

    def state_lists(self, rule: Rule) -> StateLists:
        """Everything that the operator is told of the state."""
        return StateLists(
            [state[key] for key in rule.states for state in self.states],
            self.masters(),
            self.tensors(STEP),
            self.tensors(PERTURBATION),
            self.measures(),
        )

    def keys(self, rule: Rule) -> tuple[str, ...]:
        """Under which names that lies in each parameter's state."""
        own = *((MASTER,) if self.has_masters else ()), *((MEASURE,) if self.has_measures else ())
        return (*rule.states, *own, STEP, PERTURBATION)


class Part(NamedTuple):
    """The parameters of a group that a step is for, and their gradients."""

    group: dict[str, Any]
    positions: tuple[int, ...] | None  # in the group; None: all of them
    params: list[Tensor]
    data: list[Tensor] | None  # tensors that stand for the parameters (torch.compile); None: their own memory
    grads: list[Tensor]

    @classmethod
    def of_group(cls, group: dict[str, Any]) -> Part:
        """All parameters of a group that have a gradient."""
        params: list[Tensor] = group["params"]
        grads = [param.grad for param in params]
        if not any(map(operator.is_, grads, itertools.repeat(None))):
            return cls(group, None, params, None, grads)  # type: ignore[arg-type]  # none of them is None
        return cls.of_positions(group, tuple(i for i, grad in enumerate(grads) if grad is not None))

    @classmethod
    def of_positions(cls, group: dict[str, Any], positions: tuple[int, ...]) -> Part:
        params = [group["params"][i] for i in positions]
        return cls(group, positions, params, None, [param.grad for param in params])


def same_objects(a: Collection[object], b: Collection[object]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))


def make_batches(refs: list[ParamRef], states: list[dict[str, Any]]) -> list[ParamBatch]:
    """The parameters by device, dtype, storage, whether they have measures, and whether they carry noise."""
    by_kind: dict[tuple[torch.device, torch.dtype, bool, bool, bool], list[int]] = {}
    for i, (ref, state) in enumerate(zip(refs, states)):
        device = local_tensor(ref.param).device
        kind = (device, ref.param.dtype, MASTER in state, MEASURE in state, ref.is_selected)
        by_kind.setdefault(kind, []).append(i)
    batches = []
    for (_, _, has_masters, has_measures, is_selected), members in by_kind.items():
        places = [refs[i].place for i in members]
        runs = any(place.run_length for place in places)
        batches.append(
            ParamBatch(
                members,
                has_masters,
                has_measures,
                is_selected,
                [states[i] for i in members],
                [place.offset for place in places],
                [place.run_length for place in places] if runs else [],
                [place.run_stride for place in places] if runs else [],
                [row_length(refs[i].param.numel(), states[i][MEASURE].shape[1]) for i in members]
                if has_measures
                else [],
            )
        )
    return batches


class StalePlan(Exception):
    """The state's tensors are not those that a plan was made for."""


@dataclass
class Plan:
    """How the parameters of a Part are batched, and all that it depends on: valid while none of that has changed.

    Nothing in it decides what a step does. It spares most steps the time of finding out what the last one knew.
    """

    refs: list[ParamRef]
    rule: Rule
    options: tuple[Any, ...]
    params: list[Tensor]
    states: list[dict[str, Any]]

    def __post_init__(self) -> None:
        self.has_shards = any(is_distributed(param) for param in self.params)
        self.dtypes = [param.dtype for param in self.params]
        self.shapes = [param.shape for param in self.params]
        self.devices = [param.device for param in self.params]
        self.sizes = [len(state) for state in self.states]
        self.batches = make_batches(self.refs, self.states)
        # Of each batch: under which keys its states hold what, parameter by parameter, and that as the operator takes
        # it. Spares most steps to sort them again.
        self.keys = [batch.keys(self.rule) for batch in self.batches]
        self.tensors = [
            [state[key] for state in batch.states for key in keys] for batch, keys in zip(self.batches, self.keys)
        ]
        self.lists = [batch.state_lists(self.rule) for batch in self.batches]
        self.batch_devices = [local_tensor(self.params[batch.members[0]]).device for batch in self.batches]
        #: Whether no tensor but the gradients is of a subclass.
        self.is_plain = are_plain(itertools.chain(self.params, *self.tensors))
        self.has_masters = any(batch.has_masters for batch in self.batches)
        #: Whether other processes may write these parameters.
        self.is_shared = any(x.device.type == "cpu" and x.is_shared() for x in map(local_tensor, self.params))
        #: Of parameters with masters, as the last step left them (written.py); None: not known, or without noise.
        self.mark: tuple[list[int], list[int], list[int]] | None = None
        self.has_measures = any(batch.has_measures for batch in self.batches)
        #: The same of parameters with measures, when those were of the weights that are there.
        self.measured: tuple[list[int], list[int], list[int]] | None = None
        self._sums: dict[int, list[Tensor]] = {}
        #: The optimizer's whole state where it was last found to be these parameters' and as the plan takes it.
        self._whole_state: tuple[list[Tensor], list[Any]] = [], []
        #: What tells where the parameters lay in the last step, a batch each; None: there was none.
        self.places: list[Any] | None = None

    def is_valid(self, part: Part, state: dict[Tensor, Any], options: tuple[Any, ...]) -> bool:
        """Whether the operator does what a new plan would have it do, or refuses."""
        params = part.params
        return (
            options == self.options
            and same_objects(params, self.params)
            # With a state the operator refuses parameters that were cast or got other data.
            and (bool(self.rule.states) or self.has_same_kind(params))
            and self._has_same_states(params, state)
            and list(map(len, self.states)) == self.sizes
        )

    def _has_same_states(self, params: list[Tensor], state: dict[Tensor, Any]) -> bool:
        if len(state) == len(self.states):  # these parameters are all: no hash of a tensor, which is slow, is needed
            keys, values = self._whole_state
            if same_objects(state.keys(), keys) and same_objects(state.values(), values):
                return True
        if not same_objects(list(map(state.get, params)), self.states):
            return False
        if len(state) == len(self.states):
            self._whole_state = list(state.keys()), list(state.values())
        return True

    def has_same_kind(self, tensors: list[Tensor]) -> bool:
        return [x.dtype for x in tensors] == self.dtypes and [x.shape for x in tensors] == self.shapes

    def will_be_accepted(self, part: Part) -> bool:
        """Whether the operator will accept parameters, gradients and state (it checks them again, call by call)."""
        grads = part.grads
        return (
            not self.has_shards
            and self.has_same_kind(grads)
            and [grad.layout for grad in grads] == [torch.strided] * len(grads)
            and [grad.device for grad in grads] == self.devices
            and (not self.rule.states or self.has_same_kind(part.params))
            and self.has_state()
        )

    def sums_of(self, k: int) -> list[Tensor]:
        """Where batch k's shards leave the sums of their weights; none where nothing is sharded."""
        if self.has_shards and k not in self._sums:
            self._sums[k] = [
                torch.zeros(x.shape[1], SUM_WORDS, dtype=torch.int64, device=x.device) for x in self.lists[k].measures
            ]
        return self._sums.get(k, [])

    def has_state_of(self, k: int) -> bool:
        """Whether batch k's tensors are the ones that were there when the plan was made."""
        return hold(self.batches[k].states, self.keys[k], self.tensors[k])

    def has_state(self) -> bool:
        return all(map(self.has_state_of, range(len(self.batches))))

    def data(self, part: Part) -> list[Tensor]:
        if part.data is not None:
            return part.data
        return [local_tensor(param) for param in part.params] if self.has_shards else part.params

    def grads(self, part: Part) -> list[Tensor]:
        if not self.has_shards:
            return part.grads
        return [local_gradient(ref.param, grad, ref.name) for ref, grad in zip(self.refs, part.grads)]
