"""Names of a model's layers and parameters that do not depend on what the model is wrapped in."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

#: Attributes in which torch.compile, FSDP and checkpoint_wrapper hold what they wrap.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: Wrappers that hold it in an attribute that a user's module may have too.
_WRAPPERS = (nn.DataParallel, DistributedDataParallel, AveragedModel)


def unwrapped_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Dotted names of modules or parameters of a model without what torch's own wrappers add to them."""
    added = {f"{path}.module".lstrip(".") for path, module in model.named_modules() if isinstance(module, _WRAPPERS)}
    found = []
    for name in names:
        parts = name.split(".")
        kept = [part for i, part in enumerate(parts) if part not in _WRAPPED and ".".join(parts[: i + 1]) not in added]
        found.append(".".join(kept))
    return found


def inner_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The same, seen from the innermost module that contains them all: a model held in an attribute of another has the
    names that it has by itself. One name alone becomes the empty one."""
    paths = [name.split(".") for name in unwrapped_names(model, names)]
    common = 0
    while paths and all(len(path) > common and path[common] == paths[0][common] for path in paths):
        common += 1
    return [".".join(path[common:]) for path in paths]
