"""What checkpoints need beyond torch.optim's: versions, options that they have not got, state that must not be cast.

Version 3 is version 2, and records may tell of a draw that is turned (nvrm_fast/contract/cycles.py), which readers of
version 2 would take off unturned, or of relative noise, whose factor they would take for b: a parameter's state then
has `weight_measure` (nvrm_fast/contract/measures.py), too.

Version 2 (its groups carry `checkpoint_version`, and `noise_contract`, the number of the function that its noise is): a
parameter's state is torch's, with int64 `step`, and
`perturbation`, the record of its noise (nvrm_fast/contract/record.py); with master weights `master_param`, the clean
weights; saved in evaluation mode `suspended_perturbation` (the record of the noise to put on again, while
`perturbation` says that there is none) and, without master weights, `suspended_param` (the noisy values). A group has
torch's options and the noise's.

Version 1 (its groups carry `coat_version`, or nothing in the very first ones) has plain numbers in place of the record:
`coat_scale`, `coat_noise`, `coat_seed` (of the noise that is on, drawn at `step`) and `coat_numel` (the parameter's
elements then; missing in the first ones); saved in evaluation mode `resting_scale` in place of the suspended record and
`noisy_param` in place of `suspended_param`. The streams lie in the groups, as `streams`. Their noise is of contract 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..contract.distributions import NOISE_CONTRACT
from ..contract.record import Record, pack, unpack
from ..contract.seeds import signed_seed
from . import carried
from .batches import PERTURBATION, STEP, Part
from .interface import SteppedOptimizer
from .shards import local_tensor

VERSION = 3
#: State keys of evaluation mode.
SUSPENDED, SUSPENDED_PARAM = "suspended_perturbation", "suspended_param"
_FIRST_KEYS = ("coat_scale", "coat_noise", "coat_seed", "coat_numel", "resting_scale", "noisy_param")


def _has_noise(state: dict[str, Any]) -> bool:
    """Whether noise is on the weights or, in evaluation mode, in the values that come back."""
    record = state.get(PERTURBATION)
    on = bool(state.get("coat_scale")) if record is None else unpack(record.tolist()).scale != 0
    return on or SUSPENDED_PARAM in state or "noisy_param" in state


def check_contract(groups: list[dict[str, Any]], state: dict[Any, dict[str, Any]]) -> None:
    """Raises ValueError where a parameter carries noise that has to come off and that this version cannot compute.

    With master weights it need not come off: the clean weights are in the state.
    """
    for group in groups:
        contract = group.get("noise_contract", 1)
        if contract == NOISE_CONTRACT:
            continue
        names = group.get("param_names", group["params"])
        for name, param in zip(names, group["params"]):
            of_param = state.get(param, {})
            has_noise = _has_noise(of_param)
            if has_noise and "master_param" not in of_param:
                which = f"parameter {name}" if isinstance(name, (str, int)) else "a parameter"
                raise ValueError(
                    f"the checkpoint's {which} carries noise of contract {contract}, which this nvrm_fast (contract "
                    f"{NOISE_CONTRACT}) cannot take off: load model and optimizer with the nvrm_fast that saved them, "
                    "call optimizer.denoise(), and save both again"
                )


def prepare(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict, completed by the options of the optimizer that it has not got; noted for `complete`.

    The last of the hooks that run before a state dict is loaded. Raises ValueError for a version from the future,
    and for noise of another contract that would have to come off.
    """
    for saved in state_dict["param_groups"]:
        version = saved.get("checkpoint_version", saved.get("coat_version", VERSION))
        if version > VERSION:
            raise ValueError(
                f"the checkpoint has version {version}, and this nvrm_fast reads up to {VERSION}: install a later one"
            )
    check_contract(state_dict["param_groups"], state_dict["state"])
    groups = []
    for saved, mine in zip(state_dict["param_groups"], optimizer.param_groups):
        kept = {key: value for key, value in mine.items() if key not in ("params", *saved)}
        own = {"backend": mine["backend"], "checkpoint_version": VERSION, "noise_contract": NOISE_CONTRACT}
        groups.append({**saved, **kept, **own})
    groups += state_dict["param_groups"][len(groups) :]
    optimizer._loading = state_dict = {**state_dict, "param_groups": groups}  # type: ignore[attr-defined]
    return state_dict


