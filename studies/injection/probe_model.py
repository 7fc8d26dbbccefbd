"""The phase diagram of your own model around a noise strength, and what it says in plain words (Levi et al. 2022).

--model names a function without arguments, as module:function, that returns a torch module; the module is looked for
in the current folder too. --tensors names a file written by torch.save({"train": (x, y), "test": (x, y)}, file).
Without them a network of these studies and a data set of --data are probed.

    python -m studies probe --model my_models:small --tensors my_data.pt --layer fc1 --sigma 1

Written to --out: table.md and results.json.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nvrm_fast.probe import PhaseDiagram, probe
from nvrm_fast.probe.injection import KINDS
from studies import StudyError, models
from studies.injection.problems import LOSSES, InjectionStudy, Loss, Range, TwoOrMore, matching, parts
from studies.seeds import derive
from studies.settings import Positive
from studies.study import Context, Report, Row

Data = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Probe(InjectionStudy):
    """The settings of probe."""

    layer: str = "1"
    """name of the layer that gets the node, as model.named_modules() lists it; 1 is the mlp's first hidden layer"""
    sigma: Positive = 1.0
    """the noise strength in the middle of the scan"""
    model: str | None = None
    """module:function that returns the model (None: --network)"""
    tensors: str | None = None
    """file with your data (None: --data)"""
    network: models.NetworkName = "mlp"
    """network of these studies"""
    loss: Loss = "ce"
    """mse or ce"""
    networks: TwoOrMore = 13
    """strengths in the scan"""
    refine: Annotated[int, Field(ge=0)] = 4
    """more strengths where training breaks"""
    factors: Range = (0.01, 100.0)
    """of sigma: the scan"""
    kind: Literal[tuple(KINDS)] = "redrawn"
    """noise"""

    presets = {
        "tiny": {"data": "mnist-5000", "networks": 3, "epochs": 1, "batch_size": 500, "train_images": 1000},
        "quick": {"data": "mnist-5000"},
        "paper": {"epochs": 30},
    }

    def prepare(self) -> tuple[nn.Module, Data]:
        """The model, and training and test part."""
        low, high = self.factors
        if low >= high:
            raise StudyError(f"--factors is {low} {high}: choose two rising numbers above 0")
        if self.tensors:
            train, test = _tensors(Path(self.tensors), self.device)
            shape, classes = tuple(train[0].shape[1:]), 1 + int(train[1].max())
            if len(shape) != 3 and not self.model:
                raise StudyError(
                    "--tensors holds no images (N, channels, height, width): name your network with --model"
                )
        else:
            data = super().prepare()
            train, test = parts(data, self.loss)
            shape, classes = data.shape, data.classes
        seed = derive(self.seed, "weights")
        model = _model(self.model) if self.model else models.build(self.network, shape, classes, seed=seed)
        return model.to(self.device), ((train[0][: self.train_images], train[1][: self.train_images]), test)

    def run(self, context: Context, *, seed: int) -> dict[str, Any]:
        """The scan, as ``PhaseDiagram.to_dict``."""
        model, (train, test) = context.prepared
        context.checkpoints.mkdir(parents=True, exist_ok=True)
        try:
            with matching():
                diagram = probe(
                    model, self.layer, self.sigma, train, test, loss=LOSSES[self.loss][0],
                    factors=self.factors, networks=self.networks, refine=self.refine,
                    checkpoint=context.checkpoints / "probe.pt", kind=self.kind, lr=self.lr,
                    batch_size=self.batch_size, epochs=self.epochs, seed=derive(seed, "scan"),
                )  # fmt: skip
        except (ValueError, KeyError) as error:  # a setting that does not fit the model; the message names it
            raise StudyError(str(error.args[0])) from error
        return diagram.to_dict()

    def report(self, rows: list[Row]) -> Report:
        """The diagram, and where your sigma stands."""
        return Report(PhaseDiagram.from_dict(rows[0]).describe(self.sigma))


def _tensors(path: Path, device: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        (x, y), (x_test, y_test) = content["train"], content["test"]
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise StudyError(
            f'--tensors {path} cannot be used ({reason}): write it by torch.save({{"train": (x, y), "test": (x, y)}})'
        ) from None
    return (x, y), (x_test, y_test)


def _model(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    if not function:
        raise StudyError(f"--model is {name!r}: write it as module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        model = getattr(importlib.import_module(module), function)()
    except (ModuleNotFoundError, AttributeError, TypeError) as error:
        raise StudyError(f"--model {name} cannot be made ({error}): name a function without arguments") from error
    if not isinstance(model, nn.Module):
        raise StudyError(f"--model {name} returned a {type(model).__name__}, not a torch module")
    return model
