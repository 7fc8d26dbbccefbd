"""What every noisy optimizer shares: arguments, streams, state and one operator call for all parameters of a group."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import backends
from ..noise import distribution_code, signed_seed
from . import amp, backward, capture, checkpoint, compiled
from .bucket import Bucket, Member, in_buckets
from .checks import check_overlap, check_param, explain, fits
from .memory import allocate
from .shards import WHOLE, is_distributed, local, local_gradient, place_of
from .streams import assign_streams

LOW_PRECISION = (torch.bfloat16, torch.float16)
#: Groups with the members that a step is for.
Members = list[tuple[dict[str, Any], list[Member]]]


class ParameterName:
    """How messages call a parameter; worked out when somebody reads it."""

    def __init__(self, optimizer: Optimizer, group: dict[str, Any], i: int) -> None:
        self._where = optimizer, group, i

    def __str__(self) -> str:
        optimizer, group, i = self._where
        names = group.get("param_names")
        if names is not None:
            return repr(names[i])
        earlier = itertools.takewhile(lambda other: other is not group, optimizer.param_groups)
        return f"{sum(len(other['params']) for other in earlier) + i} (pass named_parameters() to see its name)"


class NoisyOptimizer(Optimizer):
    """Base class; subclasses bring a rule (`rules.py`) and say what noise is drawn and whether it stays.

    Parameters may have any strides; gradients must be dense. `seed`, `noise` and the other noise arguments are options
    of a parameter group and may be changed between steps.
    """

    #: The noise stays in the weights for good: there is no coat to take off.
    keep_noise = False

    #: torch.amp.GradScaler leaves `grad_scale` and `found_inf` here; the kernels divide by the one and heed the other.
    _step_supports_amp_scaling = True

    # What compiled.py notes.
    _number: int
    _params: list[Tensor]
    _has_shards: bool

    # What a subclass decides.

    def _noise_scale(self, group: dict[str, Any]) -> float:
        """b of the noise of this step."""
        raise NotImplementedError

    def _seed(self, group: dict[str, Any]) -> int:
        """The key of the draws of this step."""
        return group["seed"]

    def _wants_master(self, group: dict[str, Any], param: Tensor) -> bool:
        wish = group["master_weights"]
        return param.dtype in LOW_PRECISION if wish is None else wish

    def _check_mode(self) -> None:
        """Raises RuntimeError where no step may be done."""

    def _take_coat_off(self, group: dict[str, Any], member: Member) -> None:
        """Leaves the parameter clean, if it wears a coat."""

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises ValueError for hyper-parameters out of range. Rules extend it."""
        distribution_code(group["noise"], "noise")
        signed_seed(group["seed"])
        if group["master_weights"] not in (None, True, False):
            raise ValueError(f"master_weights must be None, True or False, got {group['master_weights']!r}")
        if group["backend"] is not None:
            backends.check_backend(group["backend"])

    def _init_state(self, group: dict[str, Any], state: dict[str, Any], like: Tensor) -> None:
        """Adds the rule's tensors that are missing; `like` has their shape, strides and dtype."""
        raise NotImplementedError

    def _apply(
        self, group: dict[str, Any], bucket: Bucket, noise_arguments: tuple[Any, ...], last_arguments: tuple[Any, ...]
    ) -> None:
        """Calls the rule's operator."""
        raise NotImplementedError

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch.optim's; also checks parameters and hyper-parameters and gives every parameter its stream."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_group(group)
            for name, param in self._named(group):
                check_param(param, name)
                try:
                    place_of(param)
                except ValueError as error:
                    raise ValueError(f"parameter {name}: {error}") from None
            check_overlap(itertools.chain.from_iterable(self._named(other) for other in self.param_groups))
        except Exception:
            self.param_groups.pop()
            raise
        taken = {stream for other in self.param_groups[:-1] for stream in other["streams"]}
        group["streams"] = assign_streams(group.get("param_names"), len(group["params"]), taken)
        group["coat_version"] = checkpoint.VERSION
        self._set_up()

    def _named(self, group: dict[str, Any]) -> Iterator[tuple[ParameterName, Tensor]]:
        return ((self._name(group, i), param) for i, param in enumerate(group["params"]))

    def _name(self, group: dict[str, Any], i: int) -> ParameterName:
        return ParameterName(self, group, i)

    def _set_up(self) -> None:
        """What belongs to this process and is neither copied nor pickled."""
        self._verdicts = amp.Verdicts()
        self._replays = capture.ReplayWatch()
        self._complete: dict[int, tuple[Any, ...]] = {}  # for what a state was completed last, by its identity
        compiled.register(self)

    def __getstate__(self) -> dict[str, Any]:
        self._verdicts.settle()
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        checkpoint.complete_groups(self)
        self._set_up()

    # One step.

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of the base rule on the clean weights, and fresh noise.

        closure: reevaluates the model and returns the loss. Returns the loss, or None.
        Raises RuntimeError for sparse gradients and, while a CUDA graph is captured, for a step that replays would not
        repeat rightly (a first one, one after a change of variability), TypeError for unsupported dtypes and ValueError
        for hyper-parameters out of range or state of another shape, before anything is written.

        A first step with learning rates and gradients of 0 makes the state and writes no weights: so
        torch.distributed.checkpoint prepares an optimizer for loading.
        """
        self._check_mode()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling():
            compiled.step(self)
        else:
            self._step_now()
        return loss

    @torch.no_grad()
    def _step_now(self) -> None:
        members = [
            (group, [self._member(group, i) for i, param in enumerate(group["params"]) if param.grad is not None])
            for group in self.param_groups
        ]
        if checkpoint.is_state_initialization(self, members):
            for group, some in members:
                for member in some:
                    self._make_state(group, member)
        else:
            self._step(members, *amp.scaling_of(self))

    def step_in_backward(self) -> backward.Handles:
        """From now on every parameter is stepped in the backward pass, as soon as its gradient is there, and the
        gradient is freed: no two layers' gradients need memory at once.

        Use it without gradient accumulation, clipping over all parameters, GradScaler and step() (which then finds no
        gradients and does nothing). The noise and the weights are those that step() would have given.

        Returns a handle; handle.remove() ends it.
        """
        return backward.step_in_backward(self)

    def _member(self, group: dict[str, Any], i: int) -> Member:
        param, stream = group["params"][i], group["streams"][i]
        if not is_distributed(param):
            return Member(param, param, param.grad, stream, WHOLE, i)
        grad = local_gradient(param, self._name(group, i))
        return Member(param, local(param), grad, stream, place_of(param), i)

    def _step(self, groups: Members, grad_scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
        for group in self.param_groups:
            self._check_group(group)
        for group, members in groups:
            for member in members:
                state = self.state.get(member.param)
                if not fits(member, state):
                    explain(member, state or {}, self._name(group, member.position))
        if amp.is_skipped_here(found_inf):
            return
        self._replays.stop()
        if capture.is_capturing():
            capture.check_step(self, groups)
            self._replays.is_needed = True
        self._verdicts.settle()
        for group, members in groups:
            self._step_group(group, members, grad_scale, found_inf)

    def _step_group(
        self, group: dict[str, Any], members: list[Member], grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        scale, noise, seed = self._noise_to_come(group)
        ready = [(member, self._ready_state(group, member)) for member in members]
        for bucket in in_buckets(ready, noise, seed):
            bucket.scales = self._scales(group, bucket, scale)
            device = bucket.members[0].data.device
            scaling = [None if x is None else x.to(device) for x in (grad_scale, found_inf)]
            belief = None if found_inf is None else amp.Belief(bucket.states)
            self._apply(
                group, bucket, (*bucket.coat_arguments(seed, noise), self.keep_noise),
                (*scaling, *bucket.run_arguments()),
            )  # fmt: skip
            if not self.keep_noise:
                for member, state, worn in zip(bucket.members, bucket.states, bucket.scales):
                    state.update(
                        coat_scale=worn, coat_noise=noise, coat_seed=seed, coat_numel=member.param.numel()
                    )  # fmt: skip
            # The kernels have told the local tensors' versions only.
            torch.autograd.graph.increment_version([m.param for m in bucket.members if m.param is not m.data])
            if belief is not None and scaling[1] is not None:
                self._verdicts.expect(scaling[1], belief)

    def _noise_to_come(self, group: dict[str, Any]) -> tuple[float, int, int]:
        """b, the distribution's code and the key of the draws of this step."""
        return self._noise_scale(group), distribution_code(group["noise"], "noise"), self._seed(group)

    def _scales(self, group: dict[str, Any], bucket: Bucket, scale: float) -> list[float]:
        every = group.get("denoise_every")
        if every is None:
            return [scale] * len(bucket.states)
        # All counters at once: they may lie on a GPU, and the host has to wait for them.
        done = torch.stack([state["step"].reshape(()) for state in bucket.states]).tolist()
        return [0.0 if (step + 1) % every == 0 else scale for step in done]

    # State.

    def _ready_state(self, group: dict[str, Any], member: Member) -> dict[str, Any]:
        """The parameter's state, completed where this step needs more than there is."""
        param = member.param
        state = self.state[param]
        if self._is_complete(group, param, state):  # most steps stop here
            return state
        # The record of the coat is plain numbers: torch's load_state_dict casts tensors to the parameter's dtype.
        if "coat_scale" not in state:
            state.update(coat_scale=0.0, coat_noise=0, coat_seed=0, coat_numel=param.numel())
        step = state.get("step")
        # On a GPU the kernels read the counter there: the host never waits, and a captured graph counts on.
        home = param.device if param.device.type == "cuda" else torch.device("cpu")
        if not isinstance(step, Tensor) or step.dtype != torch.int64 or step.device != home:
            # It may be a number in what an old torch saved. int64, because noise must stay fresh beyond the 2^24 steps
            # that a float32 counter counts.
            state["step"] = torch.tensor(0 if step is None else int(step), dtype=torch.int64, device=home)
        if self._wants_master(group, param) and "master_param" not in state:
            self._take_coat_off(group, member)
            wide = torch.float64 if param.dtype == torch.float64 else torch.float32
            state["master_param"] = allocate(param, wide).copy_(param)
        like = state.get("master_param", param)
        # State of another dtype: the model was cast, or the checkpoint is of a run without masters.
        for key, value in state.items():
            if isinstance(value, Tensor) and key not in ("step", "master_param") and value.dtype != like.dtype:
                state[key] = allocate(like).copy_(value)
        self._init_state(group, state, like)
        self._complete[id(state)] = self._completeness(group, param, state)
        return state

    def _completeness(self, group: dict[str, Any], param: Tensor, state: dict[str, Any]) -> tuple[Any, ...]:
        """What was complete for these is complete. A momentum buffer comes in after the first step: see SgdRule."""
        return (
            len(state) - ("momentum_buffer" in state),
            param.dtype,
            self._wants_master(group, param),
            group.get("amsgrad"),
        )

    def _is_complete(self, group: dict[str, Any], param: Tensor, state: dict[str, Any]) -> bool:
        return self._complete.get(id(state)) == self._completeness(group, param, state)

    def _make_state(self, group: dict[str, Any], member: Member) -> None:
        """All state that a first step would leave, with nothing in it."""
        state = self._ready_state(group, member)
        self._init_first_state(group, state, state.get("master_param", member.param))

    def _init_first_state(self, group: dict[str, Any], state: dict[str, Any], like: Tensor) -> None:
        """What the rule's operator, and not `_init_state`, brings in at the first step."""

    def state_dict(self) -> dict[str, Any]:
        """As torch.optim's. It holds the record of the coats: saved with the parameters that wear them, training goes
        on bit for bit."""
        self._verdicts.settle()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch.optim's; also takes checkpoints of the torch.optim class of the same rule.

        Group options that the checkpoint has not got keep their present values, and so does `backend`, which belongs
        to the machine and not to the training. State that was saved in float32 or float64 stays so beside 16-bit
        parameters (torch.optim casts it).

        Raises ValueError for a checkpoint of a later version than this one reads.
        """
        self._verdicts.settle()
        super().load_state_dict(checkpoint.with_own_options(self, state_dict))
        self._complete.clear()
        checkpoint.restore_wide_state(self, state_dict)
