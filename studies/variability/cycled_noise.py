"""Is cycled noise, one draw turned by a quarter at each of four steps, as good as independent draws?

Trainings on wrong labels with NVRM-SGD and NVRM-Adam, by independent draws and by cycles, at the same seeds: initial
weights, labels and batches are shared, so the differences are paired. Likewise the accuracy under noise on the weights
after NVRM-SGD on right labels, and that of all tasks after NVRM-Adam has learned them in turn.

Beside them the variance of the gradient that the noise makes: at fixed weights and a fixed batch, the mean gradient
over four steps' noise is taken again and again, by cycles and by independent draws, and the trace of its covariance
over the repetitions is compared. A cycle sums to zero, so the part of the gradient that is linear in the noise
cancels. Of a smooth network what is left is of the order of b^2, and the ratio tends to 0 with b. At the kinks of
ReLUs and of max pooling the gradient jumps, by as much for small noise as for large, only more rarely, and no cycle
cancels that.

Written to --out: table.md, cycles.png and results.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nvrm_fast import NVRMSGD
from nvrm_fast.probe import accuracy_against_noise
from studies import figures, tables
from studies.labels import Kind
from studies.optimizers import NVRM_ADAM, NVRM_SGD, SGD
from studies.seeds import derive, shuffled
from studies.settings import SOME, Count, Positive
from studies.study import Context, Report, Row
from studies.variability import looks, training
from studies.variability.continual.report import all_learned
from studies.variability.continual.tasks import permuted
from studies.variability.continual.training import learn
from studies.variability.forgetting import Forgetting
from studies.variability.training import FlippedStudy, accuracy

DRAWS = ("independent", "cycle")
CYCLE = 4  # steps
#: What is measured beside accuracy after wrong labels, a fraction of a row each.
MEASURES = {"perturbed": lambda row: row["measured"]["perturbed"], "forgetting": lambda row: all_learned(row)[-1]}


@dataclass(frozen=True, kw_only=True)
class CycledNoise(FlippedStudy):
    """The settings of cycled-noise."""

    noise_kind: tuple[Kind, ...] = ("asymmetric", "symmetric")
    """how labels are flipped, one or more"""
    optimizers: Annotated[tuple[Literal["NVRM-SGD", "NVRM-Adam"], ...], SOME] = (NVRM_SGD, NVRM_ADAM)
    """which optimizers are compared, one or both"""
    gradient_scales: tuple[Positive, ...] = (0.003, 0.01, 0.03, 0.05)
    """b at which the gradient's variance is measured"""
    repetitions: Count = 50
    """means over four steps of which the variance is taken"""
    gradient_batch: Count = 256
    """images of the fixed batch"""
    gradient_epochs: Count = 4
    """epochs of training before the second measurement of the variance"""
    perturbation: Positive = 0.1
    """noise on the weights at which accuracy is measured, after training on right labels"""
    perturbed_copies: Count = 16
    """perturbed networks over whose accuracies the mean is taken"""
    tasks: Annotated[int, Field(ge=2)] = 5
    """tasks of permuted pixels that are learned in turn"""
    task_epochs: Count = 15
    """passes over the images of a task"""
    task_variability: Positive = 0.03
    """b of NVRM-Adam there"""

    presets = {
        "tiny": training.tiny(
            repetitions=3, gradient_batch=20, gradient_epochs=1, gradient_scales=(0.01,), perturbed_copies=2, tasks=2,
            task_epochs=1,
        ),
        "quick": {"epochs": 24, "seeds": 2, "noise_kind": ("asymmetric",), "optimizers": (NVRM_SGD,)},
        "long": {"epochs": 24, "seeds": 5},
        "paper": training.paper(),
    }  # fmt: skip
    extends = ("noise_kind", "optimizers", "gradient_scales")

    def cells(self) -> Iterator[dict[str, Any]]:
        """Seeds first: the trainings on wrong labels, then the variances, then what else is trained."""
        for seed in range(self.seeds):
            for kind, name, draws in itertools.product(self.noise_kind, self.optimizers, DRAWS):
                yield {"what": "accuracy", "noise_kind": kind, "optimizer": name, "draws": draws, "seed": seed}
            for state, b in itertools.product(("start", "trained"), self.gradient_scales):
                yield {"what": "variance", "state": state, "b": b, "seed": seed}
            for what, draws in itertools.product(MEASURES, DRAWS):
                yield {"what": what, "draws": draws, "seed": seed}

    def run(self, context: Context, *, what: str, seed: int, **place: Any) -> dict[str, Any]:
        """One training, or one variance."""
        if what == "variance":
            return gradient_variances(context, seed, **place)
        if what == "perturbed":
            return self.trained_on_right_labels(context, seed, **place)
        if what == "forgetting":
            return self.tasks_in_turn(context, seed, **place)
        problem = training.corrupt(context.prepared, place["noise_kind"], self.noise_rate, seed)
        chosen = self.at(draws=place["draws"])
        return training.train(problem, chosen, place["optimizer"], seed, advance=context.advance)

    def trained_on_right_labels(self, context: Context, seed: int, *, draws: str) -> dict[str, Any]:
        """One training, and the mean accuracy of perturbed copies."""

        def measure(network: nn.Module, problem: training.Problem, *_: Any) -> dict[str, float]:
            curve = accuracy_against_noise(
                network.eval(), (problem.test_images, problem.test_labels), [self.perturbation],
                samples=self.perturbed_copies, seed=derive(seed, "perturbed copies"), batch_size=500,
            )  # fmt: skip
            return {"perturbed": float(curve.mean[0])}

        problem = training.corrupt(context.prepared, self.noise_kind[0], 0.0, seed)
        chosen = self.at(draws=draws)
        return training.train(problem, chosen, NVRM_SGD, seed, advance=context.advance, measure=measure)

    def tasks_in_turn(self, context: Context, seed: int, *, draws: str) -> dict[str, Any]:
        """The tasks of the study forgetting, learned by NVRM-Adam."""
        size = {} if self.width is None else {"width": self.width}
        how = Forgetting(tasks=self.tasks, epochs=self.task_epochs, draws=draws, **size)
        tasks = permuted(context.prepared, self.tasks, seed)
        b = self.task_variability
        return learn(tasks, context.prepared.classes, how, variability=b, seed=seed, advance=context.advance)

    def report(self, rows: list[Row]) -> Report:
        """Accuracies with paired differences; variances as ratios."""
        trained, variances = (tables.select(rows, what=what) for what in ("accuracy", "variance"))

        def of(runs: list[Row], draws: str) -> list[float]:
            return [accuracy(run) for run in tables.select(runs, draws=draws)]

        columns: dict[str, Any] = {
            "flips": "noise_kind",
            "optimizer": "optimizer",
            "independent": lambda runs: tables.percent(of(runs, "independent")),
            "cycle": lambda runs: tables.percent(of(runs, "cycle")),
            "cycle less independent, 95 % interval": lambda runs: tables.paired(
                of(runs, "cycle"), of(runs, "independent")
            ),
        }
        ratios = {"weights": "state", "b": "b", "variance, cycle / independent": tables.means(ratio, 3)}
        ordered = sorted(trained, key=lambda run: (run["noise_kind"], run["optimizer"], run["seed"]))
        pairs = [of(ordered, draws) for draws in reversed(DRAWS)]
        text = (
            f"{self.data}, {self.network}, {100 * self.noise_rate:g} % flips, {self.epochs} epochs, b = "
            f"{self.variability:g}. {training.means_of_last(self)}:\n\n"
            f"{tables.table(trained, ('noise_kind', 'optimizer'), columns)}\n\n"
            f"All {len(pairs[0])} pairs together, cycle less independent: {tables.paired(*pairs)}.\n\n"
            f"Variance of the mean gradient over four steps ({self.repetitions} repetitions, a fixed batch of "
            f"{self.gradient_batch} images):\n\n{tables.table(variances, ('state', 'b'), ratios)}"
        )
        others = [row for row in rows if row["what"] in MEASURES]
        if others:  # results of earlier versions have none
            text += f"\n\nTest accuracy after other trainings, in percent:\n\n{self.table_of_others(others)}"
        return Report(text, {"cycles.png": draw(self, trained, variances)})

    def table_of_others(self, rows: list[Row]) -> str:
        """What was trained on right labels."""
        words = {
            "perturbed": f"NVRM-SGD, right labels, at noise of {self.perturbation:g} on the weights",
            "forgetting": f"NVRM-Adam, b = {self.task_variability:g}, all of {self.tasks} permuted tasks in turn",
        }

        def of(runs: list[Row], draws: str) -> list[float]:
            return [MEASURES[run["what"]](run) for run in tables.select(runs, draws=draws)]

        columns: dict[str, Any] = {
            "measured": tables.words(lambda row: words[row["what"]]),
            "independent": lambda runs: tables.percent(of(runs, "independent")),
            "cycle": lambda runs: tables.percent(of(runs, "cycle")),
            "cycle less independent, 95 % interval": lambda runs: tables.paired(
                of(runs, "cycle"), of(runs, "independent")
            ),
        }
        return tables.table(rows, ("what",), columns)

    def summary(self, row: Row) -> str:
        """``test 87.4%`` or ``ratio 0.123``."""
        if row["what"] in MEASURES:
            return f"test {MEASURES[row['what']](row):.1%}"
        return f"test {accuracy(row):.1%}" if "test_accuracy" in row else f"ratio {ratio(row):.3f}"


