"""Is it only gradient noise? SGD's own noise, which grows with the learning rate, against NVRM-SGD.

The paper's appendix E, Figure 13, on 40 % asymmetric wrong labels.

Written to --out: table.md, scales.png and results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from studies.optimizers import NVRM_SGD, SGD
from studies.runner import Report, Row, Study
from studies.settings import SOME, Positive
from studies.variability import scales, training
from studies.variability.scales import ScaleSettings


@dataclass(frozen=True, kw_only=True)
class GradientNoise(ScaleSettings):
    """The settings of gradient-noise."""

    lr: Annotated[tuple[Positive, ...], SOME] = (0.1, 0.3, 1.0, 3.0)
    """learning rates at the start, one or more"""


def cells(settings: GradientNoise) -> Iterator[dict[str, Any]]:
    """At each seed SGD and NVRM-SGD at each learning rate."""
    for seed, optimizer, lr in itertools.product(range(settings.seeds), (SGD, NVRM_SGD), settings.lr):
        yield {"optimizer": optimizer, "lr": lr, "seed": seed}


def report(settings: GradientNoise, rows: list[Row]) -> Report:
    """The table, the differences from SGD at the same learning rate, and the figure."""
    place = ("lr",), {"lr": "lr"}
    text = training.report_text(settings, rows, *place)
    figure = scales.draw(settings, rows, "lr", "learning rate at the start", lambda row: row["optimizer"])
    return Report(text, {"scales.png": figure})


STUDY = Study(
    settings=GradientNoise,
    presets={
        "tiny": training.tiny(lr=(0.03,)),
        "quick": training.quick(lr=(0.01, 0.03, 0.1, 0.3)),
        # Figure 13: the learning rate divided by 10 after every 60 epochs.
        "paper": training.paper(lr=(0.1, 0.3, 1.0, 3.0), lr_drops=(60, 120, 180, 240)),
    },
    cells=cells,
    run=scales.run,
    report=report,
    extends=("lr",),
    summary=training.summary,
)
