"""The study of adversarial attacks: expected gradients, foolbox's attacks with them, and the command."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from studies import StudyError, data, tables
from studies import __main__ as command
from studies.record import FILE
from studies.stochastic.attacks import library as attack_library
from studies.stochastic.attacks import measures as attack_measures
from studies.stochastic.attacks import training as attack_training
from studies.stochastic.attacks.library import (
    ExpectedFGS,
    ExpectedPGD,
    attacked,
    carlini_wagner,
    cross_entropies,
    expected_gradient,
    margins,
    perturb,
    sampled_logits,
)
from studies.stochastic.attacks.study import Attacks
from studies.stochastic.attacks.training import ADVERSARIAL, BASELINE, METHODS, NORMAL, SE_SNN, build


def network_and_images(method=SE_SNN, images=6, dtype=torch.float64):
    network = build(method, 12, 4, (16, 8), seed=1).to(dtype)
    generator = torch.Generator().manual_seed(2)
    return network, torch.rand(images, 1, 3, 4, generator=generator, dtype=dtype), torch.arange(images) % 4


def gradients_by_draw(network, images, labels, seeds):
    """One pass and one gradient for each draw, without anything that is under test."""
    for seed in seeds:
        with noisy.noise_mode(network, "fixed", seed=seed):
            x = images.clone().requires_grad_()
            yield torch.autograd.grad(cross_entropy(network(x), labels, reduction="sum"), x)[0]


def test_the_gradient_that_the_attack_follows_is_the_mean_of_the_draws_gradients():
    network, images, labels = network_and_images()
    each = torch.stack(list(gradients_by_draw(network, images, labels, range(5, 12))))
    assert each.std(0).max() > 1e-3  # the draws differ
    followed = []
    for attack in (ExpectedFGS(network, 7), ExpectedPGD(network, 7, steps=1)):
        attack.random_start = False
        given = attack.value_and_grad

        def watched(loss, x, given=given):
            value, gradient = given(loss, x)
            followed.append(gradient.raw)
            return value, gradient

        attack.value_and_grad = watched
        with noisy.noise_mode(network, "fixed", seed=5):  # seven draws then have the seeds 5 to 11
            moved = perturb(attack, images, labels, 0.25)
        torch.testing.assert_close(followed[-1], each.mean(0), rtol=1e-9, atol=1e-12)
    assert len(followed) == 2
    with noisy.noise_mode(network, "fixed", seed=5):
        moved = perturb(ExpectedFGS(network, 7), images, labels, 0.25)
        x = images.clone().requires_grad_()
        of_mean_logits = torch.autograd.grad(cross_entropy(noisy.mc(network, x, 7).mean(0), labels) * len(labels), x)[0]
    assert torch.equal(moved, (images + 0.25 * each.mean(0).sign()).clamp(0, 1))
    # Averaged logits, which foolbox's own wrapper attacks, have another gradient.
    assert (of_mean_logits - each.mean(0)).norm() > 0.01 * each.mean(0).norm()


def test_every_step_draws_anew_and_many_draws_come_near_the_expectation():
    network, images, labels = network_and_images()
    torch.manual_seed(0)
    few = torch.stack([expected_gradient(network, images, labels, 2) for _ in range(40)])
    many = torch.stack([expected_gradient(network, images, labels, 32) for _ in range(40)])
    assert all(not torch.equal(few[0], other) for other in few[1:])
    # The variance falls as 1 / draws, so by 16; over seeds the logarithm of this ratio deviates by 0.08. Four of those
    # either way: wrong once in 16,000.
    assert 11.6 < few.var(0).sum() / many.var(0).sum() < 22
    calls = []
    attack = ExpectedPGD(network, 3, steps=5)
    network[-2].register_forward_hook(lambda layer, inputs, output: calls.append(output.detach()))
    perturb(attack, images, labels, 1e-9)
    assert len(calls) == 5 and len(calls[0]) == 3 * len(images)
    assert all(not torch.allclose(calls[0], other, atol=1e-3) for other in calls[1:])


def test_the_front_is_run_once_and_modes_are_kept():
    network, images, labels = network_and_images()
    seen = []
    network[1].register_forward_hook(lambda layer, inputs, output: seen.append(len(output)))
    with noisy.noise_mode(network, "fixed", seed=3):
        torch.testing.assert_close(sampled_logits(network, images, 5), noisy.mc(network, images, 5))
    assert seen == [6] * 6  # once for the front, then mc's five passes
    with noisy.noise_mode(network, "mean"):
        assert torch.equal(sampled_logits(network, images, 5), network(images)[None])
    wrapped = nn.ModuleDict({"inner": network})
    wrapped.forward = lambda x: network(x)
    assert sampled_logits(wrapped, images, 5).shape == (5, 6, 4)
    plain, images, _ = network_and_images(BASELINE)
    assert torch.equal(sampled_logits(plain, images, 5), plain(images)[None])


def test_attacks_leave_no_trace_in_training():
    network, images, labels = network_and_images()
    noisy.set_regularizer(network, noisy.MaxEntropy("element", 1.0))
    torch.manual_seed(1)
    network(images)
    alone = noisy.regularizer_loss(network)
    torch.manual_seed(1)
    network(images)
    perturb(ExpectedPGD(network, 3, steps=2), images, labels, 0.1)
    carlini_wagner(network, images, labels, draws=2, steps=2, searches=1, stepsize=0.1)
    expected_gradient(network, images, labels, 2)
    assert torch.equal(noisy.regularizer_loss(network), alone)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    with pytest.raises(ZeroDivisionError), attacked(network):
        raise ZeroDivisionError
    assert network[-2].regularizer is not None and all(p.requires_grad for p in network.parameters())


def test_fgs_of_training_is_the_librarys():
    network, images, labels = network_and_images(BASELINE, dtype=torch.float32)
    epsilon = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    mine = attack_training.fast_gradient_sign(network, images, labels, epsilon)
    for place, strength in enumerate(epsilon.tolist()):
        theirs = perturb(ExpectedFGS(network, 1), images, labels, strength)
        torch.testing.assert_close(mine[place], theirs[place], rtol=0, atol=1e-7)
        assert (theirs - images).abs().max() <= strength + 1e-6


def linear(lead=0.4):
    """Two classes, nine pixels; a grey image is of class 0 by so much."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.randn(2, 9, generator=torch.Generator().manual_seed(3)))
        network[1].bias.zero_()
        logits = network(torch.full((1, 9), 0.5))[0]
        network[1].bias[0] = logits[1] - logits[0] + lead
    return network


