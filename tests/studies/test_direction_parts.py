"""What the studies of direction noise are made of: kinds, training, angles, gradient variances, expected weights."""

import math

import numpy as np
import official_files
import pytest
import torch
from torch import nn

from nvrm_fast import nn as noisy
from studies import data, models
from studies.direction import (
    angles,
    gradient_variance,
    kinds,
    mean_weights,
    noise_table,
    training,
    variational,
)
from studies.direction.training import DirectionStudy
from studies.fit import seeded

SHAPE = (1, 16, 16)


def fully_connected(hidden, *, seed):
    return models.started(models.mlp, SHAPE, 10, hidden, seed=seed)


def trained(network, images, seed=0, faster=None, **settings):
    settings = DirectionStudy(**settings)
    return list(training.train(network, images.train_images, images.train_labels, settings, seed, faster=faster))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    official_files.write_mnist(folder, size=16)
    return data.standardize(data.load("mnist", folder))


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_kind_keeps_the_mean_weights_and_makes_noise(kind):
    plain = fully_connected((12, 12), seed=0)
    x = torch.randn(7, *SHAPE, generator=torch.Generator().manual_seed(0))
    for strength in kinds.strengths(kind):
        network = kinds.with_noise(plain, kind, strength)
        with noisy.noise_mode(network, "mean"):
            torch.testing.assert_close(network(x), plain(x), rtol=1e-4, atol=1e-5)
        first, second = network(x), network(x)
        assert torch.equal(first, second) == (kind == "none") and first.isfinite().all()
        samplings = {layer.sampling for _, layer in noisy.noisy_modules(network) if hasattr(layer, "weight_v")}
        expected = kind.split("@")[-1]
        assert kind == "gauss-weight" or samplings == {expected if expected in kinds.SAMPLINGS else "local"}
        first.logsumexp(1).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_noise_on_the_signal_is_in_front_of_every_layer():
    network = kinds.with_noise(fully_connected((8, 8), seed=0), "rot-n@signal", (0.3,))
    before = [type(earlier) for earlier, layer in zip(network, network[1:]) if isinstance(layer, noisy.DirectionLinear)]
    assert before == [noisy.SignalNoise] * 3


@pytest.mark.parametrize("name", variational.LENETS)
@pytest.mark.parametrize("model", variational.MODELS)
def test_every_model_on_every_network(name, model):
    plain = models.started(variational.LENETS[name], SHAPE, 10, seed=0)
    made = variational.make_model(plain, model, 0.1)
    assert made(torch.randn(3, *SHAPE)).shape == (3, 10)
    layers = [layer for layer in made if hasattr(layer, "normalize")]
    dense = {layer.normalize for layer in layers if isinstance(layer, noisy.DirectionLinear)}
    assert dense == {"input" if model == "variational-reverse" else "output"}
    learns = [hasattr(layer, "log_spread") for layer in layers]
    assert len(learns) == (4 if name == "lenet-5" else 3) and all(learns) == model.startswith("variational")


def test_training_learns_repeats_itself_and_leaves_the_generator_alone(images):
    def once(seed):
        network = kinds.with_noise(fully_connected((32,), seed=0), "proj@local", (0.002,))
        assert len(trained(network, images, seed, epochs=15, batch_size=20, lr=3e-3)) == 15
        return network

    state = torch.get_rng_state()
    first, second, other = once(0), once(0), once(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[1].weight_v, second[1].weight_v) and not torch.equal(first[1].weight_v, other[1].weight_v)
    found = training.accuracies(first, images.test_images, images.test_labels, samples=10, seed=0)
    assert found == training.accuracies(second, images.test_images, images.test_labels, samples=10, seed=0)
    assert all(found[way] > 0.8 for way in training.WAYS)


@pytest.mark.parametrize("epochs, rates", [(1, [1.0]), (2, [1, 0.5]), (4, [1, 1, 2 / 3, 1 / 3])])
def test_the_learning_rate_falls_over_the_second_half(epochs, rates, images, monkeypatch):
    network = kinds.with_noise(fully_connected((4,), seed=0), "none", ())
    seen = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: seen.append([g["lr"] for g in self.param_groups]) or step(self)
    )
    trained(network, images, epochs=epochs, batch_size=200, lr=0.1, faster={"weight_g": 5.0})
    assert sorted(map(max, seen), reverse=True) == pytest.approx([0.5 * rate for rate in rates])
    assert [max(lrs) / min(lrs) for lrs in seen] == pytest.approx([5.0] * epochs)


def test_training_sets_grow_and_never_meet_what_judges_them(images):
    small, large = (noise_table.split(images, size, 3, validated=True) for size in (40, 120))
    assert torch.equal(small[0], large[0][:40])
    for size in (40, 120, 200):
        train, labels, judged, truth = noise_table.split(images, size, 3, validated=True)
        assert len(train) == len(labels) and len(judged) == len(truth) > 0
        assert not (train.flatten(1)[:, None] == judged.flatten(1)).all(2).any()
        assert len(train) == (160 if size == 200 else size)  # nothing is left: a fifth is held out
    assert noise_table.split(images, 40, 3, validated=False)[2] is images.test_images


