"""The phase diagram of your own model around a noise strength, and what it says in plain words (Levi et al. 2022).

--model names a function without arguments, as module:function, that returns a torch module; the module is looked for
in the current folder too. --tensors names a file written by torch.save({"train": (x, y), "test": (x, y)}, file).
Without them a network of this package and a data set of --data are probed.

    python -m nvrm_fast.experiments probe --model my_models:small --tensors my_data.pt --layer fc1 --sigma 1

Written to --out: probe.md and probe.json; a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pickle
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from nvrm_fast.experiments import StudyError, networks, report
from nvrm_fast.experiments.data import load, standardize
from nvrm_fast.experiments.injection import problems
from nvrm_fast.probe import CheckpointMismatch, probe
from nvrm_fast.probe.injection import KINDS

HELP = "the phase diagram of your own model around a noise strength"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("--layer", required=True, help="name of the layer that gets the node, as model.named_modules() lists it")
    add("--sigma", type=float, required=True, help="the noise strength in the middle of the scan")
    add("--model", metavar="MODULE:FUNCTION", help="what returns the model (default: --network)")
    add("--tensors", metavar="FILE", help="your data (default: --data)")
    add("--network", default="mlp", choices=tuple(networks.NETWORKS), help="this package's (default: %(default)s)")
    add("--loss", default="ce", choices=tuple(problems.LOSSES), help="default: %(default)s")
    add("--networks", type=int, default=13, help="strengths in the scan (default: %(default)s)")
    add("--refine", type=int, default=4, help="more strengths where training breaks (default: %(default)s)")
    add("--factors", type=float, nargs=2, default=(0.01, 100.0), metavar=("LOW", "HIGH"), help="of sigma: the scan")
    add("--kind", default="redrawn", choices=KINDS, help="noise (default: %(default)s)")
    problems.add_arguments(parser, lr=0.05, batch_size=128, epochs=5, out="runs/probe")


def main(arguments: argparse.Namespace) -> None:
    """Scan, print and write."""
    problems.check(arguments)
    folder = report.output_folder(arguments.out)
    train, test, built_in = _data(arguments)
    model = _model(arguments.model) if arguments.model else built_in()
    model = model.to(arguments.device)
    checkpoint = folder / "probe.pt"
    if arguments.fresh:
        for path in (checkpoint, folder / "probe.pt.refined"):
            path.unlink(missing_ok=True)
    try:
        diagram = probe(
            model, arguments.layer, arguments.sigma, train, test,
            loss=problems.LOSSES[arguments.loss][0], factors=tuple(arguments.factors),
            networks=arguments.networks, refine=arguments.refine, checkpoint=checkpoint, kind=arguments.kind,
            lr=arguments.lr, batch_size=arguments.batch_size, epochs=arguments.epochs, seed=arguments.seed,
        )  # fmt: skip
    except CheckpointMismatch as error:
        raise StudyError(
            f"--out holds a run with other settings: add --fresh or name another folder.\n{error}"
        ) from None
    except (ValueError, KeyError) as error:  # an argument that does not fit the model; the message names it
        raise StudyError(str(error.args[0])) from error
    text = diagram.describe(arguments.sigma)
    print(text)
    (folder / "probe.md").write_text(text + "\n", encoding="utf-8")
    settings = {name: value for name, value in vars(arguments).items() if name != "study"}
    content = {"study": "probe", "settings": settings, "versions": report.versions(arguments.device)}
    report.write_json(folder / "probe.json", content | {"diagram": diagram.to_dict()})
    print(f"written: {folder / 'probe.md'}, {folder / 'probe.json'}")


def _data(arguments: argparse.Namespace):
    """Training part, test part, and what builds this package's network for them."""
    if arguments.tensors:
        train, test = _tensors(Path(arguments.tensors), arguments.device)
        shape, classes = tuple(train[0].shape[1:]), 1 + int(train[1].max())
    else:
        data = standardize(load(arguments.data, arguments.data_dir), arguments.device)
        rows = problems.LOSSES[arguments.loss][1]
        train, test = (
            (images, nn.functional.one_hot(labels, data.classes).float() if rows else labels)
            for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
        )
        shape, classes = data.shape, data.classes
    train = train[0][: arguments.train_images], train[1][: arguments.train_images]
    if arguments.tensors and len(shape) != 3 and not arguments.model:
        raise StudyError("--tensors holds no images (N, channels, height, width): name your network with --model")
    return train, test, lambda: networks.build_network(arguments.network, shape, classes, seed=arguments.seed)


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
