"""What every noisy optimizer shares: arguments, streams, state and one operator call for all parameters of a group."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import backends
from ..noise import check_integer, distribution_code, signed_seed
from .memory import allocate
from .streams import assign_streams

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LOW_PRECISION = (torch.bfloat16, torch.float16)


@dataclass
class Bucket:
    """Parameters of one group that one operator call can serve: same device, dtype and kind of coat."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    masters: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    coat_scales: list[float] = field(default_factory=list)


def check_number(value: Any, name: str, *, low: float = 0.0, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value < high (which NaN and infinities never are), in torch.optim's words."""
    if isinstance(value, Tensor) and value.numel() != 1:
        what = "lr" if name == "learning rate" else name
        raise ValueError(f"Tensor {what} must be 1-element; its shape is {tuple(value.shape)}")
    if not low <= float(value) < high:
        limits = f"in [{low:g}, {high:g})" if high < math.inf else f"finite and at least {low:g}"
        colon = ":" if name.startswith(("learning rate", "beta parameter")) else " value:"
        raise ValueError(f"Invalid {name}{colon} {value}; it must be {limits}")


class NoisyOptimizer(Optimizer):
    """Base class; subclasses bring a rule (`rules.py`) and say what noise is drawn and whether it stays.

    Parameters may have any strides; gradients must be dense. `seed`, `noise` and the other noise arguments are options
    of a parameter group and may be changed between steps.
    """

    #: The noise stays in the weights for good: there is no coat to take off.
    keep_noise = False

    # What a subclass decides.

    def _noise_scale(self, group: dict[str, Any]) -> float:
        """b of the noise of this step."""
        raise NotImplementedError

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raises ValueError for hyper-parameters out of range. Rules extend it."""
        distribution_code(group["noise"], "noise")
        signed_seed(group["seed"])
        if group["master_weights"] not in (None, True, False):
            raise ValueError(f"master_weights must be None, True or False, got {group['master_weights']!r}")
        if group["backend"] is not None:
            backends.check_backend(group["backend"])

    def _init_state(self, group: dict[str, Any], param: Tensor, state: dict[str, Any], like: Tensor) -> None:
        """Adds the rule's tensors that are missing; `like` has their shape, strides and dtype."""
        raise NotImplementedError

    def _apply(self, group: dict[str, Any], bucket: Bucket, noise_args: tuple) -> None:
        """Calls the rule's operator."""
        raise NotImplementedError

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch.optim's; also checks dtypes and hyper-parameters and gives every parameter its stream."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_group(group)
            for i, param in enumerate(group["params"]):
                if param.dtype not in DTYPES:
                    raise TypeError(
                        f"parameter {self._name(group, i)} is {param.dtype}; supported are float32, float64, bfloat16 "
                        "and float16 (leave it out of the optimizer, or store it as a real tensor)"
                    )
        except Exception:
            self.param_groups.pop()
            raise
        taken = {stream for other in self.param_groups[:-1] for stream in other["streams"]}
        group["streams"] = assign_streams(group.get("param_names"), len(group["params"]), taken)

    def _name(self, group: dict[str, Any], i: int) -> str:
        names = group.get("param_names")
        if names is not None:
            return repr(names[i])
        before = 0
        for other in self.param_groups:
            if other is group:
                break
            before += len(other["params"])
        return f"{before + i} (pass named_parameters() to see its name)"

    # One step.

    def step(self, closure=None):
        """One step of the base rule on the clean weights, and fresh noise.

        closure: reevaluates the model and returns the loss. Returns the loss, or None.
        Raises RuntimeError for sparse gradients and TypeError for unsupported dtypes, before anything is written.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._check_step()
            for group in self.param_groups:
                self._step_group(group)
        return loss

    def _check_step(self) -> None:
        for group in self.param_groups:
            self._check_group(group)
            for i, param in enumerate(group["params"]):
                grad = param.grad
                if grad is None:
                    continue
                if grad.layout != torch.strided:
                    raise RuntimeError(
                        f"parameter {self._name(group, i)} has a sparse gradient, which is not supported: "
                        "use sparse=False in its embedding"
                    )
                if param.dtype not in DTYPES or grad.dtype != param.dtype:
                    raise TypeError(
                        f"parameter {self._name(group, i)} is {param.dtype} with a {grad.dtype} gradient; both must be "
                        "the same: float32, float64, bfloat16 or float16"
                    )

    def _step_group(self, group: dict[str, Any]) -> None:
        scale = self._noise_scale(group)
        noise = distribution_code(group["noise"], "noise")
        seed = group["seed"]
        denoise_every = group.get("denoise_every")
        buckets: dict[tuple, Bucket] = {}
        for param, stream in zip(group["params"], group["streams"]):
            if param.grad is None:
                continue
            state = self._ready_state(group, param)
            coat = (state["coat_noise"], state["coat_seed"]) if state["coat_scale"] else (noise, seed)
            bucket = buckets.setdefault((param.device, param.dtype, *coat), Bucket())
            bucket.params.append(param)
            bucket.grads.append(param.grad)
            bucket.states.append(state)
            if "master_param" in state:
                bucket.masters.append(state["master_param"])
            bucket.steps.append(state["step"])
            bucket.streams.append(stream)
            bucket.offsets.append(0)
            bucket.coat_scales.append(state["coat_scale"])
        for (_, _, coat_noise, coat_seed), bucket in buckets.items():
            bucket.scales = [scale] * len(bucket.params)
            if denoise_every is not None:
                # All counters at once: they may lie on a GPU, and the host has to wait for them.
                done = torch.stack([step.reshape(()) for step in bucket.steps]).tolist()
                bucket.scales = [0.0 if (step + 1) % denoise_every == 0 else scale for step in done]
            noise_args = (
                bucket.masters, bucket.steps, bucket.streams, bucket.offsets, bucket.scales, signed_seed(seed), noise,
                bucket.coat_scales, signed_seed(coat_seed), coat_noise, self.keep_noise,
            )  # fmt: skip
            self._apply(group, bucket, noise_args)
            if not self.keep_noise:
                for state, worn in zip(bucket.states, bucket.scales):
                    state["coat_scale"], state["coat_noise"], state["coat_seed"] = worn, noise, seed

    # State.

    def _ready_state(self, group: dict[str, Any], param: Tensor) -> dict[str, Any]:
        """The parameter's state, completed where this step needs more than there is."""
        state = self.state[param]
        # The record of the coat is plain numbers: torch's load_state_dict casts tensors to the parameter's dtype.
        if "coat_scale" not in state:
            state["coat_scale"], state["coat_noise"], state["coat_seed"] = 0.0, 0, 0
        step = state.get("step")
        # On a GPU the kernels read the counter there: the host never waits, and a captured graph counts on.
        home = param.device if param.device.type == "cuda" else torch.device("cpu")
        if not isinstance(step, Tensor) or step.dtype != torch.int64 or step.device != home:
            # It may be a number in what an old torch saved. int64, because noise must stay fresh beyond the 2^24 steps
            # that a float32 counter counts.
            state["step"] = torch.tensor(0 if step is None else int(step), dtype=torch.int64, device=home)
        master_weights = group["master_weights"]
        if master_weights or (master_weights is None and param.dtype in LOW_PRECISION):
            if "master_param" not in state:
                wide = torch.float64 if param.dtype == torch.float64 else torch.float32
                state["master_param"] = allocate(param, wide).copy_(param)
            like = state["master_param"]
        else:
            like = param
        self._init_state(group, param, state, like)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch.optim's; also takes checkpoints of the torch.optim class of the same rule.

        Group options that the checkpoint has not got keep their present values, and so does `backend`, which belongs
        to the machine and not to the training. State that was saved in float32 or float64 stays so beside 16-bit
        parameters (torch.optim casts it).
        """
        groups = []
        for saved, mine in zip(state_dict["param_groups"], self.param_groups):
            kept = {key: value for key, value in mine.items() if key not in ("params", *saved)}
            groups.append({**saved, **kept, "backend": mine["backend"]})
        groups += state_dict["param_groups"][len(groups) :]
        super().load_state_dict({**state_dict, "param_groups": groups})
        ids = [i for saved in groups for i in saved["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(ids, params):
            for key, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor) and key != "step" and value.dtype in (torch.float32, torch.float64):
                    if param.dtype in LOW_PRECISION and "master_param" in state_dict["state"][index]:
                        self.state[param][key] = value.detach().to(device=param.device, copy=True)


def check_denoise_every(value: Any) -> None:
    """Raises ValueError unless value is None or an integer of at least 1."""
    if value is not None and (check_integer(value, 62, "denoise_every") < 1):
        raise ValueError(f"denoise_every must be None or at least 1, got {value}")