def test_attacks_on_a_linear_network_whose_answers_are_known():
    network = linear()
    images, labels = torch.full((4, 1, 3, 3), 0.5), torch.zeros(4, dtype=torch.int64)
    normal = (network[1].weight[0] - network[1].weight[1]).detach().view(1, 3, 3)
    margin = 0.4
    for attack in (ExpectedFGS(network, 1), ExpectedPGD(network, 1, 20), ExpectedPGD(network, 1, 20, margins)):
        moved = perturb(attack, images, labels, 0.125)
        torch.testing.assert_close(moved, images - 0.125 * normal.sign(), rtol=0, atol=1e-6)
    result = carlini_wagner(network, images, labels, draws=1, steps=120, searches=5, stepsize=0.05)
    assert result.found.all() and (network(result.images).argmax(1) == 1).all()
    distance = margin / float(normal.norm())
    # Never nearer than the boundary; by how much it is farther is Adam's and the search's precision.
    assert (result.distance > 0.9999 * distance).all() and (result.distance < 1.03 * distance).all()
    confident = carlini_wagner(network, images, labels, draws=1, steps=120, searches=5, stepsize=0.05, confidence=0.5)
    assert (-margins(network(confident.images), labels) <= -0.5 + 1e-4).all()
    assert (confident.distance > (margin + 0.5) / float(normal.norm()) * 0.9999).all()


