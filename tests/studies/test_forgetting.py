"""The studies of continual learning: their tasks, frozen heads, elastic weight consolidation, and both commands."""

import json
from dataclasses import replace

import official_files
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from studies import StudyError, data, models, tables
from studies import __main__ as command
from studies.record import FILE
from studies.seeds import derive
from studies.variability import forgetting
from studies.variability.continual import consolidation, tasks
from studies.variability.continual import report as continual_report
from studies.variability.continual import training as continual
from studies.variability.continual.consolidation import Consolidation
from studies.variability.continual.training import ContinualStudy, HeadedNetwork, Penalty
from studies.variability.forgetting import Ewc, Forgetting

STUDY = ContinualStudy(width=8, epochs=1, batch_size=20, lr=1e-2, weight_decay=1e-4)
STILL = replace(STUDY, lr=1e-12, weight_decay=0.0)  # weights that hardly move show the noise
FIGURES = {"forgetting": ("figure4.png", "figure11.png", "figure12.png"), "ewc": ("figure5.png",)}


@pytest.fixture
def images():
    train, test = (official_files.some_images(count, (1, 6, 6), 10, seed) for count, seed in ((100, 0), (40, 1)))
    return data.standardize(data.ImageData("stripes", *train, *test, 10))


@pytest.fixture
def options(tmp_path):
    """Of both commands, at their smallest."""
    folder = tmp_path / "images"
    folder.mkdir()
    official_files.write_mnist(folder, size=8)
    return f"--preset tiny --data mnist --data-dir {folder} --out {tmp_path / 'out'}".split()


def build(*given, seed):
    return models.started(HeadedNetwork, *given, seed=seed)


class SoftmaxRegression(nn.Linear):
    """One linear layer with the signature of a network with heads."""

    def forward(self, images, head):
        return super().forward(images)


def test_permutations_are_permutations_and_differ(images):
    learned = tasks.permuted(images, 5, seed=3)
    assert len({tuple(task.train.pixels.tolist()) for task in learned}) == 5
    chosen = torch.tensor([7, 0, 99])
    flat = images.train_images.flatten(1)
    for task, again in zip(learned, tasks.permuted(images, 2, seed=3)):
        assert torch.equal(task.train.pixels, again.train.pixels) and task.test.pixels is task.train.pixels
    for task in learned:
        assert torch.equal(task.train.pixels.sort().values, torch.arange(36)) and task.head == 0
        shown, labels = task.train.batch(chosen)
        assert torch.equal(shown, flat[chosen][:, task.train.pixels]) and torch.equal(
            labels, images.train_labels[chosen]
        )
    assert not torch.equal(learned[0].train.pixels, tasks.permuted(images, 1, seed=4)[0].train.pixels)


