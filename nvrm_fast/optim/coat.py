"""The coat: noise that the weights wear between steps, and the ways to take it off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from . import capture
from .base import NoisyOptimizer
from .bucket import Member, in_buckets
from .checks import check_denoise_every, check_number
from .ranks import seed_of_rank
from .shards import is_distributed, local


class Coat(NamedTuple):
    """What a parameter wears: b, the distribution's code and the key of its draw."""

    scale: float
    noise: int
    seed: int


class NeuralVariableOptimizer(NoisyOptimizer):
    """Between steps the parameters hold clean weights + b * eps (NVRM paper, section 3, equations 10 and 11).

    Evaluate and save on clean weights: inside `with optimizer.denoised():`, between `optimizer.eval()` and
    `optimizer.train()`, or after `optimizer.denoise()`. What is evaluated or saved with the coat on is noisy.
    Other weights (a checkpoint's, an average) are put in while the coat is off, too.

    Model and optimizer saved in evaluation mode: the weights are clean, and the optimizer's state remembers the coats.
    Loaded again the optimizer is in evaluation mode; after `train()` the run goes on bit for bit.
    """

    # Evaluation mode. What to wear again lies in the state, so that it is saved, copied and loaded with it: under
    # "resting_scale" the scale of the coat, under "noisy_param" the noisy value where no master can give it back.
    _resting = False
    # Versions of the memory of parameters at rest, to see whether somebody has written other weights.
    _versions: dict[Tensor, int] = {}

    def _noise_scale(self, group: dict[str, Any]) -> float:
        return float(group["variability"])

    def _seed(self, group: dict[str, Any]) -> int:
        return seed_of_rank(group["seed"]) if group["decorrelate_ranks"] else group["seed"]

    def _wants_master(self, group: dict[str, Any], param: Tensor) -> bool:
        return group["decorrelate_ranks"] or super()._wants_master(group, param)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number(group["variability"], "variability")
        check_denoise_every(group["denoise_every"])
        if group["decorrelate_ranks"]:
            if group["master_weights"] is False:
                raise ValueError(
                    "decorrelate_ranks=True needs master weights (coats that differ come off with roundings that "
                    "differ, and the ranks would drift apart): leave master_weights out"
                )
            if any(is_distributed(param) for param in group["params"]):
                raise ValueError(
                    "decorrelate_ranks=True is for replicated parameters (DistributedDataParallel): the shards of one "
                    "tensor must wear one coat; leave it out"
                )

    def _check_mode(self) -> None:
        if self._resting:
            raise RuntimeError(
                "step() while the coat is off for evaluation: call optimizer.train() first, or leave the "
                "denoised() block"
            )

    @torch.no_grad()
    def denoise(self) -> None:
        """Takes the coat off until the next step, which starts from the clean weights and puts a new one on.

        In place the clean weights are exact up to the rounding of one addition and one subtraction; with master
        weights they are exact.
        """
        capture.refuse("denoise()")
        self._replays.stop()
        for state in self.state.values():  # in evaluation mode: nothing to put on again
            state.pop("resting_scale", None)
            state.pop("noisy_param", None)
        self._change_coats({param: coat._replace(scale=0.0) for param, coat in self._worn().items()})
        self._replays.start(self)

    @contextlib.contextmanager
    def denoised(self) -> Iterator[None]:
        """Inside the block the parameters are clean; afterwards, even after an exception, bit for bit as before.

        Costs one copy of the in-place parameters for the time of the block (none with master weights), so that
        training goes on exactly as if nobody had looked. A parameter that is written in the block (a checkpoint is
        loaded, weights are averaged or clipped) keeps what was written, under its coat.
        """
        if self._resting:
            yield
            return
        self.eval()
        try:
            yield
        finally:
            self.train()

    @torch.no_grad()
    def eval(self) -> None:
        """Takes the coat off until `train()`; the same as entering `denoised()`. Calling it twice changes nothing."""
        if self._resting:
            return
        capture.refuse("eval()")
        self._replays.stop()
        worn = self._worn()
        noisy = {param: param.detach().clone() for param in worn if "master_param" not in self.state[param]}
        self._change_coats({param: coat._replace(scale=0.0) for param, coat in worn.items()})
        for param, coat in worn.items():
            self.state[param]["resting_scale"] = coat.scale
            if param in noisy:
                self.state[param]["noisy_param"] = noisy[param]
        self._versions = {param: local(param)._version for param in worn}
        self._resting = True
        self._replays.start(self)

    @torch.no_grad()
    def train(self) -> None:
        """Puts on again what `eval()` took off. Calling it twice changes nothing."""
        if not self._resting:
            return
        capture.refuse("train()")
        self._replays.stop()
        versions, self._versions, self._resting = self._versions, {}, False
        anew = {}
        for param, coat in self._at_rest().items():
            state = self.state[param]
            noisy = state.pop("noisy_param", None)
            del state["resting_scale"]
            untouched = versions.get(param) == local(param)._version
            if noisy is None:
                if not untouched and not torch.equal(local(param), local(state["master_param"]).to(param.dtype)):
                    state["master_param"].copy_(param)
            elif untouched or self._is_left_of(noisy, param, coat):
                local(param).copy_(local(noisy))
                state["coat_scale"] = coat.scale
                continue
            anew[param] = coat
        self._change_coats(anew)

    def _is_left_of(self, noisy: Tensor, param: Tensor, coat: Coat) -> bool:
        """Whether the parameter is, bit for bit, the noisy value without its coat, and not weights of other origin."""
        here = local(param)
        found = here.clone()
        here.copy_(local(noisy))
        self.state[param]["coat_scale"] = coat.scale
        self._change_coats({param: coat._replace(scale=0.0)})
        clean = here.clone()
        here.copy_(found)
        return torch.equal(clean, found)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also called by load_state_dict, copy and pickle: the mode is that of the state which comes in."""
        super().__setstate__(state)
        self._resting, self._versions = bool(self._at_rest()), {}

    def _take_coat_off(self, group: dict[str, Any], member: Member) -> None:
        if self.state[member.param].get("coat_scale"):  # asked of one, not of all: it is asked for every new master
            self._change_coats({member.param: self._worn()[member.param]._replace(scale=0.0)})

    def _worn(self) -> dict[Tensor, Coat]:
        """The coat of every parameter that wears one."""
        self._verdicts.settle()
        return {
            param: Coat(state["coat_scale"], state["coat_noise"], state["coat_seed"])
            for param, state in self.state.items()
            if state.get("coat_scale")
        }

    def _at_rest(self) -> dict[Tensor, Coat]:
        """The coat of every parameter that is to wear one again."""
        return {
            param: Coat(state["resting_scale"], state["coat_noise"], state["coat_seed"])
            for param, state in self.state.items()
            if "resting_scale" in state
        }

    def _change_coats(self, wanted: dict[Tensor, Coat]) -> None:
        """Takes off what each of these parameters wears and puts on what is wanted; steps stay."""
        kinds: dict[tuple[Any, ...], list[tuple[Member, dict[str, Any]]]] = {}
        for group in self.param_groups:
            for i, param in enumerate(group["params"]):
                if param in wanted:
                    kind = (group["backend"], wanted[param].noise, wanted[param].seed)
                    kinds.setdefault(kind, []).append((self._member(group, i), self.state[param]))
        for (backend, noise, seed), members in kinds.items():
            for bucket in in_buckets(members, noise, seed):
                bucket.scales = [wanted[member.param].scale for member in bucket.members]
                ops.change_coat_(
                    bucket.data, *bucket.coat_arguments(seed, noise), *bucket.run_arguments(), backend=backend
                )
                for state, scale in zip(bucket.states, bucket.scales):
                    state["coat_scale"], state["coat_noise"], state["coat_seed"] = scale, noise, seed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch.optim's; see NoisyOptimizer. Load the parameters first: where ranks wear coats of their own, each
        puts its own on here, whichever rank saved the checkpoint."""
        super().load_state_dict(state_dict)
        own = {param: self._seed(group) for group in self.param_groups for param in group["params"]
               if group["decorrelate_ranks"]}  # fmt: skip
        other = {p: coat for p, coat in self._worn().items() if p in own and coat.seed != own[p]}
        with torch.no_grad():
            self._change_coats({param: coat._replace(seed=own[param]) for param, coat in other.items()})
        for param in own.keys() & self._at_rest().keys():
            self.state[param]["coat_seed"] = own[param]