def test_carlini_and_wagner_where_nothing_can_be_found():
    network = linear()
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([1.0, 0.0]))
    images, labels = torch.rand(3, 1, 3, 3), torch.zeros(3, dtype=torch.int64)
    result = carlini_wagner(network, images, labels, draws=1, steps=3, searches=2, stepsize=0.1)
    assert not result.found.any() and torch.equal(result.images, images) and not result.distance.any()


def test_black_and_white_pixels_move_if_the_steps_are_long_enough():
    """In tanh space they are far out, where they stay with the published step size and few steps."""
    network = linear()
    away = (network[1].weight[1] - network[1].weight[0]).detach()
    images = (away < 0).float().view(1, 1, 3, 3)  # each pixel at the end of the box from which the attack must move it
    labels = torch.zeros(1, dtype=torch.int64)
    assert int(network(images).argmax(1)) == 0
    short = carlini_wagner(network, images, labels, draws=1, steps=60, searches=6, stepsize=0.01)
    far = carlini_wagner(network, images, labels, draws=1, steps=60, searches=6, stepsize=0.2)
    assert not short.found.any() and far.found.all()


def test_margins_have_a_gradient_where_the_softmax_is_saturated():
    network = linear()
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([1e3, 0.0]))
    images, labels = torch.rand(5, 1, 3, 3), torch.zeros(5, dtype=torch.int64)
    assert attack_measures.zero_gradients(network, images, labels, 1) == 1
    assert not expected_gradient(network, images, labels, 1, margins).eq(0).any()
    logits = torch.tensor([[1.0, 5.0, 2.0], [4.0, -1.0, 0.0]])
    assert margins(logits, torch.tensor([1, 2])).tolist() == [-3.0, 4.0]
    assert cross_entropies(logits, torch.tensor([1, 2])).shape == (2,)


SMALL = Attacks(
    draws=2, many_draws=4, epsilons=(0.0, 0.5), look_epsilons=(0.5,), look_images=5, pgd_steps=2, cw_images=3,
    cw_steps=2, cw_searches=1,
)  # fmt: skip


def test_measures():
    network, images, labels = network_and_images(images=12, dtype=torch.float32)
    with noisy.noise_mode(network, "mean"):
        expected = float((network(images).argmax(1) == labels).double().mean())
    clean = attack_measures.accuracy(network, images, labels)
    assert clean["mean"] == pytest.approx(expected)
    state = torch.get_rng_state()
    surrogate = build(BASELINE, 12, 4, (16, 8), seed=3)
    given = {"seed": 0, "with_cw": True, "surrogate": surrogate}
    result = attack_measures.measure(network, images, labels, SMALL, **given)
    assert torch.equal(torch.get_rng_state(), state)
    assert result == attack_measures.measure(network, images, labels, SMALL, **given)
    assert result["fgs"][0]["mean"] == clean["mean"]
    assert [row["attack"] for row in result["looks"]] == list(attack_measures.LOOKS)
    grey = result["looks"][-1]
    few, own = attack_measures.some(images, labels, 5)
    with noisy.noise_mode(network, "mean"), torch.no_grad():
        answer = network(torch.full_like(few[:1], 0.5)).argmax(1)
    assert grey["mean"] == pytest.approx(float((own == answer).double().mean()))  # all images are the same now
    assert [row["attack"] for row in result["cw"]] == [
        attack_measures.CW, attack_measures.CW_CONFIDENT, attack_measures.CW_MEAN
    ]  # fmt: skip
    assert result["cw"][1]["confidence"] > 0
    given = {"seed": 0, "with_cw": False, "surrogate": None}
    plain = attack_measures.measure(surrogate, images, labels, SMALL, **given)
    names = [row["attack"] for row in plain["looks"]]
    with_gradients = [attack_measures.FGS, attack_measures.FGS_MARGIN, attack_measures.PGD, attack_measures.PGD_MARGIN]
    assert names == [*with_gradients, attack_measures.GREY]
    assert attack_measures.margin_deviation(surrogate, images, labels) == 0 and plain["cw"] == []