def test_split_tasks_have_two_classes_each(images):
    learned = tasks.split(images, 5, seed=0)
    assert [task.head for task in learned] == [0, 1, 2, 3, 4]
    for task in learned:
        for examples, pictures, labels in (
            (task.train, images.train_images, images.train_labels),
            (task.test, images.test_images, images.test_labels),
        ):
            shown, local = examples.batch(torch.arange(len(examples)))
            rows = (labels // 2 == task.head).nonzero().flatten()
            assert torch.equal(shown, pictures[rows].flatten(1)) and torch.equal(local, labels[rows] % 2)
    with pytest.raises(StudyError, match="--tasks 6 need 12 classes, but stripes has 10"):
        tasks.split(images, 6, seed=0)
    few = replace(images, train_labels=images.train_labels.clamp(max=7))
    with pytest.raises(StudyError, match="no image of the classes 8 and 9"):
        tasks.split(few, 5, seed=0)


@pytest.mark.parametrize("variability", [0.0, 0.03])
def test_heads_of_other_tasks_keep_their_bits(images, variability):
    start = build(36, 8, 2, 3, seed=derive(5, "weights"))
    seen = []
    continual.learn(
        tasks.split(images, 3, seed=0),
        2,
        replace(STUDY, optimizer_state="new"),
        variability=variability,
        seed=5,
        after_task=lambda network: seen.append([head.weight.detach().clone() for head in network.heads]),
    )
    for number, weights in enumerate(seen):
        for head in range(3):
            before = start.heads[head].weight if number == 0 else seen[number - 1][head]
            assert torch.equal(weights[head], before) == (head != number)


@pytest.mark.parametrize("state", ["kept", "new"])
def test_tasks_are_judged_without_noise_and_leave_none(images, state):
    start, seen = build(36, 8, 10, 1, seed=derive(0, "weights")), []
    continual.learn(
        tasks.permuted(images, 3, seed=0),
        10,
        replace(STILL, optimizer_state=state),
        variability=0.5,
        seed=0,
        after_task=lambda network: seen.append([weight.detach().clone() for weight in network.parameters()]),
    )
    for weights in seen:
        for weight, first in zip(weights, start.parameters()):
            # 15 times the noise of at most some 2.5 was put on and taken off in float32.
            torch.testing.assert_close(weight, first.detach(), rtol=0, atol=1e-5)


def test_every_new_optimizer_has_noise_of_its_own(images, monkeypatch):
    seeds, make = [], continual.make_optimizer
    monkeypatch.setattr(
        continual, "make_optimizer", lambda *given, seed, **more: seeds.append(seed) or make(*given, seed=seed, **more)
    )
    study = replace(STUDY, optimizer_state="new")
    for seed in range(3):
        continual.learn(tasks.split(images, 3, seed), 2, study, variability=0.03, seed=seed)
    assert len(set(seeds)) == len(seeds) == 9
    with pytest.raises(ValueError, match="optimizers of their own"):
        continual.learn(tasks.split(images, 3, 0), 2, STUDY, variability=0.03, seed=0)


def test_optimizers_start_alike_and_adam_is_variability_0(images):
    learned = tasks.permuted(images, 2, seed=1)
    adam, again, little, strong = (
        continual.learn(learned, 10, STUDY, variability=b, seed=1)["accuracy"] for b in (0.0, 0.0, 1e-9, 5.0)
    )
    assert adam == again and [len(row) for row in adam] == [1, 2]
    # Fused Adam and the neural variable rule round differently; 40 test images.
    assert all(abs(a - b) <= 0.05 for one, other in zip(adam, little) for a, b in zip(one, other))
    assert adam != strong


def test_fisher_information_of_softmax_regression():
    network = SoftmaxRegression(5, 4)
    pictures = torch.randn(700, 5)
    found = consolidation.diagonal_fisher(network, pictures, head=0)
    probabilities = network(pictures, 0).softmax(1)
    spread = probabilities * (1 - probabilities)  # the variance of [y = class]
    torch.testing.assert_close(found[network.weight], spread.T @ pictures.square() / 700)
    torch.testing.assert_close(found[network.bias], spread.mean(0))


def test_fisher_information_of_a_deep_network():
    network = build(6, 5, 3, 2, seed=0)
    pictures = torch.randn(4, 6)
    found = consolidation.diagonal_fisher(network, pictures, head=1)
    used = network.parameters_of(1)
    expected = [torch.zeros_like(weight) for weight in used]
    for picture in pictures:
        log_probabilities = network(picture[None], 1).log_softmax(1)[0]
        for log_probability in log_probabilities:
            gradients = torch.autograd.grad(log_probability, used, retain_graph=True)
            for total, gradient in zip(expected, gradients):
                total += log_probability.exp().detach() * gradient.square() / 4
    assert set(found) == set(used)
    for weight, total in zip(used, expected):
        torch.testing.assert_close(found[weight], total)
    assert not any(layer._forward_hooks for layer in network.modules())


def test_squared_gradients_of_mini_batches():
    """By hand over the two full mini-batches, of the head in use; a single short one counts."""
    network = build(6, 5, 3, 2, seed=0)
    pictures, labels = torch.randn(10, 6), torch.randint(3, (10,))
    found = consolidation.squared_batch_gradients(network, pictures, labels, head=1, size=4)
    used = network.parameters_of(1)
    assert set(found) == set(used)
    expected = [torch.zeros_like(weight) for weight in used]
    for part in (slice(0, 4), slice(4, 8)):
        losses = [nn.functional.cross_entropy(network(x[None], 1)[0], y) for x, y in zip(pictures[part], labels[part])]
        for total, gradient in zip(expected, torch.autograd.grad(sum(losses) / 4, used)):
            total += gradient.square() / 2
    for weight, total in zip(used, expected):
        torch.testing.assert_close(found[weight], total)
    alone = consolidation.squared_batch_gradients(network, pictures[:3], labels[:3], head=1, size=4)
    assert alone[used[0]].sum() > 0
    exact = consolidation.diagonal_fisher(network, pictures, head=1)
    assert sum(found[weight].sum() for weight in used) < sum(exact[weight].sum() for weight in used)


def test_the_gradient_is_that_of_one_penalty_a_task():
    weight, idle, generator = (
        nn.Parameter(torch.zeros(50)),
        nn.Parameter(torch.ones(3)),
        torch.Generator().manual_seed(0),
    )
    penalties, anchors = Consolidation(7.0), []
    for _ in range(3):
        with torch.no_grad():
            weight.copy_(torch.randn(50, generator=generator))
        fisher = torch.rand(50, generator=generator) * (torch.arange(50) >= 5)  # five weights that nobody minds
        penalties.remember({weight: fisher, idle: torch.ones(3)})
        anchors.append((fisher, weight.detach().clone()))
    here = torch.randn(50, generator=generator, requires_grad=True)
    loss = sum(7.0 / 2 * (fisher * (here - anchor).square()).sum() for fisher, anchor in anchors)
    (expected,) = torch.autograd.grad(loss, here)
    weight.grad = torch.full((50,), 2.0)
    penalties.add_gradients(lambda parameter: here)
    torch.testing.assert_close(weight.grad, 2.0 + expected, rtol=1e-5, atol=1e-5)
    assert idle.grad is None and (weight.grad[:5] == 2).all()
    before = weight.grad.clone()
    penalties.importance = 0.0
    penalties.add_gradients()
    assert torch.equal(weight.grad, before)


@pytest.mark.parametrize("at_clean_weights", [False, True])
def test_where_the_penalty_is_taken(images, monkeypatch, at_clean_weights):
    distances, add = [], Consolidation.add_gradients

    def spy(penalties, weights_of):
        distances.extend(float((weights_of(p) - c).abs().max().detach()) for p, c in penalties._centre.items())
        add(penalties, weights_of)

    monkeypatch.setattr(Consolidation, "add_gradients", spy)
    penalty = Penalty(10.0, at_clean_weights, fisher_images=20)
    continual.learn(tasks.permuted(images, 2, 0), 10, STILL, variability=0.1, seed=0, penalty=penalty)
    assert len(distances) == 5 * 6  # steps of the second task, parameters
    # 64 or more draws of a deviation of 0.1 in the weights; the noise of the biases may be small by chance.
    assert max(distances) < 1e-5 if at_clean_weights else max(distances) > 0.1


def test_penalties_hold_the_weights(images):
    def moved(penalty):
        seen = []
        continual.learn(
            tasks.permuted(images, 2, 0), 10, STUDY, variability=0.0, seed=0, penalty=penalty,
            after_task=lambda network: seen.append(torch.cat([p.detach().flatten() for p in network.parameters()])),
        )  # fmt: skip
        return float((seen[1] - seen[0]).norm())

    free, held = moved(None), moved(Penalty(1e6, False, 100))
    assert held < 0.7 * free
    exact, of_batches = (moved(Penalty(1e3, False, 100, of_batches=which)) for which in (False, True))
    assert held < exact < of_batches < free  # the same lambda is a weaker penalty


def test_measures():
    run = {"accuracy": [[0.9], [0.6, 0.8], [0.3, 0.5, 0.7]]}
    assert continual_report.base_task(run) == [0.9, 0.6, 0.3]
    assert continual_report.all_learned(run) == pytest.approx([0.9, 0.7, 0.5])
    assert continual_report.just_learned(run) == pytest.approx(0.8)


def test_the_loss_of_the_first_task_is_measured_on_clean_weights_after_each(images):
    """delta_AB: against the networks that the callback sees, by one pass over all examples."""
    learned, expected = tasks.permuted(images, 2, seed=1), []

    def see(network):
        pictures, labels = learned[0].train.batch(torch.arange(len(learned[0].train)))
        expected.append(float(cross_entropy(network(pictures, 0), labels)))

    run = continual.learn(learned, 10, STUDY, variability=0.05, seed=1, after_task=see)
    assert run["base_loss"] == pytest.approx(expected, rel=1e-5) and len(expected) == 2
    assert continual_report.forgotten(run) == pytest.approx(expected[1] - expected[0], rel=1e-3)
    told = continual_report.final_table([{"variability": 0.0, "seed": 0} | run], ["variability"], {"b": "variability"})
    assert f"{expected[1] - expected[0]:.3f} ± 0.000" in told and "δ_AB" in told


def test_presets_are_the_papers_settings():
    paper = Forgetting(**Forgetting.presets["paper"])
    assert (paper.tasks, paper.variability, paper.seeds, paper.of_kind("permuted")) == (5, 0.03, 10, paper)
    other = Ewc(**Ewc.presets["paper"])
    assert {30.0, 300.0, 1000.0} < set(other.importances)
    for study, decay, state in ((paper, 1e-4, "kept"), (paper.of_kind("split"), 0.0, "new"), (other, 1e-4, "kept")):
        assert (study.width, study.epochs, study.batch_size, study.lr) == (1024, 1, 256, 1e-3)
        assert (study.weight_decay, study.optimizer_state) == (decay, state)


@pytest.mark.parametrize("name", FIGURES)
def test_a_whole_study(name, options, tmp_path, capsys):
    state = torch.get_rng_state()
    assert command.main([name, *options]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    out = tmp_path / "out"
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table
    results = json.loads((out / "results.json").read_text())
    assert results["study"] == name and results["rows"]
    assert sorted(path.name for path in out.glob("*.png")) == sorted(FIGURES[name])


@pytest.mark.parametrize("name", FIGURES)
def test_a_stopped_study_goes_on_where_it_was(name, options, tmp_path, monkeypatch):
    assert command.main([name, *options]) == 0
    out = tmp_path / "out"
    path = out / FILE
    lines, before = path.read_text().splitlines(), json.loads((out / "results.json").read_text())
    path.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:20])  # killed while it wrote a line
    trained, learn = [], forgetting.learn
    monkeypatch.setattr(forgetting, "learn", lambda *given, **more: trained.append(1) or learn(*given, **more))
    assert command.main([name, *options]) == 0
    assert len(trained) == 2
    assert json.loads((out / "results.json").read_text())["rows"] == before["rows"]


