"""Is it only gradient noise? SGD's own noise, which grows with the learning rate, against NVRM-SGD.

The paper's appendix E, Figure 13, on 40 % asymmetric wrong labels, at the paper's weight decay and at a hundred times
it, by learning rate; the preset long has several b.

Written to --out: table.md, scales.png and results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from studies.optimizers import NVRM_SGD, SGD
from studies.settings import SOME, NotNegative, Positive
from studies.study import Report, Row
from studies.variability import scales, training
from studies.variability.scales import ScaleStudy


@dataclass(frozen=True, kw_only=True)
class GradientNoise(ScaleStudy):
    """The settings of gradient-noise."""

    variability: Annotated[tuple[NotNegative, ...], SOME] = (0.05,)
    """NVRM-SGD's b, one or more"""
    lr: Annotated[tuple[Positive, ...], SOME] = (0.1, 0.3, 1.0, 3.0)
    """learning rates at the start, one or more"""

    presets = {
        "tiny": training.tiny(lr=(0.03,)),
        "quick": training.quick(weight_decay=(1e-4,), lr=(0.03, 0.1, 0.3)),
        "long": training.long(lr=(0.01, 0.03, 0.1, 0.3), variability=(0.02, 0.03, 0.05)),
        # Figure 13: the learning rate divided by 10 after every 60 epochs.
        "paper": training.paper(weight_decay=(1e-4,), lr=(0.1, 0.3, 1.0, 3.0), lr_drops=(60, 120, 180, 240)),
    }
    extends = ("weight_decay", "variability", "lr")

    def cells(self) -> Iterator[dict[str, Any]]:
        """At each seed, weight decay and learning rate SGD, and NVRM-SGD at each b."""
        ways = [(SGD, 0.0), *((NVRM_SGD, b) for b in self.variability)]
        for seed, decay, (optimizer, b), lr in itertools.product(range(self.seeds), self.weight_decay, ways, self.lr):
            yield {"optimizer": optimizer, "weight_decay": decay, "variability": b, "lr": lr, "seed": seed}

    def report(self, rows: list[Row]) -> Report:
        """The table, the differences from SGD at the same learning rate, and the figure."""
        text = training.report_text(self, rows, *training.place("lr", "variability"), at_same=["weight_decay", "lr"])
        figure = scales.draw(self, rows, "lr", "learning rate at the start", training.name)
        return Report(text, {"scales.png": figure})