def settings(**more):
    given = {"hidden": (16, 8), "epochs": 25, "batch_size": 20, "lr": 3e-3, "margin": 1.0, "train_epsilon": 0.3}
    return Attacks(**(given | more))


def test_training(mnist):
    """All learn the stripes, the global generator stays, SE-SNN's sigma goes up to its margin, and adversarial training
    defends against FGS."""
    box = Attacks(data="mnist", data_dir=str(mnist)).prepare()
    assert box.train_images.min() >= 0 and box.train_images.max() <= 1
    state = torch.get_rng_state()
    again = [attack_training.train(box, settings(epochs=1), SE_SNN, ADVERSARIAL, 0)[0] for _ in range(2)]
    assert torch.equal(again[0][-1].weight, again[1][-1].weight)
    trained = {method: attack_training.train(box, settings(), method, NORMAL, 0)[0] for method in METHODS}
    assert torch.equal(torch.get_rng_state(), state)
    for network in trained.values():
        assert attack_measures.accuracy(network, box.test_images, box.test_labels)["mean"] > 0.6
    loud, calm = (
        attack_training.log_deviation(trained[name], box.test_images) for name in (SE_SNN, attack_training.WEIGHT_0)
    )
    assert loud > calm + 0.5 and attack_training.log_deviation(trained[BASELINE], box.test_images) is None
    defended = attack_training.train(box, settings(), BASELINE, ADVERSARIAL, 0)[0]
    under_attack = []
    for network in (trained[BASELINE], defended):
        moved = perturb(ExpectedFGS(network, 1), box.test_images, box.test_labels, 0.1)
        under_attack.append(attack_measures.accuracy(network, moved, box.test_labels)["mean"])
    assert under_attack[1] > under_attack[0] + 0.1


def test_networks_at_one_seed_start_alike():
    fronts = [build(method, 12, 4, (16, 8), seed=5)[1].weight for method in METHODS]
    assert all(torch.equal(fronts[0], other) for other in fronts[1:])
    with pytest.raises(StudyError, match="lower --lr"):
        images = data.ImageData("x", torch.full((4, 1, 3, 4), torch.nan), torch.arange(4), *[torch.empty(0)] * 2, 4)
        attack_training.train(images, settings(epochs=1), BASELINE, NORMAL, 0)


def test_the_whole_study_stopped_and_gone_on_with(mnist, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    options = f"stochastic-attacks --preset tiny --data mnist --data-dir {mnist} --out {out}".split()
    state = torch.get_rng_state()
    assert command.main(options) == 0
    assert torch.equal(torch.get_rng_state(), state)
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out and "nan" not in table and all(f" {name} " in table for name in METHODS)
    before = json.loads((out / "results.json").read_text())
    assert "foolbox" in before["versions"] and len(before["rows"]) == 2 * len(METHODS)
    for row in before["rows"]:
        assert len(row["fgs"]) == 2 and bool(row["cw"]) == (row["training"] == NORMAL)
        assert (row["log_deviation"] is None) == (row["method"] == BASELINE)
        assert attack_measures.TRANSFER in [look["attack"] for look in row["looks"]]  # the baseline's from another one

    path = out / FILE
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-2]) + "\n" + lines[-2][:30])  # killed while it wrote a line
    trained, train = [], attack_training.train
    monkeypatch.setattr(attack_training, "train", lambda *given: trained.append(given[2]) or train(*given))
    assert command.main(options) == 0
    assert trained == list(METHODS[-2:])  # the baseline, for its transferred attacks, is on disk
    after = json.loads((out / "results.json").read_text())
    for row in (*before["rows"], *after["rows"]):
        row.pop("seconds"), row.pop("training_seconds")
    assert after["rows"] == before["rows"]