def row(first, second, **cell):
    """A run of two tasks: what is left of the first, and the second."""
    return cell | {"accuracy": [[0.9], [first, second]]}


def shown(panel):
    """The curves of a panel by label."""
    return {line.get_label(): line.get_ydata() for line in panel.lines if not line.get_label().startswith("_")}


def test_the_report_of_forgetting():
    settings = Forgetting(seeds=2, tasks=2, scales=(0.1,), task=("permuted",))
    rows = [
        row(base + gain * b + 0.02 * seed, 0.8, task="permuted", variability=b, seed=seed)
        for seed, base, gain in ((0, 0.3, 1.0), (1, 0.4, 2.0))
        for b in (0.0, 0.03, 0.1)
    ]
    made = settings.report(rows)
    assert list(made.figures) == ["figure4.png", "figure11.png"]
    (line,) = [line for line in made.text.splitlines() if line.startswith("| NVRM-Adam | 0.1 ")]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[1] == tables.percent([0.4, 0.62]) and cells[3] == "85.0 ± 0.0"
    assert cells[4] == tables.paired([0.4, 0.62], [0.3, 0.42]) and cells[5] == tables.paired([0.6, 0.71], [0.55, 0.61])
    (line,) = [line for line in made.text.splitlines() if line.startswith("| Adam      | - ")]
    assert line.split("|")[-3].strip() == line.split("|")[-2].strip() == "-"
    left, right = made.figures["figure4.png"].axes
    assert left.get_title("left") == "Base task" and left.get_xscale() == "log" and left.get_xlabel() == "b"
    for panel, level, ends in ((left, 36.0, [40.5, 51.0]), (right, 58.0, [60.25, 65.5])):
        (bars,) = panel.containers
        assert bars.lines[0].get_xdata().tolist() == [0.03, 0.1]
        assert bars.lines[0].get_ydata() == pytest.approx(ends)
        assert shown(panel)["Adam"][0] == pytest.approx(level)
    left, right = made.figures["figure11.png"].axes
    assert right.get_title("left") == "Mean of all learned tasks" and right.get_xlabel() == "tasks learned"
    assert list(shown(left)) == ["Adam", "NVRM-Adam, b = 0.03"]
    assert shown(left)["Adam"] == pytest.approx([90, 36]) and shown(right)["Adam"] == pytest.approx([90, 58])
    assert shown(left)["NVRM-Adam, b = 0.03"] == pytest.approx([90, 40.5])


