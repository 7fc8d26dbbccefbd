import math

import pytest
import torch

from nvrm_fast.probe import PHASES, Criteria, PhaseDiagram, classify, fit_decay
from nvrm_fast.probe.phases import between

TIME = torch.linspace(0, 1, 41)


def curve(*points):
    """A curve through evenly spaced points."""
    points = torch.tensor(points, dtype=torch.float64)
    place = TIME * (len(points) - 1)
    low = place.long().clamp(max=len(points) - 2)
    return points[low] + (place - low) * (points[low + 1] - points[low])


RUNS = {  # name: (norm of the noise weights, training loss)
    "decoupled": (curve(1, 1.05, 0.97, 0.97), curve(1, 0.5, 0.1, 0.1)),
    "decay": (curve(1, 0.3, 0.1, 0.1), curve(1, 0.5, 0.1, 0.1)),
    "catapult": (curve(1, 3, 0.1, 0.1), curve(1, 50, 0.1, 0.1)),
    "divergent": (curve(1, 10, 1e6, 1e7), curve(1, 1e3, 1e9, 1e12)),
}


@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_alone_and_all_at_once(phase):
    assert classify(*RUNS[phase]) == phase
    together = [torch.stack(series, 1) for series in zip(*RUNS.values())]
    assert classify(*together) == list(PHASES)


def test_not_a_number_is_divergent_wherever_it_is():
    norm, loss = RUNS["decay"]
    for broken in ((norm * math.nan, loss), (norm, loss * math.nan), (norm, loss * math.inf)):
        assert classify(*broken) == "divergent"
    late = loss.clone()
    late[-1] = math.nan
    assert classify(norm, late) == "divergent"


def test_overflow_that_is_overcome_is_a_catapult():
    norm, loss = RUNS["catapult"]
    loss = loss.clone()
    loss[5] = math.inf
    assert classify(norm, loss) == "catapult"


def test_learning_next_to_nothing_is_failure_when_others_learn():
    norm, loss = RUNS["decoupled"]
    poor = curve(1, 0.95, 0.9)
    assert classify(norm, loss, poor) == "decoupled"
    assert classify(norm, loss, poor, undisturbed=loss) == "divergent"
    assert classify(norm, loss, poor, undisturbed=poor) == "decoupled"
    assert classify(norm, loss, poor, Criteria(learned=0.1), undisturbed=loss) == "decoupled"


def test_thresholds():
    norm, loss = curve(1, 0.93), curve(1, 1.8, 0.1)
    assert classify(norm, loss) == "decay"
    assert classify(norm, loss, criteria=Criteria(decayed=0.9)) == "decoupled"
    assert classify(norm, loss, criteria=Criteria(rise=1.5)) == "catapult"


def test_bad_shapes():
    with pytest.raises(ValueError, match="must have one shape"):
        classify(torch.ones(3), torch.ones(4))
    with pytest.raises(ValueError, match="two records"):
        classify(torch.ones(1), torch.ones(1))


def test_boundaries_in_the_order_of_sigma():
    assert between([3.0, 1.0, 2.0], ["divergent", "decay", "decay"]) == [("decay", "divergent", 2.0, 3.0)]


def noisy_decay(tau, floor, noise, seed=0, points=60):
    generator = torch.Generator().manual_seed(seed)
    time = torch.linspace(0, 10, points, dtype=torch.float64)
    return time, floor + 2 * torch.exp(-time / tau) + noise * torch.randn(points, generator=generator).double()


@pytest.mark.parametrize("tau", [0.3, 2.0, 8.0])
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_a_fit_finds_an_exact_decay(tau, floor):
    fit = fit_decay(*noisy_decay(tau, floor, 0.0))
    assert fit.tau == pytest.approx(tau, rel=1e-3)
    assert fit.floor == pytest.approx(floor, abs=1e-2) and fit.amplitude == pytest.approx(2, abs=1e-2)
    assert fit.low <= fit.tau <= fit.high
    time, value = noisy_decay(tau, floor, 0.0)
    torch.testing.assert_close(fit(time), value, atol=1e-3, rtol=0)


def test_the_bounds_hold_the_truth_as_often_as_they_say():
    fits = [fit_decay(*noisy_decay(2.0, 0.5, 0.05, seed, points=40)) for seed in range(100)]
    inside = sum(fit.low <= 2.0 <= fit.high for fit in fits)
    # 95 of 100 with a deviation of 2.2: below 84 (five deviations) the bounds would be too narrow.
    assert 84 <= inside
    assert sum(fit.high - fit.low for fit in fits) / 100 < 0.6


def test_correlated_residuals_widen_the_bounds():
    time, value = noisy_decay(2.0, 0.0, 0.05)
    wave = value + 0.05 * torch.sin(3 * time)
    assert fit_decay(time, wave).independent_points < 0.7 * len(time)


def test_a_known_floor_narrows_the_bounds():
    time, value = noisy_decay(8.0, 0.0, 0.05)
    free, known = fit_decay(time, value), fit_decay(time, value, floor=0.0)
    assert known.floor == 0 and known.high - known.low < 0.5 * (free.high - free.low)


def test_what_does_not_decay_has_no_fit():
    time = torch.linspace(0, 1, 20)
    assert fit_decay(time, time) is None
    assert fit_decay(time[:4], -time[:4]) is None
    assert fit_decay(time, torch.full((20,), math.nan)) is None
    assert fit_decay(time, 1 - time).high == math.inf  # a straight line: no saying how long
    with pytest.raises(ValueError, match="one shape"):
        fit_decay(time, time[:5])


def diagram(sigmas=(1.0, 2.0, 4.0, 8.0)):
    norm, loss = (torch.stack(series, 1) for series in zip(*RUNS.values()))
    names = ("next_norm", "training_accuracy", "train_accuracy", "test_accuracy")
    series = dict.fromkeys(names, torch.full_like(norm, math.nan))
    series |= {"noise_norm": norm, "training_loss": loss, "train_loss": loss.clamp(max=2), "test_loss": loss}
    series["train_loss"] = torch.where(loss > 1e6, torch.nan, series["train_loss"])
    return PhaseDiagram(sigmas, torch.arange(41), 10, series)


def test_a_diagrams_reading():
    text = diagram().describe(2.0)
    for line in (
        "decoupled (sigma 1): too weak to matter",
        "catapult gives way to divergent between sigma 4 and 8.",
        "Your sigma 2: decay, the network notices",
        "would have to grow 2 times to disturb learning",
    ):
        assert line in text
    assert text.count("|") == 8 * 6


def test_a_diagram_survives_json_and_joins(tmp_path):
    import json

    one = diagram()
    one.save(tmp_path / "x.json")
    again = PhaseDiagram.from_dict(json.loads((tmp_path / "x.json").read_text()))
    assert again.phases == one.phases and again.boundaries() == one.boundaries()
    both = one.joined(diagram((1.5, 3.0, 6.0, 12.0)))
    assert both.sigmas == (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
    assert both.phases == [phase for phase in PHASES for _ in range(2)]
    with pytest.raises(ValueError, match="same steps"):
        one.joined(PhaseDiagram(one.sigmas, one.steps + 1, 10, one.series))


def test_decay_times_of_a_catapult_start_at_its_top():
    one = diagram()
    assert one.decay_times(2)["noise"].amplitude > 2  # from 3 downwards, not from 1 upwards
    assert one.decay_times(1)["noise"].tau > 0