def test_without_baseline_and_attacks_of_cw(mnist, tmp_path, capsys):
    options = f"--preset tiny --data mnist --data-dir {mnist} --out {tmp_path / 'out'}".split()
    assert command.main(["stochastic-attacks", *options, "--methods", SE_SNN, "--trainings", ADVERSARIAL]) == 0
    table = capsys.readouterr().out
    assert "CW-L2" not in table and attack_measures.TRANSFER in table


def some_rows(chosen):
    for number, cell in enumerate(chosen.cells()):
        share = number / 20
        at = {"mean": share, "sample": share / 2}
        looks = [{"attack": name, "epsilon": 0.3} | at for name in (attack_measures.PGD, attack_measures.PGD_MARGIN)]
        looks[1]["mean"] = share / 4
        cw = [{"attack": attack_measures.CW, "confidence": 0.0, "found": 1.0, "distance": 0.5 + share} | at]
        yield cell | {"weights": 1000, "log_deviation": None, "training_seconds": 1.0, "seconds": 1.0, "looks": looks,
                      "fgs": [{"mean": 1.0, "sample": 1.0}, at], "zero_gradients": 0.0,
                      "cw": cw if cell["training"] == NORMAL else []}  # fmt: skip


def test_the_tables_and_the_figure_show_the_rows():
    chosen = Attacks(epsilons=(0.0, 0.3), seeds=2, methods=(BASELINE, SE_SNN))
    rows = list(some_rows(chosen))
    made = chosen.report(rows)
    shares = [row["fgs"][1]["mean"] for row in tables.select(rows, method=SE_SNN, training=ADVERSARIAL)]
    (line,) = [line for line in made.text.splitlines() if line.startswith("| adversarial | SE-SNN   | mean")]
    assert line.endswith(f"| {tables.percent([1.0, 1.0])} | {tables.percent(shares)} |")
    first, second, bars = made.figures["attacks.png"].axes
    assert [panel.get_title("left") for panel in (first, second)] == [
        "Untargeted FGS, normal training", "Untargeted FGS, adversarial training",
    ]  # fmt: skip
    baseline, stochastic = second.containers
    assert (baseline.get_label(), stochastic.get_label()) == (BASELINE, SE_SNN)
    assert stochastic.lines[0].get_ydata() == pytest.approx([100, 50 * sum(shares)])
    (cross,) = [line for line in second.lines if line.get_marker() == "x" and line.get_xdata()[0] > 0.3]
    assert cross.get_ydata() == pytest.approx([50 * sum(shares) / 4])  # of the two losses the worse
    shares = [row["fgs"][1]["mean"] for row in tables.select(rows, method=SE_SNN, training=NORMAL)]
    assert bars.patches[1].get_height() == pytest.approx(50 * sum(shares))
    assert [text.get_text() for text in bars.texts] == ["0.60", "0.65"]


@pytest.mark.parametrize("wrong", [{"epsilons": (1.5,)}, {"hidden": (0,)}, {"hidden": ()}, {"draws": 0}, {"lr": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(StudyError, match=f"--{next(iter(wrong))} is"):
        Attacks(**wrong)


def test_a_machine_without_foolbox_and_one_without_git(tmp_path, capsys, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("studies.stochastic.attacks")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "foolbox", None)
    assert command.main(["stochastic-attacks", "--preset", "tiny", "--out", str(tmp_path)]) == 2
    assert "stochastic-attacks needs the package foolbox: pip install -r" in capsys.readouterr().err
    # foolbox imports GitPython, which refuses to be imported without git.
    bare = {name: value for name, value in os.environ.items() if name != "GIT_PYTHON_REFRESH"} | {"PATH": "/nowhere"}
    subprocess.run([sys.executable, "-c", f"import {attack_library.__name__}"], env=bare, check=True)
