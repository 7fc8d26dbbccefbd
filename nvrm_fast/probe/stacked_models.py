"""The networks of a scan as stacked tensors: start, thin out, save, load."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


class CheckpointMismatch(ValueError):
    """A checkpoint that belongs to another scan."""


class StackedNetworks:
    """Copies of one model in tensors (networks, ...), their optimizer, and what was recorded so far.

    alive: int64, which of the scan's networks the stack still holds. A network that has diverged to NaN can only stay
    NaN: it is left out, and costs no more time.
    """

    def __init__(self, model: nn.Module, count: int, make_optimizer: MakeOptimizer, series: tuple[str, ...]) -> None:
        def stacked(values: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
            return {name: torch.stack([value.detach()] * count) for name, value in values}

        self.count = count
        self.parameters = stacked(model.named_parameters())
        self.buffers = stacked(model.named_buffers())
        self.alive = torch.arange(count)
        self.trained = [name for name, value in model.named_parameters() if value.requires_grad]
        self.optimizer = make_optimizer([self.parameters[name].requires_grad_() for name in self.trained])
        self.step = 0
        self.steps: list[int] = []  # at which something was recorded
        self.rows: dict[str, list[Tensor]] = {name: [] for name in series}

    def record(self, row: dict[str, Tensor]) -> None:
        """Append one value a network to every series; NaN for those that are left out."""
        for name, rows in self.rows.items():
            value = torch.full((self.count,), torch.nan, dtype=torch.float64)
            value[self.alive] = row[name].double().cpu()
            rows.append(value)
        self.steps.append(self.step)

    def keep(self, which: Tensor) -> None:
        """Leave out all networks of the stack but those where `which`, bool of shape (alive,), is true."""
        size = len(self.alive)
        self.alive = self.alive[which.cpu()]
        self.buffers = {name: value[which] for name, value in self.buffers.items()}
        fresh = {name: value.detach()[which] for name, value in self.parameters.items()}
        swaps = {id(self.parameters[name]): fresh[name].requires_grad_() for name in self.trained}
        for group in self.optimizer.param_groups:
            group["params"] = [swaps[id(old)] for old in group["params"]]
        states, self.optimizer.state = self.optimizer.state, type(self.optimizer.state)(dict)
        for old, state in states.items():
            self.optimizer.state[swaps[id(old)]] = {
                key: value[which] if isinstance(value, Tensor) and value.shape[:1] == (size,) else value
                for key, value in state.items()
            }
        self.parameters = fresh

    def save(self, path: Path, fingerprint: str) -> None:
        """Write everything to a file, or leave the file as it was."""
        content = {
            "fingerprint": fingerprint,
            "alive": self.alive,
            "parameters": {name: value.detach() for name, value in self.parameters.items()},
            "buffers": self.buffers,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "steps": self.steps,
            "rows": self.rows,
        }
        beside = path.with_name(path.name + ".new")
        torch.save(content, beside)
        beside.replace(path)

    def load(self, path: Path, fingerprint: str, device: torch.device) -> None:
        """Go on from a file.

        Raises:
            CheckpointMismatch: if it is of a scan with another fingerprint.
        """
        content = torch.load(path, map_location=device, weights_only=True)
        if content["fingerprint"] != fingerprint:
            raise CheckpointMismatch(
                f"{path} is a checkpoint of another scan: name another file, or delete it.\n"
                f"there: {content['fingerprint']}\nhere:  {fingerprint}"
            )
        alive = content["alive"].cpu()
        if len(alive) < self.count:
            self.keep(torch.isin(self.alive, alive).to(device))
        with torch.no_grad():
            for own, saved in ((self.parameters, content["parameters"]), (self.buffers, content["buffers"])):
                for name, value in own.items():
                    value.copy_(saved[name])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.steps = content["step"], content["steps"]
        self.rows = {name: [row.cpu() for row in rows] for name, rows in content["rows"].items()}
