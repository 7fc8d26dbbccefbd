"""Three studies of one shape: what is left after training on wrong labels, against a scale.

| command | paper | scale |
|---|---|---|
| denoising | section 4 (5), Figure 6: NVRM-SGD against PSGD, which leaves its noise in the weights | b |
| noise-type | section 4 (6), Figure 7: Gaussian, Laplace and uniform noise | b |
| gradient-noise | appendix E, Figure 13: SGD's own noise, by the learning rate, against NVRM-SGD | learning rate |

All of them train on 40 % asymmetric wrong labels. Written to --out: table.md, scales.png and results.json; runs.jsonl
has each finished run, so that a study that was stopped goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.optimizers import NVRM_SGD, PERTURBED_SGD, SGD
from nvrm_fast.experiments.settings import NOT_NEGATIVE, POSITIVE, option
from nvrm_fast.experiments.variability import drawing
from nvrm_fast.experiments.variability.grid import (
    Cell,
    GridSettings,
    Result,
    cell,
    describe,
    paper,
    quick,
    run_grid,
    save,
    tiny,
)
from nvrm_fast.experiments.variability.tables import results_table


def _scales(default: tuple[float, ...], what: str, check: tuple[Callable, str] = NOT_NEGATIVE) -> Any:
    return option(
        default, what, type=float, nargs="+", metavar="VALUE",
        check=(lambda values: all(check[0](value) for value in values), check[1]),
    )  # fmt: skip


@dataclass(frozen=True)
class ScaleSettings(GridSettings):
    """What the three studies share. `lines` and `cells` say what is drawn; `swept` names the options that only say
    which cells there are."""

    swept: ClassVar[tuple[str, ...]] = ("variabilities",)
    across: ClassVar[str] = "b"

    def cells(self) -> list[tuple[str, float | None, Cell]]:
        """(line of the figure, its scale or None for a level, cell)."""
        raise NotImplementedError


@dataclass(frozen=True)
class DenoisingSettings(ScaleSettings):
    """The options of denoising."""

    PRESETS = {
        "quick": quick(variabilities=(0.01, 0.02, 0.05, 0.1), perturbations=(0.02, 0.05, 0.1, 0.2, 0.5)),
        "paper": paper(),
        "tiny": tiny(variabilities=(0.02,), perturbations=(0.1,)),
    }
    swept = ("variabilities", "perturbations")

    variabilities: tuple[float, ...] = _scales((0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1), "NVRM-SGD's values of b")
    perturbations: tuple[float, ...] = _scales(
        (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5), "PSGD's values of b"
    )

    def cells(self) -> list[tuple[str, float | None, Cell]]:
        """SGD, NVRM-SGD at each of its scales, PSGD at each of its own."""
        return [
            (SGD, None, cell(self, SGD, variability=0.0)),
            *((NVRM_SGD, b, cell(self, NVRM_SGD, variability=b)) for b in self.variabilities),
            *((PERTURBED_SGD, b, cell(self, PERTURBED_SGD, variability=b)) for b in self.perturbations),
        ]


@dataclass(frozen=True)
class NoiseTypeSettings(ScaleSettings):
    """The options of noise-type."""

    PRESETS = {"quick": quick(variabilities=(0.02, 0.05, 0.1)), "paper": paper(), "tiny": tiny(variabilities=(0.02,))}
    swept = ("variabilities", "noises")

    variabilities: tuple[float, ...] = _scales((0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1), "values of b")
    noises: tuple[str, ...] = option(tuple(DISTRIBUTIONS), "distributions", nargs="+", choices=tuple(DISTRIBUTIONS))

    def cells(self) -> list[tuple[str, float | None, Cell]]:
        """SGD, and NVRM-SGD with each noise at each scale."""
        variable = [
            (f"NVRM {noise}", b, cell(self, NVRM_SGD, noise=noise, variability=b))
            for noise in self.noises
            for b in self.variabilities
        ]
        return [(SGD, None, cell(self, SGD, variability=0.0)), *variable]


@dataclass(frozen=True)
class GradientNoiseSettings(ScaleSettings):
    """The options of gradient-noise."""

    PRESETS = {
        "quick": quick(rates=(0.01, 0.03, 0.1, 0.3)),
        # Figure 13: the learning rate divided by 10 after every 60 epochs.
        "paper": paper(lr_drops=(60, 120, 180, 240)),
        "tiny": tiny(rates=(0.03,)),
    }
    swept = ("rates",)
    across = "learning rate at the start"

    rates: tuple[float, ...] = _scales((0.1, 0.3, 1.0, 3.0), "learning rates at the start", POSITIVE)

    def cells(self) -> list[tuple[str, float | None, Cell]]:
        """SGD and NVRM-SGD at each learning rate."""
        return [(optimizer, lr, cell(self, optimizer, lr=lr)) for optimizer in (SGD, NVRM_SGD) for lr in self.rates]


@dataclass(frozen=True)
class Study:
    """A command: its name, its line of help and its options."""

    NAME: str
    HELP: str
    kind: type[ScaleSettings]
    without: tuple[str, ...]
    __doc__: str = __doc__ or ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The options of the study."""
        settings.add_arguments(parser, kind=self.kind, without=self.without)
        parser.add_argument(
            "--out", default=f"runs/{self.NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
        )

    def main(self, arguments: argparse.Namespace) -> None:
        """Run the study, print the table and write the results."""
        chosen = settings.from_arguments(arguments, self.kind)
        folder = report.output_folder(arguments.out)
        lines = chosen.cells()
        results = run_grid(self.NAME, folder, chosen, [one for _, _, one in lines], chosen.swept)
        names = {name: None for one in results for name in one.cell.place if name != "optimizer"}
        place = {name: lambda place, name=name: _word(place.get(name)) for name in names}
        draw([(line, scale, one) for (line, scale, _), one in zip(lines, results)], chosen, folder / "scales.png")
        save(
            self.NAME, folder, chosen, results, f"{describe(chosen)}:\n\n{results_table(results, place)}", "scales.png"
        )


