"""Counting, criteria and surgery of the pruning study, each against a count or a network made by hand."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nvrm_fast import nn as noisy
from studies.data import ImageData
from studies.models import started
from studies.stochastic.pruning import importance, loop, networks, surgery
from studies.stochastic.pruning.loop import SE_SNN, log_sigmas
from studies.stochastic.pruning.study import Pruning
from studies.stochastic.pruning.surgery import Surgeon
from studies.study import Context

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
#: Sums of the same products in another order, float32, logits of order 1.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def network(name="lenet5", shape=MNIST, width=1.0, seed=0):
    return started(networks.NETWORKS[name], shape, 10, width, seed=seed).eval()


def mask(length, *chosen):
    found = torch.zeros(length, dtype=torch.bool)
    found[list(chosen)] = True
    return found


def test_the_cost_of_lenet_5_caffe_by_hand():
    found = networks.cost(network(), MNIST)
    # Convolutions 24 x 24 and 8 x 8 outputs of 5 x 5 x inputs products each; then 4 x 4 x 50 = 800 values.
    assert found.multiplications == 24 * 24 * 25 * 20 + 8 * 8 * 25 * 20 * 50 + 800 * 500 + 500 * 10 == 2_293_000
    assert found.weights == (25 + 1) * 20 + (25 * 20 + 1) * 50 + (800 + 1) * 500 + (500 + 1) * 10 == 431_080
    assert found.memory == 24 * 24 * 20 + 8 * 8 * 50 + 800 + 500 == 16_020


def test_the_costs_of_the_others():
    found = networks.cost(network("mlp"), MNIST)
    assert found.multiplications == 784 * 128 + 128 * 128 + 128 * 10
    assert found.weights == found.multiplications + 128 + 128 + 10
    assert found.memory == 256
    # 313.2 million in the convolutions of VGG-16 on 32 x 32, a well-known figure, and three dense layers.
    convolutions, channels = 0, 3
    for width, side, layers in ((64, 32, 2), (128, 16, 2), (256, 8, 3), (512, 4, 3), (512, 2, 3)):
        for _ in range(layers):
            convolutions, channels = convolutions + side * side * 9 * channels * width, width
    assert networks.cost(network("vgg16", CIFAR), CIFAR).multiplications == convolutions + 2 * 512 * 512 + 5120
    assert round(convolutions / 1e6, 1) == 313.2
    assert len(networks.hidden(network("vgg16", CIFAR, 0.05))) == 15
    assert len(networks.hidden(network("vgg16-convolutional", CIFAR, 0.05))) == 16


def test_what_a_neuron_saves_is_what_its_removal_saves():
    for name, shape in (("lenet5", MNIST), ("mlp", MNIST), ("vgg16", CIFAR)):
        whole = network(name, shape, 0.1)
        before, shares = networks.cost(whole, shape).multiplications, networks.saved(whole, shape)
        for group in networks.hidden(whole):
            smaller = network(name, shape, 0.1)
            Surgeon(smaller, shape).remove({group.place: mask(networks.count(smaller[group.place]), 1)})
            after = networks.cost(smaller, shape).multiplications
            assert shares[group.place] == pytest.approx((before - after) / before)


def test_surgery_equals_cutting_by_hand_twice_over_at_the_flatten():
    """Channels of the second convolution, in two operations: the dense layer loses the 16 columns of each."""
    whole = network()
    x = torch.randn(3, *MNIST)
    small = network()
    surgeon = Surgeon(small, MNIST)
    assert surgeon.remove({3: mask(50, 0, 7, 49), 0: mask(20, 4)}) == 4
    assert surgeon.remove({3: mask(47, 1), 7: mask(500, *range(100, 400))}) == 301
    second = [c for c in range(50) if c not in (0, 7, 49)]
    del second[1]
    first, third = [c for c in range(20) if c != 4], [u for u in range(500) if not 100 <= u < 400]
    columns = [16 * c + position for c in second for position in range(16)]
    assert networks.widths(small) == [19, 46, 200] and small[7].in_features == 16 * 46
    assert torch.equal(small[3].weight, whole[3].weight[second][:, first])
    assert torch.equal(small[3].bias, whole[3].bias[second])
    assert torch.equal(small[7].weight, whole[7].weight[third][:, columns])
    assert torch.equal(small[9].weight, whole[9].weight[:, third])
    assert small(x).shape == (3, 10)


def test_surgery_of_inputs_and_batch_normalisation():
    small, whole = network("mlp"), network("mlp")
    surgeon = Surgeon(small, MNIST)
    surgeon.remove({1: mask(784, *range(0, 700))})
    surgeon.remove({1: mask(84, 0, 83), 2: mask(128, 5)})
    assert small[1].kept.tolist() == list(range(701, 783)) and networks.widths(small) == [82, 127, 128]
    x = torch.randn(2, *MNIST)
    cut = x.flatten(1).clone()
    cut[:, [*range(701), 783]] = 0
    rows = [unit for unit in range(128) if unit != 5]
    torch.testing.assert_close(small[:3](x), whole[2](cut)[:, rows], **ROUNDING)

    for name in ("vgg16", "vgg16-convolutional"):
        small = network(name, CIFAR, 0.1)
        neurons = {group.place: mask(networks.count(small[group.place]), 0, 2) for group in networks.hidden(small)}
        before = networks.widths(small)
        Surgeon(small, CIFAR).remove(neurons)
        assert networks.widths(small) == [width - 2 for width in before]
        assert small(torch.randn(2, *CIFAR)).shape == (2, 10)


def test_one_neuron_stays_and_masks_are_checked():
    small = network()
    surgeon = Surgeon(small, MNIST)
    assert surgeon.remove({0: torch.ones(20, dtype=torch.bool)}) == 19
    assert networks.widths(small) == [1, 50, 500]
    with pytest.raises(ValueError, match="module 3 has 50 neurons, but its mask has shape"):
        surgeon.remove({3: mask(49)})


@pytest.mark.parametrize("name, shape", [("lenet5", MNIST), ("mlp", MNIST), ("vgg16", CIFAR)])
def test_removing_what_never_fires_changes_no_output(name, shape):
    """A stochastic network with a few neurons of every layer held below zero, through its plain twin."""
    plain = noisy.to_plain(networks.stochastic(network(name, shape, 0.2), seed=0))
    x = torch.randn(20, *shape)
    x[:, :, 3:6] = 0
    for group in networks.hidden(plain):
        if group.place != group.value:  # not the inputs, of which three rows are zero
            normalized = plain[group.place + 1]
            bias = normalized.bias if isinstance(normalized, nn.BatchNorm2d) else plain[group.place].bias
            bias.data[[0, 2]] = -100.0
    plain.eval()
    found = importance.never_firing(plain, x)
    for group in networks.hidden(plain):
        if group.place == group.value:
            assert found[group.place].view(shape[1:])[3:6].all() and found[group.place].sum() == 3 * shape[2]
        else:
            assert found[group.place][[0, 2]].all() and not found[group.place].all()
    before, widths = plain(x), networks.widths(plain)
    removed = Surgeon(plain, shape).remove(found)
    assert removed == sum(int(gone.sum()) for gone in found.values()) == sum(widths) - sum(networks.widths(plain))
    torch.testing.assert_close(plain(x), before, **ROUNDING)


def test_the_taylor_criterion_by_hand():
    """Two batches against |mean over positions of gradient * value| of one image at a time, averaged and normalized."""
    whole = network(width=0.3)
    x, y = torch.randn(6, *MNIST), torch.randint(10, (6,))
    taylor = importance.Taylor()
    with taylor.watching(whole):
        for part in (slice(0, 4), slice(4, 6)):
            cross_entropy(whole(x[part]), y[part]).backward()
            taylor.add()
    assert not any(module._forward_hooks for module in whole)
    scores = taylor.scores()
    for place, score in scores.items():
        by_image = []
        for image, label in zip(x, y):
            value = whole[: place + 2](image[None]).detach().requires_grad_()
            cross_entropy(whole[place + 2 :](value), label[None]).backward()
            by_image.append(
                (value.grad * value)[0].flatten(1).mean(1).abs() if value.dim() > 2 else (value.grad * value)[0].abs()
            )
        expected = torch.stack(by_image).mean(0)
        torch.testing.assert_close(score, expected / expected.norm(), rtol=1e-4, atol=1e-6)
        assert score.norm().item() == pytest.approx(1)
    assert list(scores) == [0, 3, 7]


def test_the_criterion_sees_inputs():
    whole = network("mlp")
    x, y = torch.randn(6, *MNIST), torch.randint(10, (6,))
    x[:, :, 9] = 0
    taylor = importance.Taylor()
    with taylor.watching(whole):
        cross_entropy(whole(x), y).backward()
        taylor.add()
    scores = taylor.scores()
    assert list(scores) == [1, 2, 4]
    assert (scores[1].view(28, 28)[9] == 0).all() and scores[1].view(28, 28)[10].gt(0).all()


def test_the_least_important():
    scores = {0: torch.tensor([0.5, 0.1, 0.9]), 3: torch.tensor([0.2, 0.05]), 7: torch.tensor([0.01])}
    assert {k: v.tolist() for k, v in importance.least(scores).items()} == {3: [False, True]}
    found = importance.least(scores, 100)
    assert {k: v.tolist() for k, v in found.items()} == {0: [True, True, False], 3: [False, True]}
    assert importance.least({0: torch.ones(1)}) == {}


def test_expensive_neurons_are_worth_less():
    whole = network()
    scores = {0: torch.full((20,), 0.3), 3: torch.full((50,), 0.1), 7: torch.full((500,), 0.04)}
    found = loop.worth(scores, whole, MNIST, 2.0)
    # One filter of the first convolution: 14,400 products, and 80,000 of the second convolution's.
    torch.testing.assert_close(found[0], torch.full((20,), 0.3 - 2 * 94_400 / 2_293_000))
    torch.testing.assert_close(found[7], torch.full((500,), 0.04 - 2 * 810 / 2_293_000))
    unchanged = loop.worth(scores, whole, MNIST, 0.0)
    assert all(torch.equal(unchanged[place], scores[place]) for place in scores)


def stripes(shape, count=60):
    """Two classes, told apart by the half that is bright."""
    labels = torch.arange(count) % 2
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1)) / 2
    images[labels == 1, :, : shape[1] // 2] += 1
    return ImageData("stripes", images, labels, images.clone(), labels.clone(), 2)


def tiny(**more):
    return Pruning(**(Pruning.presets["tiny"] | {"width": 0.2, "batch_size": 20} | more))


def test_the_loop_stops_at_the_target_and_repeats():
    data, chosen = stripes(MNIST), tiny(at_once=0.0, target=0.5, epochs=6, updates=2)
    given = {"method": SE_SNN, "weight": 1e-4, "margin": 4.0, "seed": 0}
    first, second = (loop.one_run(data, chosen, **given) for _ in range(2))
    assert first["points"] == second["points"]
    points = first["points"]
    assert [point["stage"] for point in points[:2]] == ["whole", "active"] and points[-1]["stage"] == "end"
    start, *_, before, last = (point["multiplications"] for point in points)
    assert last <= 0.5 * start < before
    # The last turn took one neuron, which holds at most a quarter of its layer and so of the multiplications.
    assert last >= 0.75 * 0.5 * start
    assert all(a["weights"] >= b["weights"] for a, b in itertools.pairwise(points))
    assert points[-1]["test_error"] < 0.1
    assert first["neurons"] == points[0]["widths"] == [4, 10, 100]
    assert sum(points[0]["widths"]) - sum(points[1]["widths"]) == sum(first["never_firing"])


def test_the_entropy_criterion_removes_the_noisiest(monkeypatch):
    """Scores keep pace with the surgery: at every turn those that are left are the calmest of each layer."""
    data, chosen = stripes(MNIST), tiny(at_once=0.1, target=0.3, flops_weight=0.0)
    seen, ranked = [], []
    monkeypatch.setattr(loop, "log_sigmas", lambda *given: seen.append(log_sigmas(*given)) or seen[-1])
    monkeypatch.setattr(loop, "least", lambda scores, *more: ranked.append(scores) or importance.least(scores, *more))
    given = {"method": SE_SNN, "weight": 0.0, "margin": 0.0, "seed": 0}
    points = loop.one_run(data, chosen, **given, criterion="entropy")["points"]
    assert points[-1]["multiplications"] <= 0.3 * points[0]["multiplications"]
    entropies = seen[-1]
    assert list(entropies) == [0, 3, 7] and [len(entropy) for entropy in entropies.values()] == points[0]["widths"]
    assert [len(score) for score in ranked[0].values()] == points[1]["widths"]
    for before, after in itertools.pairwise(ranked):
        for place, score in after.items():
            assert torch.equal(score.sort().values, before[place].sort().values[-len(score) :])
    for place, score in ranked[0].items():
        assert torch.isin(-score, entropies[place]).all()
    # The baseline has no entropies.
    given["method"], chosen = "baseline", tiny(at_once=0.1, target=0.3)
    taylor, entropy = (loop.one_run(data, chosen, **given, criterion=by) for by in ("taylor", "entropy"))
    assert taylor["points"] == entropy["points"]


@pytest.mark.parametrize("name, shape", [("lenet5", MNIST), ("vgg16", CIFAR)])
def test_branches_are_pruned_with_the_means(name, shape):
    """Put together, cut and taken apart again: what is left has the means and deviations that it had."""
    torch.manual_seed(0)
    plain = networks.NETWORKS[name](shape, 10, 0.1).eval()
    whole = networks.stochastic(plain, seed=1, initial_deviation=None).eval()
    images = torch.randn(8, *shape)
    means = noisy.to_plain(whole)
    regularizer = noisy.MaxEntropy("neuron", 1.0, "sum")
    both = surgery.Branches(whole, means, shape, regularizer, 0.5)
    again = both.joined(means).eval()
    assert again[0].regularizer == regularizer
    before = log_sigmas(whole, means, images)
    assert all(torch.equal(before[place], found) for place, found in log_sigmas(again, means, images).items())
    place = list(before)[0]
    gone = torch.arange(len(before[place])) % 2 == 1
    surgeon = Surgeon(means, shape)
    surgeon.remove({place: gone}), both.remove({place: gone})
    left = both.joined(means).eval()
    torch.testing.assert_close(log_sigmas(left, means, images)[place], before[place][~gone])
    with torch.no_grad():
        left[0].weight.mul_(2)
    both.take(left, means)
    with noisy.noise_mode(left, "mean"):
        torch.testing.assert_close(means.eval()(images), left(images), **ROUNDING)
    mean, raw = left[0].weight.chunk(2)
    assert torch.equal(means[0].weight, mean) and torch.equal(both.deviations[0].weight, raw)


@pytest.mark.parametrize("criterion", ["taylor", "entropy"])
def test_noise_in_the_loop(criterion, monkeypatch):
    data, seen, fine_tune = stripes(MNIST), [], loop.fine_tune
    monkeypatch.setattr(
        loop,
        "fine_tune",
        lambda network, *given, **more: seen.append((network, more)) or fine_tune(network, *given, **more),
    )
    given = {"method": SE_SNN, "weight": 1e-3, "margin": 1.0, "seed": 0, "criterion": criterion, "loop_noise": True}
    chosen = tiny(at_once=0.2, target=0.4, updates=2)
    state = torch.get_rng_state()
    first, second = (loop.one_run(data, chosen, **given)["points"] for _ in range(2))
    assert first == second and torch.equal(torch.get_rng_state(), state)
    assert first[-1]["multiplications"] <= 0.4 * first[0]["multiplications"]
    for network, more in seen:
        assert len(noisy.noisy_modules(network)) == 3 and more["weight"] == 1e-3
    seen.clear()
    loop.one_run(data, chosen, method="baseline", weight=0.0, margin=0.0, seed=0)
    assert seen and not any(noisy.noisy_modules(network) for network, _ in seen)


def test_ways_of_pruning_start_from_one_trained_network(tmp_path, monkeypatch):
    data, chosen, trained = stripes(MNIST), tiny(at_once=0.5, target=0.4, updates=2), []
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda *given: trained.append(given[0]) or train(*given))
    given = {"method": SE_SNN, "weight": 1e-3, "margin": 1.0, "seed": 0}
    once = Context(chosen, data, tmp_path).once
    shared = [loop.one_run(data, chosen, **given, criterion=by, once=once) for by in ("taylor", "entropy")]
    assert len(trained) == 1
    alone = [loop.one_run(data, chosen, **given, criterion=by) for by in ("taylor", "entropy")]
    assert [run["points"] for run in shared] == [run["points"] for run in alone]
    assert shared[0]["points"][:2] == shared[1]["points"][:2] and shared[0]["points"] != shared[1]["points"]


def test_the_loop_ends_where_nothing_is_left_to_remove():
    chosen = tiny(at_once=0.9, target=1e-6)
    points = loop.one_run(stripes(MNIST), chosen, method="baseline", weight=0.0, margin=0.0, seed=0)["points"]
    assert points[-1]["widths"] == [1, 1, 1] and points[-1]["stage"] == "end"


def test_where_deviations_start():
    plain = network(width=0.2)
    for start, spread in ((0.25, 0.0), (None, 0.01)):
        noisy_one = networks.stochastic(plain, seed=0, initial_deviation=start)
        mean, deviation = noisy_one[0].gaussian(torch.randn(5, *MNIST))
        assert deviation.std() >= spread and type(noisy_one[9]) is nn.Linear
        if start is not None:
            torch.testing.assert_close(deviation, torch.full_like(deviation, start))
        torch.testing.assert_close(noisy_one[0].mean_parameters(), (plain[0].weight, plain[0].bias), rtol=0, atol=0)


def test_batch_normalisation_is_fitted_to_the_noiseless_network(monkeypatch):
    data, seen = stripes(CIFAR, 40), []
    monkeypatch.setattr(loop, "prune", lambda plain, part, *more: seen.append((plain, part)) or [])
    loop.one_run(data, tiny(network="vgg16", width=0.05), method=SE_SNN, weight=0.0, margin=0.0, seed=0)
    ((plain, part),) = seen
    first = plain[0](part.images)
    torch.testing.assert_close(plain[1].running_mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert plain[1].momentum == 0.1


def test_labels_are_flipped_and_images_held_out():
    data = stripes(MNIST, 400)
    part = loop.split(data, tiny(noise_rate=0.4, validation=0.25), 0)
    assert len(part.labels) == 300 and len(part.validation_labels) == 100
    bright = (part.images[:, :, :14].mean((1, 2, 3)) > 0.5).long()
    # Five standard deviations of a share of 300.
    assert abs((bright != part.labels).double().mean().item() - 0.4) < 5 * (0.24 / 300) ** 0.5
    assert torch.equal(part.test_labels, data.test_labels)
