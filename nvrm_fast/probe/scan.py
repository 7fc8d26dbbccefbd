"""A scan over sigma: many networks that differ in nothing but the noise strength, trained at once.

The networks' parameters are stacked and one `torch.func.vmap` runs them all, so a GPU or a CPU sees few large
operations. All networks start from the same weights and see the same batches and the same unit noise, each times its
own sigma: what differs between them is sigma's doing.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from nvrm_fast.contract.distributions import distribution_code
from nvrm_fast.contract.seeds import check_integer, check_number
from nvrm_fast.noise import noise

from .example_noise import example_noise, key_of_seed
from .injection import NoiseInjection
from .layer_derivatives import Loss
from .phase_diagram import PhaseDiagram
from .phases import Criteria
from .progress import progress_bar
from .restored import check_finite, restored
from .stacked_models import StackedNetworks

_SECONDS_BETWEEN_SAVES = 60.0
_STREAM = 0  # of the scan's seed
#: What a scan records, one row a record and one column a network.
SERIES = (
    "noise_norm",
    "next_norm",
    "training_loss",
    "training_accuracy",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
)


@dataclass(frozen=True)
class Plan:
    """How a scan trains. Everything that decides its numbers, but for the model, the data and the loss.

    Args:
        sigmas: standard deviations of the injected noise, one network each.
        layer, nodes, kind, distribution, weight_std, features, dim: as `NoiseInjection` takes them.
        next_layer: the layer fed by `layer`, for the norm of its weights.
        lr: of plain SGD, unless `scan` gets an optimizer.
        batch_size, epochs: the last batch of an epoch may be smaller.
        seed: of the batches' order, of the noise and of W_NI's start.
        records: how many times to measure, spread evenly over the run after a denser beginning.
        evaluate_on: examples of each part of the data to judge by (the first so many); None: all.
    """

    sigmas: tuple[float, ...]
    layer: str
    next_layer: str | None = None
    nodes: int = 1
    kind: str = "redrawn"
    distribution: str = "gaussian"
    weight_std: float | None = None
    features: int | None = None
    dim: int | None = None
    lr: float = 0.01
    batch_size: int = 128
    epochs: int = 10
    seed: int = 0
    records: int = 60
    evaluate_on: int | None = 5000

    def __post_init__(self) -> None:
        for sigma in self.sigmas:
            check_number(sigma, "each of sigmas")
        object.__setattr__(self, "sigmas", tuple(float(sigma) for sigma in self.sigmas))
        if not self.sigmas or min(self.sigmas) < 0:
            raise ValueError(f"sigmas must be one number or more, none negative; got {self.sigmas}")
        if not all(math.isfinite(sigma) for sigma in self.sigmas):
            raise ValueError(f"sigmas must be finite, got {self.sigmas}")
        for name in ("batch_size", "epochs", "records", "nodes"):
            if check_integer(getattr(self, name), 63, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        check_integer(self.seed, 64, "seed")
        check_number(self.lr, "lr")
        if self.evaluate_on is not None and check_integer(self.evaluate_on, 63, "evaluate_on") < 1:
            raise ValueError(f"evaluate_on must be 1 or more, or None; got {self.evaluate_on}")

    def record_steps(self, total: int) -> list[int]:
        """0, 1, 2, 4, ... while denser than even spacing, then evenly, and the last step."""
        spacing = max(1, total // self.records)
        dense = {0} | {2**k for k in range(total.bit_length()) if 2**k < spacing}
        return sorted(dense | set(range(0, total, spacing)) | {total})


def scan(
    model: nn.Module,
    plan: Plan,
    loss: Loss,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    criteria: Criteria | None = None,
    checkpoint: str | Path | None = None,
    at_once: int | None = None,
    progress: bool = True,
    stop_after: int | None = None,
) -> PhaseDiagram:
    """Train one copy of a model for every sigma and measure all of them.

    Args:
        model: the start of every network; left as it is. What `torch.func.vmap` cannot run it cannot be; layers that
            keep statistics (batch normalization) keep them for each network.
        plan: sigmas, node, and how to train.
        loss: maps outputs and targets to the mean loss of a batch.
        train, test: inputs and targets as whole tensors on the model's device; example k is row k.
        optimizer: makes an optimizer from the stacked parameters, each (networks, ...): any that works element by
            element (SGD, Adam; not LAMB or gradient clipping by norm). By default SGD with plan.lr.
        criteria: thresholds of the phases.
        checkpoint: file to write every minute and at the end, and to go on from if it is there. A scan that was
            stopped and goes on gives the same bits as one that was not, on the same machine and threads.
        at_once: networks in one vmap; fewer need less memory for activations.
        progress: a bar, where tqdm is installed and the output is a terminal.
        stop_after: stop after so many steps in all, with the checkpoint written; for tests and time limits.

    Returns:
        The curves of all networks, their phases and decay times.

    Raises:
        CheckpointMismatch: a ValueError, for a checkpoint of another plan, model or data.
        ValueError: for data that do not fit together or have NaN or infinity. What `NoiseInjection` raises.
        TypeError: for data of another kind.
    """
    for name, data in (("train", train), ("test", test)):
        if not (isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)):
            raise TypeError(f"{name} must be (inputs, targets), two tensors; got {type(data).__name__}")
        check_finite(data[0], f"{name}'s inputs")
        check_finite(data[1], f"{name}'s targets")
    inputs, targets = train
    if len(inputs) != len(targets) or len(test[0]) != len(test[1]) or not len(inputs) or not len(test[0]):
        raise ValueError(f"{len(inputs)} training inputs, {len(targets)} targets; {len(test[0])}, {len(test[1])} test")
    device = inputs.device
    with restored(model), _injected(model, plan) as injection:
        networks = _Networks(model, injection, plan, loss, device, at_once)
        make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=plan.lr))
        stack = StackedNetworks(model, len(plan.sigmas), make, SERIES)
        fingerprint = _fingerprint(plan, model, stack.optimizer, (*train, *test))
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None and path.exists():
            stack.load(path, fingerprint, device)
        a_pass = -(-len(inputs) // plan.batch_size)
        total = a_pass * plan.epochs
        record_at, judged = set(plan.record_steps(total)), [_first(part, plan.evaluate_on) for part in (train, test)]
        saved = time.monotonic()
        with progress_bar(total, stack.step, progress) as advance:
            while True:
                order = _order(len(inputs), plan.seed, stack.step // a_pass)
                at = stack.step % a_pass * plan.batch_size
                batch = order[at : at + plan.batch_size].to(device)
                recorded = stack.step in record_at and (not stack.steps or stack.steps[-1] < stack.step)
                last = stack.step == total
                networks.learn(stack, inputs[batch], targets[batch], batch, judged if recorded else None, last)
                if last or stack.step == stop_after:
                    break
                advance()
                if path is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    stack.save(path, fingerprint)
                    saved = time.monotonic()
        if path is not None:
            stack.save(path, fingerprint)
    series = {name: torch.stack(rows) for name, rows in stack.rows.items()}
    return PhaseDiagram(plan.sigmas, torch.tensor(stack.steps), a_pass, series, criteria or Criteria())


#: What is judged: training and test data, inputs and targets each.
Data = list[tuple[Tensor, Tensor]]


class _Networks:
    """The stacked networks and what happens to all of them at once."""

    def __init__(
        self,
        model: nn.Module,
        injection: NoiseInjection,
        plan: Plan,
        loss: Loss,
        device: torch.device,
        at_once: int | None,
    ) -> None:
        self.model, self.injection, self.plan, self.loss, self.device = model, injection, plan, loss, device
        self.sigmas = torch.tensor(plan.sigmas, device=device)
        self.at_once = at_once
        names = dict(model.named_parameters())
        self.next_name = None if plan.next_layer is None else f"{plan.next_layer}.weight"
        if self.next_name is not None and self.next_name not in names:
            raise KeyError(f"next_layer {plan.next_layer!r} is not a layer of the model with a weight")

    def learn(
        self, stack: StackedNetworks, inputs: Tensor, targets: Tensor, batch: Tensor, judged: Data | None, last: bool
    ) -> None:
        """One training step of every network; measured before it where `judged` says by what."""
        if judged is not None:
            self._leave_out_the_dead(stack)
        if not len(stack.alive):
            if judged is not None:
                stack.record(dict.fromkeys(SERIES, torch.empty(0)))
            stack.step += not last
            return
        eps = self._eps(stack.step, batch)
        losses, outputs = self._forward(stack, inputs, targets, eps)
        if judged is not None:
            self._record(stack, losses, outputs, targets, judged)
        if last:
            return
        stack.optimizer.zero_grad()
        losses.sum().backward()  # networks share nothing: each gets the gradient of its own loss
        stack.optimizer.step()
        stack.step += 1

    def _leave_out_the_dead(self, stack: StackedNetworks) -> None:
        weights = stack.parameters[self.injection.parameter_name].detach().flatten(1)
        alive = torch.isfinite(weights).all(1)
        if not alive.all():
            stack.keep(alive)

    def _eps(self, step: int, batch: Tensor) -> Tensor:
        """Unit noise (N, nodes), the same for all networks."""
        plan = self.plan
        if plan.kind == "fixed":
            code = distribution_code(plan.distribution)
            key = key_of_seed(plan.seed, self.device)
            return example_noise(batch, plan.nodes, key, stream=_STREAM, distribution=code)
        flat = noise(
            len(batch) * plan.nodes,
            seed=plan.seed,
            stream=_STREAM,
            step=step,
            distribution=plan.distribution,
            device=self.device,
        )
        return flat.view(len(batch), plan.nodes)

    def _forward(
        self, stack: StackedNetworks, inputs: Tensor, targets: Tensor, eps: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Losses (networks,) and outputs (networks, N, ...); without noise where eps is None."""

        def run_network(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], sigma: Tensor
        ) -> tuple[Tensor, Tensor]:
            given = torch.zeros_like(unit) if eps is None else sigma * unit
            with self.injection.given(given):
                outputs = functional_call(self.model, {**parameters, **buffers}, (inputs,))
            return self.loss(outputs, targets), outputs

        unit = torch.zeros(len(inputs), self.plan.nodes, device=self.device) if eps is None else eps
        run = vmap(run_network, randomness="different", chunk_size=self.at_once)
        return run(stack.parameters, stack.buffers, self.sigmas[stack.alive.to(self.device)])

    @torch.no_grad()
    def _record(self, stack: StackedNetworks, losses: Tensor, outputs: Tensor, targets: Tensor, judged: Data) -> None:
        row = {
            "noise_norm": _norms(stack.parameters[self.injection.parameter_name]),
            "next_norm": _norms(stack.parameters[self.next_name])
            if self.next_name
            else torch.full_like(losses, torch.nan),
            "training_loss": losses.detach(),
            "training_accuracy": _accuracies(outputs.detach(), targets),
        }
        self.model.eval()
        for part, data in zip(("train", "test"), judged):
            row[f"{part}_loss"], row[f"{part}_accuracy"] = self._judge(stack, *data)
        self.model.train()
        stack.record(row)

    def _judge(self, stack: StackedNetworks, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy without noise, in parts that bound the memory."""
        loss = accuracy = torch.zeros((), device=self.device)
        for part, wanted in zip(inputs.split(1000), targets.split(1000)):
            losses, outputs = self._forward(stack, part, wanted, None)
            loss = loss + losses * len(part) / len(inputs)
            accuracy = accuracy + _accuracies(outputs, wanted) * len(part) / len(inputs)
        return loss, accuracy


@contextlib.contextmanager
def _injected(model: nn.Module, plan: Plan) -> Iterator[NoiseInjection]:
    """The model with its node, in training mode; both undone at the end of the block."""
    modes = {module: module.training for module in model.modules()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(plan.seed)
        injection = NoiseInjection(
            model,
            plan.layer,
            1.0,
            nodes=plan.nodes,
            kind=plan.kind,
            distribution=plan.distribution,
            weight_std=plan.weight_std,
            features=plan.features,
            dim=plan.dim,
        )
    try:
        model.train()
        yield injection
    finally:
        injection.remove()
        for module, mode in modes.items():
            module.training = mode


def _fingerprint(plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, ...]) -> str:
    """Tells scans apart: the plan, and sizes and sums of the model's start and of the data."""
    start = ", ".join(f"{name} {list(value.shape)}" for name, value in model.named_parameters())
    total = sum(float(value.detach().double().sum()) for value in model.parameters())
    shapes = ", ".join(f"{list(part.shape)} sum {float(part.double().sum()):.5g}" for part in data)
    return f"{plan}; {type(optimizer).__name__}; {start}, sum {total:.5g}; data {shapes}"


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    """The examples' order in an epoch: a function of seed and epoch, so that a scan that goes on need not save it."""
    return torch.randperm(count, generator=torch.Generator().manual_seed((1_000_003 * seed + epoch) % 2**63))


def _first(data: tuple[Tensor, Tensor], count: int | None) -> tuple[Tensor, Tensor]:
    return data[0][:count], data[1][:count]


def _norms(stacked: Tensor) -> Tensor:
    return stacked.detach().flatten(1).norm(dim=1)


def _accuracies(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right argmax of each network, NaN where targets are no classes; see `recorder.argmax_accuracy`."""
    if outputs.dim() < 3 or outputs.shape[-1] < 2:
        return outputs.new_full((len(outputs),), torch.nan)
    classes = targets.argmax(-1) if targets.shape == outputs.shape[1:] else targets
    if classes.is_floating_point() or classes.shape != outputs.shape[1:-1]:
        return outputs.new_full((len(outputs),), torch.nan)
    return (outputs.argmax(-1) == classes).double().flatten(1).mean(1)