def complete(optimizer: SteppedOptimizer, loading: dict[str, Any] | None) -> None:
    """Brings state that torch has loaded, copied or unpickled to this version.

    loading: the state dict that it comes from, if it comes from one: torch casts its tensors to the parameters' dtype
    (the words of a record would be lost, and in float16 small second moments), and shares those that it need not cast.
    """
    if loading is None:
        check_contract(optimizer.param_groups, optimizer.state)
    for group in optimizer.param_groups:  # an earlier version may have pickled the optimizer
        group["noise_contract"] = NOISE_CONTRACT
        for key, value in optimizer.defaults.items():
            if key != "differentiable":  # torch's __setstate__ adds it to the defaults: it is no option here
                group.setdefault(key, value)
    if loading is not None:
        ids = [i for group in loading["param_groups"] for i in group["params"]]
        params = [param for group in optimizer.param_groups for param in group["params"]]
        for index, param in zip(ids, params):
            for key, value in loading["state"].get(index, {}).items():
                if isinstance(value, Tensor):
                    value = value.detach().to(device=param.device, copy=True)
                    optimizer.state[param][key] = value.to(torch.int64) if key == STEP else value
                elif value is None:  # torch.optim.SGD's momentum buffer, without momentum
                    optimizer.state[param].pop(key, None)
    for group in optimizer.param_groups:
        group.pop("coat_version", None)
        streams: Sequence[int] = group.pop("streams", ())
        group["checkpoint_version"] = VERSION
        for i, param in enumerate(group["params"]):
            _read_first_version(optimizer, group, param, streams[i] if i < len(streams) else None)
            state = optimizer.state.get(param, {})
            if isinstance(state.get(PERTURBATION), Tensor):
                carried.note(param, state)


def _read_first_version(optimizer: SteppedOptimizer, group: dict[str, Any], param: Tensor, stream: int | None) -> None:
    state = optimizer.state.get(param, {})
    if PERTURBATION in state or not ("coat_scale" in state or stream is not None):
        return
    if not state and stream == optimizer._stream(param):
        return  # a parameter without state: it will get this stream anyway
    number = {key: state.pop(key) for key in _FIRST_KEYS if key in state}
    step, rule = int(state.get(STEP, 0)), optimizer._rule(group)
    has_states = bool(rule.states) and all(key in state for key in rule.states)
    record = Record(
        scale=float(number.get("coat_scale", 0.0)),
        seed=signed_seed(number.get("coat_seed", 0)),
        distribution=number.get("coat_noise", 0),
        stream=optimizer._stream(param) if stream is None else stream,
        step=step,
        turn=0,
        rule_steps=max(step, 1) if has_states else step,
        numel=number.get("coat_numel", param.numel()),
    )

    def words(record: Record) -> Tensor:
        return torch.tensor(pack(record), device=local_tensor(param).device)

    if "resting_scale" in number:
        if "noisy_param" in number:
            state[SUSPENDED_PARAM] = number["noisy_param"]
        state[SUSPENDED] = words(record._replace(scale=float(number["resting_scale"])))
    state[PERTURBATION] = words(record)
    optimizer.state[param] = state


def is_state_initialization(optimizer: Optimizer, parts: list[Part]) -> bool:
    """Whether this step only wants the state to be made, as torch.distributed.checkpoint does before it loads one: the
    first step, every learning rate 0, every gradient 0. It must put no noise on weights that are loaded already."""
    if optimizer.state or any(float(group["lr"]) != 0 for group in optimizer.param_groups):
        return False
    grads = [grad for part in parts for grad in part.grads]
    return bool(grads) and not any(bool(grad.count_nonzero()) for grad in grads if grad.layout == torch.strided)
