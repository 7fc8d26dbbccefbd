"""All runs of the study: which first-stage networks they need, and what is on disk already."""

from __future__ import annotations

import itertools
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nvrm_fast.experiments.record import Record
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.stochastic.reid import flips, market1501, resnet, stages, views
from nvrm_fast.experiments.stochastic.reid.market1501 import Market
from nvrm_fast.experiments.stochastic.reid.methods import FORWARD, METHODS, PLAIN
from nvrm_fast.experiments.stochastic.reid.resnet import ResNet
from nvrm_fast.experiments.stochastic.reid.stages import Stage, Task

if TYPE_CHECKING:
    from nvrm_fast.experiments.stochastic.reid.study import ReidSettings

#: The settings that decide a network of the first stage.
_OF_THE_FIRST_STAGE = (
    *("market", "data", "identities", "test_identities", "network", "weights", "size"),
    *("iterations", "batch_size", "lr"),
)


class Runs:
    """The runs of a study on one task; results come from the record where it has them."""

    def __init__(self, chosen: ReidSettings, market: Market, record: Record, folder: Path) -> None:
        self.chosen, self.market, self.record, self.steps = chosen, market, record, 0
        self.folder = folder / "networks"
        self.labels = market.train.labels
        self.first = Stage(chosen.iterations, chosen.batch_size, chosen.lr)
        self.last = Stage(chosen.last_iterations, chosen.batch_size, chosen.last_lr)

    @cached_property
    def pictures(self) -> Tensor:
        """All training pictures; decoded when the first network is trained, so not where all runs are on disk."""
        return market1501.decode(self.market.train.paths, self.chosen.size).to(self.chosen.device)

    @cached_property
    def poor(self) -> Tensor | None:
        """(N,) bool, where a list of poor views lies beside the pictures."""
        path = self.market.train.paths[0].parent.parent / views.POOR_LIST
        if not path.exists():
            return None
        names = set(path.read_text(encoding="utf-8").split())
        return torch.tensor([path.name in names for path in self.market.train.paths], device=self.chosen.device)

    def all(self) -> list[dict[str, Any]]:
        """One row a seed, strength and method: these three and what ``stages.measure`` gives."""
        # By seeds first: a study that is stopped has all methods of the seeds it came to.
        places = list(itertools.product(range(self.chosen.seeds), self.chosen.strengths, self.chosen.methods))
        rows = []
        with progress(len(places), "runs") as self.bar:
            for seed, strength, method in places:
                place = {"method": method, "strength": strength, "seed": seed}
                self.bar.set_description(f"{method}, {100 * strength:g} %, seed {seed}")
                rows.append(place | self.record.run(place, partial(self.one, **place)))
                self.bar.update()
        return rows

    def _after_step(self) -> None:
        """Shows that long trainings move."""
        self.steps += 1
        if self.steps % 20 == 0:
            self.bar.set_postfix_str(f"{self.steps} steps")

    def one(self, *, method: str, strength: float, seed: int) -> dict[str, Any]:
        """Trains one method through both stages and measures it."""
        kind, task = METHODS[method], self.task(strength, seed)
        network = self.first_network(kind.loss, strength, seed)
        corruption = self.corruption(task, strength, seed) if kind.loss == FORWARD else None
        network, result = stages.second_stage(
            network, task, self.last, kind, corruption, seed, (self.chosen.weight, self.chosen.margin), self._after_step
        )
        return result | stages.measure(network, task, self.market, self.chosen.size, self.poor)

    def task(self, strength: float, seed: int) -> Task:
        """The training pictures with the labels of one strength and seed."""
        similar = torch.arange(len(self.labels))
        if strength > 0:
            place = {"what": "most similar pictures of other identities", "seed": seed}
            similar = torch.tensor(self.record.run(place, partial(self.similar, seed)))
        given, flipped = flips.flip_to_similar(self.labels, similar, strength, seed)
        device = self.chosen.device
        return Task(self.pictures, given.to(device), flipped.to(device), int(self.labels.max()) + 1)

    def similar(self, seed: int) -> list[int]:
        """The most similar picture of another identity for each one, to the network that right labels made."""
        network = self.first_network(PLAIN, 0.0, seed)
        features = stages.over(network, self.pictures, network.features)
        return flips.most_similar_other(features, self.labels.to(features.device)).tolist()

    def corruption(self, task: Task, strength: float, seed: int) -> Tensor:
        """What forward correction estimates from the network that was trained by cross entropy on the same labels."""
        return stages.corruption_of(self.first_network(PLAIN, strength, seed), task)

    def first_network(self, loss: str, strength: float, seed: int) -> ResNet:
        """The network of the first stage, from disk if it is there; several methods share it."""
        network = resnet.build(self.chosen.network, int(self.labels.max()) + 1, seed)
        path = self.folder / f"{loss.replace(', ', '-').replace(' ', '-')}-{strength:g}-{seed}.pt"
        made_by = {name: getattr(self.chosen, name) for name in _OF_THE_FIRST_STAGE}
        if path.exists():
            found = torch.load(path, map_location="cpu", weights_only=True)
            # Runs may have been deleted and started again with other settings.
            if found["settings"] == made_by:
                network.load_state_dict(found["network"])
                return network.to(self.chosen.device).eval()
        if self.chosen.weights == "download":
            resnet.download_weights(network)
        elif self.chosen.weights != "none":
            resnet.load_weights(network, self.chosen.weights)
        network = network.to(self.chosen.device)
        task = self.task(strength, seed)
        corruption = self.corruption(task, strength, seed) if loss == FORWARD else None
        stages.first_stage(network, task, self.first, stages.loss_of(loss, corruption), seed, self._after_step)
        self.folder.mkdir(exist_ok=True)
        part = path.with_suffix(".part")  # a network that a kill cut short must not be taken for a whole one
        torch.save({"settings": made_by, "network": network.state_dict()}, part)
        part.replace(path)
        return network
