"""Weight noise around any optimizer: off before its step, on after."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..contract.cycles import draw_and_turn
from ..contract.distributions import DISTRIBUTIONS
from ..contract.record import DISTRIBUTION, RULE_STEPS, SCALE, SEED, STEP, TURN, scale_bits
from ..contract.rules import Rule
from ..contract.seeds import signed_seed
from . import capture, checkpoint, measures, written
from .batches import MASTER, MEASURE, PERTURBATION, ParamRef, Part
from .checks import check_record
from .parameter_state import complete_master, new_record, taken_streams
from .perturbation import NeuralVariableOptimizer
from .selection import Choices
from .shards import is_distributed, local_tensor

#: What a parameter's state holds beside the wrapped optimizer's, in a state dict that has both.
OWN_KEYS = (PERTURBATION, MASTER, MEASURE, checkpoint.SUSPENDED, checkpoint.SUSPENDED_PARAM)
#: The wrapped optimizer's rule is its own affair.
_NO_RULE = Rule("none", -1, (), ())


def set_groups(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Gives an optimizer its groups, or the one inside where it only shows that one's (a Lookahead's property)."""
    own = getattr(type(optimizer), "param_groups", None)
    if isinstance(own, property) and own.fset is None:
        for inner in vars(optimizer).values():
            if isinstance(inner, Optimizer) and inner.param_groups is optimizer.param_groups:
                set_groups(inner, groups)
                return
    optimizer.param_groups = groups