def _word(value: Any) -> str:
    return "-" if value in (None, 0.0) else f"{value:g}" if isinstance(value, float) else str(value)


def draw(points: Sequence[tuple[str, float | None, Result]], chosen: ScaleSettings, path: Path) -> None:
    """Test error after the last epoch (the paper's Figures 6 and 7; 13 shows accuracies) and the share of wrong labels
    that were memorized, against the scale."""
    figure, panels = drawing.new_figure(1, 2, width=10.4, height=4.4)
    looks = dict(zip(dict.fromkeys(line for line, _, _ in points), zip(LINE_COLORS, LINE_MARKERS)))
    for line, (color, marker) in looks.items():
        mine = [(scale, one) for name, scale, one in points if name == line]
        for panel, values in (
            (panels[0, 0], lambda one: [1 - value for value in one.last("test_accuracy")]),
            (panels[0, 1], lambda one: [value or 0.0 for value in one.last("memorized")]),
        ):
            if mine[0][0] is None:
                drawing.level(panel, values(mine[0][1]), color, line)
            else:
                scales = [scale for scale, _ in mine]
                drawing.over_scales(panel, scales, [values(one) for _, one in mine], color, marker, line)
    for panel, heading in zip(panels[0], ("Test error after the last epoch", "Wrong labels memorized")):
        drawing.dress(panel, heading, chosen.across)
        drawing.tick_scales(panel, [scale for _, scale, _ in points if scale is not None])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    drawing.save(
        figure,
        path,
        f"{chosen.data}, {chosen.network}, {100 * chosen.noise_rate:g} % wrong labels, {chosen.seeds} "
        f"seed{'s' * (chosen.seeds > 1)}",
    )


LINE_COLORS = ("#c1440e", "#1f5fa8", "#8a6bbe", "#3a8f5c", "#b8860b")
LINE_MARKERS = ("o", "s", "^", "D", "v")

denoising = Study(
    "denoising", "does taking the noise off help: NVRM-SGD against PSGD (paper, Figure 6)", DenoisingSettings,
    ("variability",),
)  # fmt: skip
noise_type = Study(
    "noise-type", "Gaussian, Laplace and uniform weight noise (paper, Figure 7)", NoiseTypeSettings,
    ("variability", "noise"),
)  # fmt: skip
gradient_noise = Study(
    "gradient-noise", "large gradient noise does not do the same (paper, Figure 13)", GradientNoiseSettings, ("lr",)
)
