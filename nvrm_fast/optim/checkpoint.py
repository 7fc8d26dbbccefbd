"""What checkpoints need beyond torch.optim's: versions, options that they have not got, state that must not be cast.

Version 2: as version 1, and each group carries `noise_contract`, the number of the function that its noise is
(`nvrm_fast.reference.noise.CONTRACT`).

Version 1 (its groups carry `coat_version`): a parameter's state is torch's, with int64 `step`, and `coat_scale`,
`coat_noise`, `coat_seed` (the coat that it wears, drawn at `step`), `coat_numel` (its elements then) and, with master
weights, `master_param`; saved in evaluation mode, `resting_scale` (of the coat to put on again, while `coat_scale` is
0) and, without master weights, `noisy_param`; a group has torch's options, the noise's, and `streams`. The first
checkpoints have neither `coat_version` nor `coat_numel`. Noise of both is of contract 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..reference.noise import CONTRACT
from .bucket import Member

VERSION = 2


def check_contract(groups: list[dict[str, Any]], state: dict[Any, dict[str, Any]]) -> None:
    """Raises ValueError where a parameter carries noise that has to come off and that this version cannot compute.

    With master weights it need not come off: the clean weights are in the state.
    """
    for group in groups:
        contract = group.get("noise_contract", 1)
        if contract == CONTRACT:
            continue
        names = group.get("param_names", group["params"])
        for name, param in zip(names, group["params"]):
            of_param = state.get(param, {})
            has_noise = bool(of_param.get("coat_scale")) or "noisy_param" in of_param
            if has_noise and "master_param" not in of_param:
                which = f"parameter {name}" if isinstance(name, (str, int)) else "a parameter"
                raise ValueError(
                    f"the checkpoint's {which} carries noise of contract {contract}, which this nvrm_fast (contract "
                    f"{CONTRACT}) cannot take off: load model and optimizer with the nvrm_fast that saved them, call "
                    "optimizer.denoise(), and save both again"
                )


def with_own_options(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict, completed by the options of the optimizer that it has not got. Raises ValueError for a version
    from the future and for noise in place of another contract."""
    for saved in state_dict["param_groups"]:
        version = saved.get("coat_version", VERSION)
        if version > VERSION:
            raise ValueError(
                f"the checkpoint has version {version}, and this nvrm_fast reads up to {VERSION}: install a later one"
            )
    check_contract(state_dict["param_groups"], state_dict["state"])
    groups = []
    for saved, mine in zip(state_dict["param_groups"], optimizer.param_groups):
        kept = {key: value for key, value in mine.items() if key not in ("params", *saved)}
        own = {"backend": mine["backend"], "coat_version": VERSION, "noise_contract": CONTRACT}
        groups.append({**saved, **kept, **own})
    groups += state_dict["param_groups"][len(groups) :]
    return {**state_dict, "param_groups": groups}


def complete_groups(optimizer: Optimizer) -> None:
    """For optimizers that were pickled by an earlier version. Raises ValueError as `with_own_options`."""
    check_contract(optimizer.param_groups, optimizer.state)
    for group in optimizer.param_groups:
        group.setdefault("coat_version", VERSION)
        group["noise_contract"] = CONTRACT
        for key, value in optimizer.defaults.items():
            if key != "differentiable":  # torch's __setstate__ adds it to the defaults: it is no option here
                group.setdefault(key, value)


def restore_wide_state(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Beside 16-bit parameters: what load_state_dict has cast to their dtype, as it was saved (in float16 small second
    moments would vanish). The next step brings it into the dtype that it needs."""
    ids = [i for group in state_dict["param_groups"] for i in group["params"]]
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, param in zip(ids, params):
        for key, value in state_dict["state"].get(index, {}).items():
            if isinstance(value, Tensor) and key != "step" and value.dtype in (torch.float32, torch.float64):
                if value.dtype != param.dtype:
                    optimizer.state[param][key] = value.detach().to(device=param.device, copy=True)


def is_state_initialization(optimizer: Optimizer, members: list[tuple[dict[str, Any], list[Member]]]) -> bool:
    """Whether this step only wants the state to be made, as torch.distributed.checkpoint does before it loads one: the
    first step, every learning rate 0, every gradient 0. It must not put a coat on weights that are loaded already."""
    if optimizer.state or any(float(group["lr"]) != 0 for group in optimizer.param_groups):
        return False
    grads = [member.grad for _, some in members for member in some if member.grad is not None]
    return bool(grads) and not any(bool(grad.count_nonzero()) for grad in grads if grad.layout == torch.strided)