def gradient_variances(context: Context, seed: int, *, state: str, b: float) -> dict[str, float]:
    """Trace of the covariance of the mean gradient over four steps, by the way of drawing."""
    settings = context.settings
    problem = training.corrupt(context.prepared, settings.noise_kind[0], settings.noise_rate, seed)
    chosen = settings.at()
    network = training.new_network(problem, chosen, seed)
    if state == "trained":
        training.train(
            problem, replace(chosen, epochs=settings.gradient_epochs), SGD, seed, every_epoch=False, network=network
        )  # fmt: skip
    batch = shuffled(problem.train_labels, seed, "fixed batch")[: settings.gradient_batch]
    inputs, labels = problem.train_images[batch], problem.train_labels[batch]
    found = {}
    for draws in DRAWS:
        means = mean_gradients(network, inputs, labels, b, draws, settings.repetitions, derive(seed, "noise"))
        found[draws] = float(means.var(0).sum())
    return found


def mean_gradients(
    network: nn.Module, inputs: Tensor, labels: Tensor, b: float, draws: str, repetitions: int, seed: int
) -> Tensor:
    """(repetitions, weights), float64: gradients at weights + noise, each the mean over four steps in turn. The
    optimizer takes steps of length 0, so that the clean weights stay what they are."""
    weights = list(network.parameters())
    optimizer = NVRMSGD(weights, lr=0.0, variability=b, seed=seed, draws=draws, master_weights=True)
    cross_entropy(network(inputs), labels).backward()
    optimizer.step()  # the first gradient is at clean weights; after a step with gradients there is noise
    means = torch.zeros(repetitions, sum(weight.numel() for weight in weights), dtype=torch.float64)
    for _ in range(CYCLE - 2):  # a cycle begins with the draw of a step whose number is a multiple of four
        optimizer.step()
    for mean in means:
        for _ in range(CYCLE):
            optimizer.step()
            optimizer.zero_grad()
            cross_entropy(network(inputs), labels).backward()
            mean += torch.cat([weight.grad.flatten() for weight in weights]).double().cpu() / CYCLE
    optimizer.denoise()
    return means