def test_the_report_of_ewc():
    settings = Ewc(seeds=2, tasks=2, importances=(0.0, 30.0))
    rows = [
        row(0.3 + b * (1 + seed) + importance / 100 + seed / 10, 0.8, variability=b, importance=importance, seed=seed)
        for seed in (0, 1)
        for importance in (0.0, 30.0)
        for b in (0.0, 0.03)
    ]
    made = settings.report(rows)
    (line,) = [line for line in made.text.splitlines() if line.startswith("| NVRM-Adam | 30 ")]
    assert line.split("|")[-3].strip() == tables.paired([0.63, 0.76], [0.6, 0.7])  # above Adam's at the same lambda
    # All tasks: the mean of the base task and the other, 0.6 and 0.7 with 0.8, and 0.63 and 0.76 with 0.8.
    best = "Adam at lambda 30 72.5 ± 3.5, NVRM-Adam at lambda 30 74.8 ± 4.6; gain +2.3"
    assert f"each optimizer at its best lambda of the table: {best} [" in made.text
    (figure,) = made.figures.values()
    left, right = figure.axes
    labels = ["Adam, λ = 0", "NVRM-Adam, λ = 0", "Adam, λ = 30", "NVRM-Adam, λ = 30"]
    assert list(shown(left)) == list(shown(right)) == labels
    assert shown(left)["NVRM-Adam, λ = 30"] == pytest.approx([90, 69.5])
    styles = [line.get_linestyle() for line in left.lines]
    assert styles[0] == styles[1] != styles[2] == styles[3]


@pytest.mark.parametrize("wrong", ["--tasks 1", "--scales 0", "--variability 0", "--lr 0", "--task"])
def test_wrong_options_are_refused(wrong, options, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        command.main(["forgetting", *options, *wrong.split()])
    assert stopped.value.code == 2 and f"{wrong.split()[0]} is" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_many_split_tasks_are_refused_before_the_permuted_are_run(options, capsys, tmp_path):
    assert command.main(["forgetting", *options, "--tasks", "6"]) == 2
    assert capsys.readouterr().err.startswith("error: --tasks 6 need 12 classes")
    assert not (tmp_path / "out").exists()
