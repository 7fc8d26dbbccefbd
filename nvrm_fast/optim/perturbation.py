"""The perturbation: noise that the parameters carry between steps, and the ways to take it off."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from ..contract.arguments import ReperturbArguments
from ..contract.cycles import check_draws
from ..contract.record import NOISE_WORDS, SCALE, SEED, unpack
from ..contract.seeds import check_integer, seed_of_rank, signed_seed
from ..ops.step import reperturb_
from ..prediction import Prediction
from . import averaging, capture, carried, ensemble, measures, outer, written
from .base import NoisyOptimizer
from .batches import MASTER, MEASURE, PERTURBATION, ParamRef, Part, Plan, make_batches
from .checkpoint import SUSPENDED, SUSPENDED_PARAM
from .checks import FLOAT32_LIMIT, check_denoise_every, check_flag, check_number, check_record
from .parameter_state import new_record, read_records, widen_master
from .selection import Choice, Choices, as_choices, is_selected, needs_names
from .shards import is_distributed, local_tensor


class NeuralVariableOptimizer(NoisyOptimizer):
    """Between steps the parameters hold clean weights + b * eps (NVRM paper, section 3, equations 10 and 11).

    Evaluate and save on clean weights: inside `with optimizer.denoised():`, between `optimizer.eval()` and
    `optimizer.train()`, or after `optimizer.denoise()`. What is evaluated or saved otherwise is noisy.
    Other weights (a checkpoint's, an average) are put in while the noise is off, too.

    Model and optimizer saved in evaluation mode: the weights are clean, and the optimizer's state remembers the noise.
    Loaded again the optimizer is in evaluation mode; after `train()` the run goes on bit for bit.
    """

    #: The wrapper that called when the last plan was made, if it is one of those that outer.py knows, and its kind.
    _outer: tuple[str, Any] | None = None

    #: What carries noise, and what does not.
    _choices: tuple[tuple[Choice, ...] | None, tuple[Choice, ...] | None] = (None, None)

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        fused: bool | None = None,
        include: Choices = None,
        exclude: Choices = None,
    ) -> None:
        self._choices = as_choices(include, "include"), as_choices(exclude, "exclude")
        self._selected: dict[Tensor, bool] = {}
        super().__init__(params, defaults, fused)
        groups = self.param_groups
        if not any(self._is_selected(group, i) for group in groups for i in range(len(group["params"]))):
            raise ValueError("include and exclude leave no parameter to carry noise")

    def _set_up(self) -> None:
        super()._set_up()
        self._selected = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_choices": self._choices}

    def _is_selected(self, group: dict[str, Any], i: int) -> bool:
        param = group["params"][i]
        if param not in self._selected:
            names = group.get("param_names")
            if names is None and any(map(needs_names, self._choices)):
                raise ValueError(
                    "include and exclude choose by name, and the parameters have none: make the optimizer with "
                    "model.named_parameters()"
                )
            name = "" if names is None else names[i]
            self._selected[param] = is_selected(name, param, *self._choices)
        return self._selected[param]

    # Evaluation mode is part of the state, so that it is saved, copied and loaded with it, and seen by every wrapper:
    # under "suspended_perturbation" the record of the noise to put on again, under "suspended_param" the noisy values
    # where no master can give them back.

    def _noise_scale(self, group: dict[str, Any]) -> float | Tensor:
        variability = group["variability"]
        if isinstance(variability, Tensor) and (variability.device.type != "cpu" or group.get("capturable")):
            return variability
        return float(variability)

    def _seed(self, group: dict[str, Any]) -> int:
        return seed_of_rank(group["seed"]) if group["decorrelate_ranks"] else group["seed"]

    def _wants_master(self, group: dict[str, Any], param: Tensor) -> bool:
        return group["decorrelate_ranks"] or super()._wants_master(group, param)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number(group["variability"], "variability", high=FLOAT32_LIMIT)
        check_flag(group["decorrelate_ranks"], "decorrelate_ranks")
        check_denoise_every(group["denoise_every"])
        check_draws(group.get("draws", "independent"))
        measures.check_options(group)
        if check_integer(group.get("start_step", 0), 62, "start_step") < 0:
            raise ValueError(f"start_step must be at least 0, got {group['start_step']}")
        if group["decorrelate_ranks"]:
            if group["master_weights"] is False:
                raise ValueError(
                    "decorrelate_ranks=True needs master weights (noises that differ come off with roundings that "
                    "differ, and the ranks would drift apart): leave master_weights out"
                )
            if any(is_distributed(param) for param in group["params"]):
                raise ValueError(
                    "decorrelate_ranks=True is for replicated parameters (DistributedDataParallel): the shards of one "
                    "tensor must carry one noise; leave it out"
                )

    def _make_plan(self, part: Part) -> Plan:
        # Plans are made by the first step, and seldom afterwards.
        self._notice_averages()
        return super()._make_plan(part)

    def _notice_averages(self) -> None:
        """Asks who calls, and refuses whoever would average weights that carry noise."""
        self._outer = outer.find_caller()
        self._check_mode()
        averaging.watch()

    def _is_evaluating(self) -> bool:
        return any(map(operator.contains, self.state.values(), itertools.repeat(SUSPENDED)))

    def _check_mode(self) -> None:
        if self._outer is not None and (caller := outer.find_caller()) is not None:
            outer.refuse_average(caller, self.param_groups)
        if self._is_evaluating():
            raise RuntimeError(
                "step() while the noise is off for evaluation: call optimizer.train() first, or leave the "
                "denoised() block"
            )

    def is_perturbed(self) -> bool:
        """Whether any parameter carries noise now. Waits for the device where parameters are on one."""
        records = [state[PERTURBATION] for state in self.state.values() if PERTURBATION in state]
        return any(unpack(words).scale != 0 for words in read_records(records))

    @torch.no_grad()
    def denoise(self) -> None:
        """Takes the noise off until the next step, which starts from the clean weights and puts new noise on.

        In place the clean weights are exact up to the rounding of one addition and one subtraction; with master
        weights they are exact.
        """
        for param in list(self.state):  # in evaluation mode: nothing to put on again
            self._end_suspension(param)
        self._take_off_all()

    def reset_state(self) -> None:
        """Takes the noise off and forgets moments and counters, as if no step had been done."""
        self.denoise()
        super().reset_state()

    @contextlib.contextmanager
    def denoised(self) -> Iterator[None]:
        """Inside the block the parameters are clean; afterwards, even after an exception, bit for bit as before.

        Costs one copy of the in-place parameters for the time of the block (none with master weights), so that
        training goes on exactly as if nobody had looked. A parameter that is written in the block (a checkpoint is
        loaded, weights are averaged or clipped) keeps what was written, under its noise.
        """
        capture.refuse_mode_change("denoised()")
        if self._is_evaluating():
            self.eval()  # if train() was interrupted there may be noise
            yield
            return
        try:
            self.eval()
            yield
        finally:
            self.train()

    @torch.no_grad()
    def eval(self) -> None:
        """Takes the noise off until `train()`; the same as entering `denoised()`. Calling it twice changes nothing."""
        capture.refuse_mode_change("eval()")
        was_evaluating = self._is_evaluating()
        try:
            self._suspend()
        except BaseException:
            # Interrupted: as if it had not been called.
            if not was_evaluating:
                self.train()
            raise

    def _suspend(self) -> None:
        by_group = self._refs_with_record()
        if not any(refs for _, refs in by_group):
            # Nothing is on yet. The mode is part of the state, so there must be some.
            by_group = [(group, self._all_refs(group)) for group in self.param_groups]
            for _, refs in by_group:
                taken: set[int] = set()
                for ref in refs:
                    self.state[ref.param][PERTURBATION] = new_record(ref, taken, 0)
        for _, refs in by_group:
            carries_noise = self._carry_noise(refs)
            for ref, noisy in zip(refs, carries_noise):
                state = self.state[ref.param]
                if SUSPENDED not in state:
                    kept = {SUSPENDED_PARAM: ref.param.detach().clone()} if noisy and MASTER not in state else {}
                    state.update({**kept, SUSPENDED: state[PERTURBATION].clone()})
        self._take_off_all()

    @torch.no_grad()
    def train(self) -> None:
        """Puts on again what `eval()` took off. Calling it twice changes nothing.

        Weights that were written in between stay, under the noise. Where a captured step was replayed in between, its
        weights and its noise stay as they are.
        """
        capture.refuse_mode_change("train()")
        values: list[tuple[Tensor, Tensor]] = []
        for group, refs in self._refs_with_record():
            refs = [ref for ref in refs if SUSPENDED in self.state[ref.param]]
            states = [self.state[ref.param] for ref in refs]
            now = [unpack(words) for words in read_records([state[PERTURBATION] for state in states])]
            then = [unpack(words) for words in read_records([state[SUSPENDED] for state in states])]
            put_on = []
            for ref, state, is_on, was_on in zip(refs, states, now, then):
                if is_on.scale != 0 or is_on.rule_steps != was_on.rule_steps:
                    continue  # there is noise already: train() was interrupted, or a captured step was replayed
                data, noisy = local_tensor(ref.param), state.get(SUSPENDED_PARAM)
                if MASTER in state:
                    self._take_writes_over(group, [ref], [data])
                elif noisy is not None and self._is_left_of(group, ref, local_tensor(noisy), state[SUSPENDED]):
                    carried.note(ref.param, state)  # it may lie in other memory now
                    values += [(data, local_tensor(noisy))]
                    values += [(state[PERTURBATION][:NOISE_WORDS], state[SUSPENDED][:NOISE_WORDS])]
                    continue
                if was_on.scale != 0:
                    put_on.append(ref)
            self._reperturb(group, put_on, [self.state[ref.param][SUSPENDED] for ref in put_on])
        if values:
            # Weights and records in one call, which no signal handler interrupts.
            torch._foreach_copy_([target for target, _ in values], [value for _, value in values])
        for param in list(self.state):
            self._end_suspension(param)

    @torch.no_grad()
    def predict(self, model: nn.Module, x: Any, samples: int = 10, *, class_dim: int | None = None) -> Prediction:
        """The prediction of an ensemble of perturbed copies of the model, which exists only once.

        Every sample is a pass over `x` at clean weights + noise of the groups' scale and distribution, as in training:
        one draw for all examples. The same call gives the same ensemble: its draws are a function of seed and sample.
        Weights and noise are bit for bit as before; model.eval() is the caller's.

        Args:
            model: a model that this optimizer trains; it must return logits, (batch, classes) unless class_dim says.
            x: what the model takes.
            samples: passes (default: 10).
            class_dim: the dimension of the classes in one sample's logits, such as 1 for (batch, classes, height,
                width).

        Returns probabilities (their mean), entropy (of that mean, in nats) and mutual_information (what the samples
        disagree about).

        Raises ValueError for fewer than one sample and for logits of other shapes, TypeError for an output that is no
        tensor. Costs, while it runs, a copy of the parameters that have no master weights.
        """
        with self.denoised():
            return ensemble.predict(self, model, x, samples, class_dim)

    def _end_suspension(self, param: Tensor) -> None:
        state = self.state[param]
        state.pop(SUSPENDED_PARAM, None)  # first: what is left after an interrupt is still evaluation mode
        if state.pop(SUSPENDED, None) is not None and self._is_for_the_mode_only(state):
            del self.state[param]

    def _is_for_the_mode_only(self, state: dict[str, Any]) -> bool:
        """Whether a state was made by `eval()` and no step has been done since."""
        return PERTURBATION in state and state.keys() <= {PERTURBATION, MEASURE}

    def _is_left_of(self, group: dict[str, Any], ref: ParamRef, noisy: Tensor, words: Tensor) -> bool:
        """Whether the parameter is, bit for bit, the noisy value without its noise, and not weights of other origin."""
        here = local_tensor(ref.param)
        if noisy.dtype != here.dtype or noisy.shape != here.shape:
            return False
        clean = torch.empty_like(here).copy_(noisy)
        (batch,) = make_batches([ref], [self.state[ref.param]])
        arguments = ReperturbArguments(
            params=[clean],
            masters=[],
            records=[words.clone()],
            targets=clean_targets([words]),
            offsets=batch.offsets,
            run_lengths=batch.run_lengths,
            run_strides=batch.run_strides,
            measures=batch.measures(),
            row_lengths=batch.row_lengths,
        )
        reperturb_(arguments, backend=group["backend"])
        return written.equal_bits(clean, here)

    def _take_noise_off(self, group: dict[str, Any], refs: list[ParamRef]) -> None:
        self._reperturb(group, refs, clean_targets([self.state[ref.param][PERTURBATION] for ref in refs]))

    def _take_off_all(self) -> None:
        self._plans.clear()  # parameters may get other memory now
        for group, refs in self._refs_with_record():
            self._take_writes_over(group, refs, [local_tensor(ref.param) for ref in refs])
            noisy = [ref for ref, on in zip(refs, self._carry_noise(refs)) if on]
            for ref in noisy:
                check_record(ref, self.state[ref.param][PERTURBATION])
            self._take_noise_off(group, noisy)

    def _all_refs(self, group: dict[str, Any]) -> list[ParamRef]:
        return [self._ref(group, i) for i in range(len(group["params"]))]

    def _refs_with_record(self) -> list[tuple[dict[str, Any], list[ParamRef]]]:
        return [
            (group, [ref for ref in self._all_refs(group) if PERTURBATION in self.state.get(ref.param, {})])
            for group in self.param_groups
        ]

    def _carry_noise(self, refs: list[ParamRef]) -> list[bool]:
        """Which parameters carry noise; all of them while a CUDA graph is captured, when nothing can be read."""
        if capture.is_capturing():
            return [True] * len(refs)
        words = read_records([self.state[ref.param][PERTURBATION] for ref in refs])
        return [unpack(each).scale != 0 for each in words]

    def _reperturb(self, group: dict[str, Any], refs: list[ParamRef], targets: list[Tensor]) -> None:
        """Takes off what each of these parameters carries and puts on what its target says; steps stay."""
        if not refs:
            return
        states = [self.state[ref.param] for ref in refs]
        for ref, state in zip(refs, states):
            widen_master(ref.param, state)
            carried.note(ref.param, state)  # now: a signal may come between the operator and what follows it
        for batch in make_batches(refs, states):
            arguments = ReperturbArguments(
                params=[local_tensor(refs[i].param) for i in batch.members],
                masters=[local_tensor(x) for x in batch.masters()],
                records=batch.tensors(PERTURBATION),
                targets=[targets[i] for i in batch.members],
                offsets=batch.offsets,
                run_lengths=batch.run_lengths,
                run_strides=batch.run_strides,
                measures=batch.measures(),
                row_lengths=batch.row_lengths,
            )
            reperturb_(arguments, backend=group["backend"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch.optim's; see NoisyOptimizer. Load the parameters first: where ranks carry noise of their own, each
        puts its own on here, whichever rank saved the checkpoint."""
        super().load_state_dict(state_dict)
        with torch.no_grad():
            for group, refs in self._refs_with_record():
                if group["decorrelate_ranks"]:
                    seed = signed_seed(self._seed(group))
                    targets = [self.state[ref.param][PERTURBATION].clone() for ref in refs]
                    for ref, target in zip(refs, targets):
                        target[SEED] = seed
                        if SUSPENDED in self.state[ref.param]:
                            self.state[ref.param][SUSPENDED][SEED] = seed
                    self._reperturb(group, refs, targets)


def clean_targets(records: list[Tensor]) -> list[Tensor]:
    """Targets that say of each parameter what its record says, without noise. Nothing is read by the host."""
    if not records:
        return []
    targets = torch.stack(records)
    targets[:, SCALE] = 0
    return list(targets.unbind())