def ratio(row: Row) -> float:
    """The variance by cycles over that by independent draws."""
    return row["cycle"] / row["independent"]


def draw(settings: CycledNoise, trained: list[Row], variances: list[Row]) -> Figure:
    """Left the accuracies, a pair of dots a seed; right the ratio of variances against b."""
    figure, panels = figures.new_figure(
        1, 2, width=9.6, height=4.2, sharey=False, title=looks.title(settings, settings.network, "cycled noise")
    )
    left, right = panels[0]
    places = tables.groups(trained, "noise_kind", "optimizer")
    for line, runs in enumerate(places.values()):
        pairs = [[100 * accuracy(run) for run in tables.select(runs, draws=draws)] for draws in DRAWS]
        left.plot([[line - 0.15] * len(pairs[0]), [line + 0.15] * len(pairs[0])], pairs, "-", color=figures.FAINT)
        for side, (draws, values) in enumerate(zip(DRAWS, pairs)):
            look = {"color": figures.COLORS[side], "label": draws if line == 0 else "_"}
            left.plot([line - 0.15 + 0.3 * side] * len(values), values, "o", markersize=5, **look)
    left.set_xticks(range(len(places)), [f"{kind}\n{name}" for kind, name in places])
    left.legend()
    figures.name_axes(left, "Test accuracy, a line a seed", "", "")
    for number, ((state,), mine) in enumerate(tables.groups(variances, "state").items()):
        values = [list(map(ratio, tables.select(mine, b=b))) for b in settings.gradient_scales]
        middle = [sum(ratios) / len(ratios) for ratios in values]
        right.plot(settings.gradient_scales, middle, marker=figures.MARKERS[number], label=state)
    right.set(xscale="log", ylim=(0, None))
    right.legend(title="weights")
    figures.name_axes(right, "Variance of the gradient, cycle / independent", "b", "", percent=False)
    figures.tick_scales(right, settings.gradient_scales)
    return figure
