"""Parameters that one operator call can serve, and the call's lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ..noise import signed_seed
from .shards import Place, local


class Member(NamedTuple):
    """One parameter of a group in one step."""

    param: Tensor
    data: Tensor  # the memory of this process that is written: the parameter's own, or what stands for it
    grad: Tensor | None
    stream: int
    place: Place
    position: int  # in the group


@dataclass
class Bucket:
    """Members of one group with the same device, dtype, storage and kind of coat. Tensors are this process's own."""

    members: list[Member] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    coat_noise: int = 0
    coat_seed: int = 0

    def tensors(self, key: str) -> list[Tensor]:
        return [local(state[key]) for state in self.states]

    @property
    def masters(self) -> list[Tensor]:
        return self.tensors("master_param") if "master_param" in self.states[0] else []

    @property
    def data(self) -> list[Tensor]:
        return [member.data for member in self.members]

    @property
    def grads(self) -> list[Tensor | None]:
        return [member.grad for member in self.members]

    def coat_arguments(self, seed: int, noise: int) -> tuple[Any, ...]:
        """From masters on: what every operator is told about the coats."""
        return (
            self.masters,
            [state["step"] for state in self.states],
            [member.stream for member in self.members],
            [member.place.offset for member in self.members],
            self.scales,
            signed_seed(seed),
            noise,
            [state["coat_scale"] for state in self.states],
            signed_seed(self.coat_seed),
            self.coat_noise,
        )

    def run_arguments(self) -> tuple[list[int], list[int]]:
        """run_lengths and run_strides: empty where everything lies in one piece."""
        if not any(member.place.run_length for member in self.members):
            return [], []
        return [m.place.run_length for m in self.members], [m.place.run_stride for m in self.members]


def in_buckets(members: list[tuple[Member, dict[str, Any]]], noise: int, seed: int) -> Iterator[Bucket]:
    """noise, seed: the present draw's, for members that wear nothing."""
    buckets: dict[tuple[Any, ...], Bucket] = {}
    for member, state in members:
        coat = (state["coat_noise"], state["coat_seed"]) if state["coat_scale"] else (noise, seed)
        key = (member.data.device, member.data.dtype, "master_param" in state, *coat)
        if key not in buckets:
            buckets[key] = Bucket(coat_noise=coat[0], coat_seed=coat[1])
        buckets[key].members.append(member)
        buckets[key].states.append(state)
    yield from buckets.values()