@pytest.mark.parametrize(
    "direction",
    [noisy.Projected(0.01), noisy.Tangent(0.01), noisy.BetaRotation(0.5), noisy.Rotation(0.5, mean=0.6, low=0.0)],
    ids=lambda direction: type(direction).__name__,
)
def test_angles_in_weight_space_are_those_of_the_local_law(direction):
    draws, generator = 4_000, torch.Generator().manual_seed(0)
    by_vectors = angles.angles_in_weight_space(direction, 50, draws, generator)
    by_law = torch.acos(angles.cosines_by_law(direction, 50, draws, 1).clamp(-1, 1))
    # A right law fails at one in 10,000 seeds.
    assert angles.distance(by_vectors, by_law) < angles.largest_by_chance(draws)
    wrong = torch.acos(angles.cosines_by_law(direction, 100, draws, 1).clamp(-1, 1)) * 0.9
    assert angles.distance(by_vectors, wrong) > angles.largest_by_chance(draws)


def test_von_mises_fisher_has_no_angles_by_vectors():
    with pytest.raises(TypeError, match="VonMisesFisher"):
        angles.angles_in_weight_space(noisy.VonMisesFisher(1.0), 5, 5, torch.Generator())


def test_gradient_variance_without_and_with_noise(images):
    x, y = images.train_images[:64], images.train_labels[:64]
    plain = fully_connected((16,), seed=0)
    variance, squared = gradient_variance.gradient_variance(noisy.to_noisy(plain), x, y, 64, 2, 0)
    loss = nn.functional.cross_entropy(noisy.to_noisy(plain)(x), y)
    gradients = torch.autograd.grad(loss, list(plain.parameters()), allow_unused=True)
    assert variance == 0 and squared > 0 and all(gradient is None for gradient in gradients)
    shared, local = (
        noisy.to_noisy(plain, direction=noisy.Rotation(0.8, low=0.0), sampling=sampling)
        for sampling in ("shared", "local")
    )
    with seeded("cpu", 0):
        found = {
            (name, size): gradient_variance.gradient_variance(network, x, y, size, 40, 0)[0]
            for name, network in (("shared", shared), ("local", local))
            for size in (2, 64)
        }
    # Of 32 if objects are independent; the estimates scatter by some ten percent.
    assert found["local", 2] / found["local", 64] > 20 > found["shared", 2] / found["shared", 64]


def test_the_covariance_of_losses_is_numpys(images, monkeypatch):
    x, y = images.train_images[:6], images.train_labels[:6]
    network = kinds.with_noise(fully_connected((8,), seed=0), "proj@shared", (0.01,))
    losses, true = [], nn.functional.cross_entropy
    monkeypatch.setattr(gradient_variance, "cross_entropy", lambda *a, **b: losses.append(true(*a, **b)) or losses[-1])
    variance, covariance = gradient_variance.loss_covariance(network, x, y, 20)
    matrix = np.cov(torch.stack(losses).double().numpy().T)
    assert variance == pytest.approx(np.trace(matrix) / 6)
    assert covariance == pytest.approx((matrix.sum() - np.trace(matrix)) / 30)


def test_expected_weights_give_the_expected_output():
    # So many objects that five standard errors are a quarter of what the shrinkage changes.
    direction, objects = noisy.Projected(0.02), 100_000
    layer = nn.Sequential(noisy.DirectionLinear(100, 1, direction=direction))
    x = torch.randn(1, 100, generator=torch.Generator().manual_seed(2))
    before = layer[0].weight_g.clone()
    with torch.no_grad(), seeded("cpu", 0):
        outputs = layer(x.expand(objects, 100))
        with mean_weights.expected_weights(layer), noisy.noise_mode(layer, "mean"):
            expected = float(layer(x))
        with noisy.noise_mode(layer, "mean"):
            unshrunk = float(layer(x))
    assert torch.equal(layer[0].weight_g, before)
    error = 5 * float(outputs.std()) / math.sqrt(objects)  # and E[cos] itself is known to a tenth of a percent
    assert abs(float(outputs.mean()) - expected) < error + 0.003 * abs(expected)
    assert abs(float(outputs.mean()) - unshrunk) > 2 * error


def test_densities_of_angles_integrate_to_one():
    angles_ = np.linspace(-math.pi / 2, math.pi / 2, 20_001)
    for mean, deviation in ((0.1, 0.1), (0.8, 0.3), (0.5, 10.0)):
        density = variational.angle_density(angles_, mean, deviation)
        assert np.trapezoid(density, angles_) == pytest.approx(1, rel=1e-3)


def test_agreement_of_magnitude_and_angle():
    layer = noisy.VariationalLinear(4, 50)
    with torch.no_grad():
        layer.log_spread.copy_(layer.weight_g.flatten().log() + torch.linspace(-3, 3, 50))
        layer.log_angle_deviation.copy_(torch.linspace(-2, 1, 50))
    assert variational.agreement([layer]) == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        layer.log_angle_deviation.copy_(torch.linspace(1, -2, 50))
    assert variational.agreement([layer]) == pytest.approx(-1, abs=1e-6)
    with torch.no_grad():
        layer.log_angle_deviation.fill_(1.0)
    assert variational.agreement([layer]) is None