class WeightNoise(NeuralVariableOptimizer):
    """Any torch optimizer under weight noise (NVRM paper, section 3, algorithm 1).

        optimizer = WeightNoise(torch.optim.Muon(hidden, lr=0.02), variability=0.05)

    Gradients are taken at weights + noise; before the wrapped optimizer's step the noise comes off, after it fresh
    noise goes on. So that optimizer sees clean weights only, whatever its rule. No noise is stored. It costs a pass
    over the parameters before the step and one after it; with master weights one more, a copy. For SGD, Adam, AdamW and
    Lion the classes NVRMSGD, NVRMAdam, NVRMAdamW and NVRMLion do all of it in one pass.

    It is an optimizer to schedulers, scalers, trainers and checkpoints: `param_groups` are the wrapped optimizer's own,
    with the noise's options beside its, and `state_dict()` has both states. `denoise()`, `denoised()`, `eval()` and
    `train()` are NeuralVariableOptimizer's; an optimizer with modes of its own (schedule-free) follows them.

    A closure is evaluated under the noise of before, at whatever weights the wrapped optimizer asks for (LBFGS, SAM).

    Args:
        optimizer: the optimizer to wrap; make it with named parameters where include or exclude have patterns. Do not
            call its step() or zero_grad() any more, but this object's. Schedulers may be of either.
        variability, noise, draws, seed, denoise_every, decorrelate_ranks, relative, per, backend: as for NVRMSGD. With
            relative the clean weights are measured before the wrapped optimizer's step, in one more pass. draws="cycle"
            gives the same noise as there, but saves no time: noise comes off and goes on in passes of their own.
        master_weights: True keeps the clean weights in the state, in float32 (float64 for float64 parameters), so that
            taking the noise off is exact; the wrapped optimizer's weights then are, bit for bit, those that it would
            give without noise from the same gradients. None (default): for bfloat16 and float16 parameters only.
        include: which parameters carry noise: a pattern of names ("*.weight"), a module, a function of name and
            parameter, or a list of these; None: all.
        exclude: which do not, for instance ["*bias", "*norm*"].
        start_step: the weights stay clean for so many steps of a parameter (default: 0).

    Raises:
        TypeError: what is no optimizer, or carries noise already; a complex or integer parameter that is to carry some.
        ValueError: a hyper-parameter out of its range, named; nothing that include and exclude leave.
    """

    optimizer: Optimizer

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        variability: float | Tensor = 0.01,
        noise: str = "gaussian",
        draws: str = "independent",
        seed: int | None = None,
        denoise_every: int | None = None,
        master_weights: bool | None = None,
        decorrelate_ranks: bool = False,
        backend: str | None = None,
        include: Choices = None,
        exclude: Choices = None,
        start_step: int = 0,
        relative: str | None = None,
        per: str = "tensor",
    ) -> None:
        if isinstance(optimizer, NeuralVariableOptimizer):
            raise TypeError(f"{type(optimizer).__name__} carries weight noise already: set its variability instead")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer)}")
        self.optimizer = optimizer
        self._streams: dict[Tensor, int] = {}  # groups ask for it when they are added
        defaults = dict(
            variability=variability,
            noise=noise,
            draws=draws,
            seed=seed,
            denoise_every=denoise_every,
            master_weights=master_weights,
            decorrelate_ranks=decorrelate_ranks,
            backend=backend,
            start_step=start_step,
            relative=relative,
            per=per,
        )
        groups = optimizer.param_groups
        before = [dict(group) for group in groups]
        try:
            super().__init__(list(groups), defaults, None, include, exclude)
        except BaseException:
            for group, options in zip(groups, before):
                group.clear()
                group.update(options)
            raise
        finally:
            set_groups(optimizer, groups)  # torch's constructor has made a new list of the same groups

    # The groups are the wrapped optimizer's: whoever changes a learning rate changes it there.

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        set_groups(self.optimizer, groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the wrapped optimizer's; the noise's options are this object's where the group has none."""
        if self._is_being_made:
            self.param_groups.append(param_group)
        else:
            self.optimizer.add_param_group(param_group)
        group = self.param_groups[-1]
        for key, value in self.defaults.items():
            group.setdefault(key, value)
        self._accept_last_group()

    def _set_up(self) -> None:
        super()._set_up()
        #: Version and address of parameters with masters, as the last step left them.
        self._marks: dict[int, tuple[list[int], list[int], list[int]] | None] = {}
        if "_merging" not in vars(self):
            self._merging = self.register_state_dict_post_hook(_with_wrapped_state, prepend=True)

    def _rule(self, group: dict[str, Any]) -> Rule:
        return _NO_RULE

    # Which parameters.

    def _is_served(self, group: dict[str, Any], i: int) -> bool:
        return self._is_selected(group, i)

    def _all_refs(self, group: dict[str, Any]) -> list[ParamRef]:
        """The group's parameters that noise is for, whether they carry it or not."""
        return [self._ref(group, i) for i in range(len(group["params"])) if self._is_selected(group, i)]

    # One step.

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """The wrapped optimizer's step on clean weights, and fresh noise; returns what it returns.

        closure: passed on; evaluated under the noise that the parameters carry now.
        Raises RuntimeError in evaluation mode and while a CUDA graph is captured; the wrapped optimizer's own errors
        leave the weights clean. Under torch.compile it runs outside of the graph (a graph break).
        """
        if torch.compiler.is_compiling():
            return _step_outside(self, closure)
        if capture.is_capturing():
            raise RuntimeError(
                "WeightNoise.step() cannot be captured in a CUDA graph: call it outside, or take NVRMSGD, NVRMAdam, "
                "NVRMAdamW or NVRMLion"
            )
        self._check_mode()
        for group in self.param_groups:
            self._check_group(group)
        with torch.no_grad():
            stepped = [
                (group, [ref for ref in refs if closure is not None or ref.param.grad is not None])
                for group, refs in ((group, self._all_refs(group)) for group in self.param_groups)
            ]
            parts = [part for group in self.param_groups if (part := Part.of_group(group)).params]
            is_initialization = not self.state and checkpoint.is_state_initialization(self, parts)
            for group, refs in stepped:
                self._complete_state(group, refs)
            for _, refs in stepped:
                for ref in refs:
                    check_record(ref, self.state[ref.param][PERTURBATION])
            carried_before = [
                (group, refs, [self.state[ref.param][PERTURBATION].clone() for ref in refs]) for group, refs in stepped
            ]
            for group, refs in stepped:
                self._keep_writes(group, refs)
                self._take_noise_off(group, refs)
            measured = [measures.measured_for(group, refs, self.state) for group, refs in stepped]
        if closure is None:
            result = self.optimizer.step()
        else:
            result = self.optimizer.step(self._under_noise(closure, carried_before))
        if not is_initialization:
            with torch.no_grad():
                for (group, refs), own in zip(stepped, measured):
                    measures.scale_by(refs, self.state, own)
                    self._put_noise_on(group, refs)
        return result

    def _complete_state(self, group: dict[str, Any], refs: list[ParamRef]) -> None:
        """Records, and masters where they are wanted, for parameters that have none yet."""
        new = [ref for ref in refs if PERTURBATION not in self.state.get(ref.param, {})]
        if new:
            self._notice_averages()
        self._take_known_noise_off(group, new)
        taken = taken_streams(self.state.values()) if new else set()
        for ref in new:
            self.state[ref.param][PERTURBATION] = new_record(ref, taken, 0)
        for ref in refs:
            state = self.state[ref.param]
            complete_master(self, group, ref, state)
            measures.complete(group, ref, state, self._take_noise_off)

    def _keep_writes(self, group: dict[str, Any], refs: list[ParamRef]) -> None:
        """With masters, what anybody wrote into a parameter while it carried noise is part of its clean weights."""
        for ref in refs:
            if MASTER in self.state[ref.param]:
                data = local_tensor(ref.param)
                mark = self._marks.get(id(ref.param))
                if mark is None or mark != written.mark([ref.param], [data]):
                    self._take_writes_over(group, [ref], [data])

    def _under_noise(
        self, closure: Callable[[], float], before: list[tuple[dict[str, Any], list[ParamRef], list[Tensor]]]
    ) -> Callable[[], float]:
        def evaluate() -> float:
            with torch.no_grad():
                for group, refs, targets in before:
                    self._follow(refs)
                    self._reperturb(group, refs, targets)
            try:
                return closure()
            finally:
                with torch.no_grad():
                    for group, refs, _ in before:
                        self._take_noise_off(group, refs)

        return evaluate

    def _follow(self, refs: list[ParamRef]) -> None:
        """The masters become the weights that the wrapped optimizer left."""
        pairs = [
            (local_tensor(state[MASTER]), local_tensor(ref.param))
            for ref in refs
            if MASTER in (state := self.state[ref.param])
        ]
        if pairs:
            torch._foreach_copy_([master for master, _ in pairs], [param for _, param in pairs])

    def _put_noise_on(self, group: dict[str, Any], refs: list[ParamRef]) -> None:
        if not refs:
            return
        self._follow(refs)
        records = [self.state[ref.param][PERTURBATION] for ref in refs]
        by_device: dict[torch.device, list[int]] = {}
        for i, words in enumerate(records):
            by_device.setdefault(words.device, []).append(i)
        for members in by_device.values():
            some = [records[i] for i in members]
            self._reperturb(group, [refs[i] for i in members], self._targets(group, some))
            torch._foreach_add_([words[RULE_STEPS : RULE_STEPS + 1] for words in some], 1)
        for ref in refs:
            if MASTER in self.state[ref.param]:
                self._marks[id(ref.param)] = written.mark([ref.param], [local_tensor(ref.param)])
            if is_distributed(ref.param):  # the kernels have told the local tensor's version only
                torch.autograd.graph.increment_version(ref.param)

    def _targets(self, group: dict[str, Any], records: list[Tensor]) -> list[Tensor]:
        """What the parameters are to carry after this step. The host reads nothing of it from a device."""
        targets = torch.stack(records)
        steps = targets[:, RULE_STEPS] + 1
        scale = self._noise_scale(group)
        if isinstance(scale, Tensor):
            bits = scale.detach().to(targets.device, torch.float32).reshape(1).view(torch.int32).to(torch.int64)
            bits = bits.expand(len(records)).clone()
        else:
            bits = torch.full_like(steps, scale_bits(scale))
        if group["denoise_every"]:
            bits[steps % group["denoise_every"] == 0] = 0
        bits[steps <= group["start_step"]] = 0
        bits = measures.relative_bits(group, bits)
        draws, turns = draw_and_turn(steps, group.get("draws") == "cycle")
        targets[:, SCALE], targets[:, STEP], targets[:, TURN] = bits, draws, turns
        targets[:, SEED], targets[:, DISTRIBUTION] = signed_seed(self._seed(group)), DISTRIBUTIONS[group["noise"]]
        return list(targets.unbind())

    def step_in_backward(self) -> Any:
        """Not for wrapped optimizers: raises RuntimeError."""
        raise RuntimeError(
            "step_in_backward() steps single parameters, which the wrapped optimizer cannot: take NVRMSGD, NVRMAdam, "
            "NVRMAdamW or NVRMLion"
        )

    # Modes: an optimizer that has some of its own follows.

    def eval(self) -> None:
        """Takes the noise off until `train()`; then the wrapped optimizer's own eval(), if it has one."""
        was_evaluating = self._is_evaluating()
        super().eval()
        if not was_evaluating:
            self._tell_mode("eval")

    def train(self) -> None:
        """The wrapped optimizer's own train(), if it has one; then puts on again what `eval()` took off."""
        self._tell_mode("train")
        super().train()

    def _tell_mode(self, mode: str) -> None:
        method = getattr(self.optimizer, mode, None)
        if callable(method):
            method()

    def _is_for_the_mode_only(self, state: dict[str, Any]) -> bool:
        return False  # in place a state is never more than the record

    def reset_state(self) -> None:
        """Takes the noise off and empties both states."""
        super().reset_state()
        self._marks.clear()
        self.optimizer.state.clear()

    # Copies and checkpoints.

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        del state["param_groups"]  # the wrapped optimizer's
        return {**state, "optimizer": self.optimizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        groups = state.pop("param_groups", None)
        if "optimizer" in state:
            vars(self)["optimizer"] = state.pop("optimizer")
        loading = vars(self).get("_loading")
        if groups is not None and loading is not None:
            inner = vars(self).pop("_wrapped")
            # torch shares what it need not cast: the next step of whoever saved it would change it here.
            copied = {**inner, "state": copy.deepcopy(inner["state"]), "param_groups": loading["param_groups"]}
            self.optimizer.load_state_dict(copied)
        super().__setstate__(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Both states. A state dict of the wrapped optimizer alone loads, too: the weights carry no noise then."""
        handle = self.register_load_state_dict_pre_hook(_split)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            vars(self).pop("_wrapped", None)
        self._marks.clear()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r})"


@torch._disable_dynamo  # type: ignore[attr-defined]  # as torch.optim: torch.compiler.disable would import dynamo
def _step_outside(optimizer: WeightNoise, closure: Callable[[], float] | None) -> Any:
    return optimizer.step(closure)


def _with_wrapped_state(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict of both, numbered alike, for the hooks that come after it."""
    assert isinstance(optimizer, WeightNoise)
    inner = optimizer.optimizer.state_dict()
    state = {key: dict(value) if isinstance(value, dict) else value for key, value in inner["state"].items()}
    for key, value in state_dict["state"].items():
        mixed = state.setdefault(key, {})
        if both := mixed.keys() & value.keys():
            raise ValueError(
                f"{type(optimizer.optimizer).__name__} keeps {sorted(both)} in its state, which is the name of "
                "WeightNoise's own: the two cannot be saved together"
            )
        mixed.update(value)
    return {**inner, "state": state}


def _split(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The noise's part of a state dict; the other is put aside."""
    own: dict[Any, Any] = {}
    inner: dict[Any, Any] = {}
    for key, value in state_dict["state"].items():
        if not isinstance(value, dict):
            inner[key] = value
            continue
        mine = {name: each for name, each in value.items() if name in OWN_KEYS}
        rest = {name: each for name, each in value.items() if name not in OWN_KEYS}
        if mine:
            own[key] = mine
        if rest:
            inner[key] = rest
    vars(optimizer)["_wrapped"] = {**state_dict, "state": inner}
    return {"state": own, "param_groups": state_dict["param_groups"]}
