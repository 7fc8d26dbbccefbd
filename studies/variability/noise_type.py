"""Which noise? NVRM-SGD with Gaussian, uniform and Laplace noise on the weights, by b.

The paper's section 4 (6), Figure 7, on 40 % asymmetric wrong labels. b is each distribution's scale; their standard
deviations are b, b / sqrt(3) and b * sqrt(2). At the paper's weight decay and at a hundred times it.

Written to --out: table.md, scales.png and results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nvrm_fast.contract.distributions import DISTRIBUTIONS
from studies.optimizers import NVRM_SGD, SGD
from studies.settings import SOME, NotNegative
from studies.study import Report, Row
from studies.variability import scales, training
from studies.variability.scales import ScaleStudy


@dataclass(frozen=True, kw_only=True)
class NoiseType(ScaleStudy):
    """The settings of noise-type."""

    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
    """b, one or more"""
    noise: Annotated[tuple[Literal[tuple(DISTRIBUTIONS)], ...], SOME] = ("gaussian", "uniform", "laplace")
    """distributions of the weight noise, one or more"""

    presets = {
        "tiny": training.tiny(variability=(0.02,)),
        "quick": training.quick(weight_decay=(1e-4,), variability=(0.02, 0.05)),
        "long": training.long(variability=(0.02, 0.03, 0.05, 0.1)),
        "paper": training.paper(weight_decay=(1e-4,)),
    }
    extends = ("weight_decay", "variability", "noise")

    def cells(self) -> Iterator[dict[str, Any]]:
        """At each seed and weight decay SGD, and NVRM-SGD with each noise at each b."""
        ways = [(SGD, None, 0.0), *itertools.product([NVRM_SGD], self.noise, self.variability)]
        for seed, decay, (optimizer, noise, b) in itertools.product(range(self.seeds), self.weight_decay, ways):
            yield {"optimizer": optimizer, "weight_decay": decay, "variability": b, "noise": noise, "seed": seed}

    def report(self, rows: list[Row]) -> Report:
        """The table, the differences from SGD and the figure."""
        text = training.report_text(self, rows, *training.place("noise", "variability"), at_same=["weight_decay"])

        def line_of(row: Row) -> str:
            return SGD if row["noise"] is None else f"NVRM {row['noise']}"

        return Report(text, {"scales.png": scales.draw(self, rows, "variability", "b", line_of, levels=(SGD,))})
