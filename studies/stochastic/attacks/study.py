"""Stochastic networks under adversarial attack (SE-SNN, section 4.2 and Figure 2).

An undefended network, deep VIB and SE-SNN (the element-wise max-entropy regularizer, equation 7) on images in [0, 1],
trained on clean images or also on FGS samples; untargeted FGS over epsilons from 0 to 0.5, and CW-L2 on the networks of
normal training, both with expected gradients over several draws of the noise. A closer look asks whether a defence
withstands or hides its gradient (Athalye et al., 2018): one draw against ten and a thousand, a step along the margin of
the logits, which has a gradient where the softmax is saturated, the mean network attacked, transfer from an undefended
network (for the undefended one from another, as a control), many steps (PGD), and epsilons at which no defence can
hold.

At one seed all networks see the same batches. No setting was chosen by the test set.

Written to --out: table.md, attacks.png and results.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from nvrm_fast import nn as noisy
from studies.data import ImageData, to_unit
from studies.fit import now
from studies.seeds import derive
from studies.settings import Count, Finite, NotNegative, Positive
from studies.stochastic.attacks import measures
from studies.stochastic.attacks import training as networks
from studies.stochastic.attacks.report import report
from studies.stochastic.attacks.training import BASELINE, METHODS, NORMAL, TRAININGS
from studies.study import Context, ImageStudy, Row

_Epsilon = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Attacks(ImageStudy):
    """The settings of stochastic-attacks."""

    methods: tuple[Literal[METHODS], ...] = METHODS
    """networks"""
    trainings: tuple[Literal[TRAININGS], ...] = TRAININGS
    """ways of training"""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (256, 256, 64)
    """hidden units; the last layer is stochastic"""
    epochs: Count = 20
    """passes over the training images"""
    batch_size: Count = 100
    """images a step"""
    lr: Positive = 1e-3
    """Adam's learning rate"""
    weight: NotNegative = 0.1
    """of SE-SNN's regularizer, equation 7"""
    margin: Finite = math.log(16)
    """b of equation 7, for log sigma"""
    reduction: Literal["mean", "sum"] = "mean"
    """of equation 7 over neurons: as printed, or a sum"""
    beta: NotNegative = 0.01
    """of deep VIB's divergence from N(0, 1)"""
    train_epsilon: NotNegative = 0.5
    """adversarial training draws its epsilons from 0 to this"""
    draws: Count = 10
    """draws of the noise for every gradient of an attack"""
    many_draws: Count = 1000
    """draws of the closer look's row with many: where sigma is large, few leave much noise in the gradient"""
    epsilons: tuple[_Epsilon, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    """strengths of FGS"""
    look_epsilons: tuple[_Epsilon, ...] = (0.1, 0.3, 0.5)
    """strengths of the closer look"""
    look_images: Count = 300
    """test images of the closer look"""
    pgd_steps: Count = 40
    """steps of PGD"""
    cw_images: Count = 100
    """test images of CW-L2"""
    cw_steps: Count = 100
    """steps of each search of CW-L2"""
    cw_searches: Count = 5
    """searches of CW-L2 for its weight"""
    cw_stepsize: Positive = 0.1
    """Adam's step of CW-L2"""

    presets = {
        "tiny": {
            "seeds": 1, "hidden": (16, 8), "epochs": 1, "draws": 2, "many_draws": 4,
            "epsilons": (0.0, 0.3), "look_epsilons": (0.3,), "look_images": 20,
            "pgd_steps": 2, "cw_images": 10, "cw_steps": 3, "cw_searches": 2,
        },
        "quick": {},
        "paper": {
            "data": "mnist", "seeds": 20, "hidden": (1024, 1024, 256), "look_images": 1000, "cw_images": 1000,
            "cw_steps": 500, "cw_searches": 9,
        },
    }  # fmt: skip
    axes = {"training": "trainings", "method": "methods"}
    extends = ("methods", "trainings")
    packages = ("foolbox",)
    report = report

    def prepare(self) -> ImageData:
        """float32 images in [0, 1], the box of the attacks; networks take them as they are, not standardized."""
        return to_unit(self.loaded(), self.device)

    def run(self, context: Context, *, seed: int, training: str, method: str) -> dict[str, Any]:
        """Train one network and attack it. CW-L2 attacks networks of normal training only."""
        data = context.prepared
        network, seconds = trained(context, method, training, seed)
        if method != BASELINE:
            noisy.set_regularizer(network, None)  # attacks are no passes of training
        result = {
            "weights": sum(parameter.numel() for parameter in network.parameters()),
            "log_deviation": networks.log_deviation(network, data.test_images),
            "training_seconds": seconds,
        }
        other = derive(seed, "another baseline") if method == BASELINE else seed
        surrogate = trained(context, BASELINE, training, other)[0]
        began = now(self.device)
        result |= measures.measure(
            network, data.test_images, data.test_labels, self, seed=seed, with_cw=training == NORMAL,
            surrogate=surrogate,
        )  # fmt: skip
        return result | {"seconds": now(self.device) - began}

    def summary(self, row: Row) -> str:
        """``FGS at 0.5: 41.2%``, at the last epsilon."""
        return f"under the strongest FGS {row['fgs'][-1]['mean']:.1%}"


def trained(context: Context, method: str, training: str, seed: int) -> tuple[nn.Sequential, float]:
    """A network and the seconds of its training. The undefended one, whose attacked images are carried over to all
    others, is trained once."""
    data, settings = context.prepared, context.settings
    if method != BASELINE:
        return networks.train(data, settings, method, training, seed)

    def make() -> dict[str, Any]:
        network, seconds = networks.train(data, settings, method, training, seed)
        return {"network": network.state_dict(), "seconds": seconds}

    kept = context.once(f"{BASELINE}-{training}-{seed}", make)
    network = networks.build(method, data.train_images[0].numel(), data.classes, settings.hidden, seed)
    network.load_state_dict(kept["network"])
    return network.to(settings.device), kept["seconds"]
