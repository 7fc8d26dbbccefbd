"""Does taking the noise off help? NVRM-SGD against PSGD, which leaves its noise in the weights, by b.

The paper's section 4 (5), Figure 6, on 40 % asymmetric wrong labels, at the paper's weight decay and at a hundred times
it. PSGD adds noise of scale b to the gradient, so its weights move by lr * b a step.

Written to --out: table.md, scales.png and results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from studies.optimizers import NVRM_SGD, PERTURBED_SGD, SGD
from studies.settings import SOME, NotNegative
from studies.study import Report, Row
from studies.variability import scales, training
from studies.variability.scales import ScaleStudy


@dataclass(frozen=True, kw_only=True)
class Denoising(ScaleStudy):
    """The settings of denoising."""

    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
    """NVRM-SGD's b, one or more"""
    psgd_variability: Annotated[tuple[NotNegative, ...], SOME] = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5)
    """PSGD's b, one or more"""

    presets = {
        "tiny": training.tiny(variability=(0.02,), psgd_variability=(0.1,)),
        "quick": training.quick(variability=(0.02, 0.05), psgd_variability=(0.1, 0.5)),
        "long": training.long(variability=(0.02, 0.03, 0.05), psgd_variability=(0.1, 0.2, 0.5)),
        "paper": training.paper(weight_decay=(1e-4,)),
    }
    extends = ("weight_decay", "variability", "psgd_variability")

    def cells(self) -> Iterator[dict[str, Any]]:
        """At each seed and weight decay SGD, NVRM-SGD at each b, PSGD at each of its own."""
        optimizers = ((SGD, (0.0,)), (NVRM_SGD, self.variability), (PERTURBED_SGD, self.psgd_variability))
        for seed, decay in itertools.product(range(self.seeds), self.weight_decay):
            for optimizer, values in optimizers:
                for b in values:
                    yield {"optimizer": optimizer, "weight_decay": decay, "variability": b, "seed": seed}

    def report(self, rows: list[Row]) -> Report:
        """The table, the differences from SGD and the figure."""
        text = training.report_text(self, rows, *training.place("variability"), at_same=["weight_decay"])
        figure = scales.draw(self, rows, "variability", "b", lambda row: row["optimizer"], levels=(SGD,))
        return Report(text, {"scales.png": figure})
