import math

import pytest
import torch

from studies import StudyError
from studies.labels import KINDS, flip_labels

COUNT = 40_000


def flip(kind, rate, classes=10, seed=0):
    labels = torch.arange(COUNT) % classes
    noisy, flipped = flip_labels(labels, classes, rate, kind, torch.Generator().manual_seed(seed))
    return labels, noisy, flipped


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_the_rate_is_exact_in_expectation(kind, rate):
    labels, noisy, flipped = flip(kind, rate)
    # Five standard deviations of a binomial: a right generator fails once in 1.7 million seeds.
    assert abs(float(flipped.double().mean()) - rate) < 5 * math.sqrt(rate * (1 - rate) / COUNT)
    assert torch.equal(noisy != labels, flipped)  # every flipped label really is another class
    assert noisy.dtype == torch.int64 and 0 <= int(noisy.min()) and int(noisy.max()) < 10


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_asymmetric_goes_to_the_next_class_and_around(classes):
    labels, noisy, flipped = flip("asymmetric", 0.3, classes)
    assert torch.equal(noisy[flipped], (labels[flipped] + 1) % classes)


def test_symmetric_reaches_all_other_classes_alike():
    labels, noisy, flipped = flip("symmetric", 0.5)
    pairs = torch.bincount(10 * labels[flipped] + noisy[flipped], minlength=100).reshape(10, 10)
    assert torch.equal(pairs.diagonal(), torch.zeros(10, dtype=torch.int64))
    expected = 0.5 * COUNT / 10 / 9
    assert ((pairs + torch.eye(10) * expected - expected).abs() < 5 * math.sqrt(expected)).all()


def test_patterned_flips_have_one_target_a_class():
    labels = torch.arange(10).repeat_interleave(1000)
    given, flipped = flip_labels(labels, 10, 0.4, "patterned", torch.Generator().manual_seed(0))
    for label in range(10):
        targets = given[(labels == label) & flipped].unique()
        assert len(targets) == 1 and targets[0] != label
    other, _ = flip_labels(labels, 10, 0.4, "patterned", torch.Generator().manual_seed(1))
    assert not torch.equal(given, other)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_of_nothing_and_everything(kind):
    labels, noisy, flipped = flip(kind, 0.0)
    assert torch.equal(noisy, labels) and not flipped.any()
    labels, noisy, flipped = flip(kind, 1.0)
    assert flipped.all() and not (noisy == labels).any()


def test_the_generator_decides_and_nothing_else():
    torch.manual_seed(1)
    first = flip("symmetric", 0.4, seed=7)[1]
    torch.manual_seed(2)
    assert torch.equal(first, flip("symmetric", 0.4, seed=7)[1])
    assert not torch.equal(first, flip("symmetric", 0.4, seed=8)[1])


@pytest.mark.parametrize(
    "labels, classes, rate, kind, says",
    [
        ([0, 1], 2, 1.5, "symmetric", "rate is 1.5"),
        ([0, 1], 2, float("nan"), "symmetric", "rate is nan"),
        ([0, 1], 2, 0.5, "pair", "asymmetric, symmetric"),
        ([0, 0], 1, 0.5, "symmetric", "classes is 1"),
        ([0, 2], 2, 0.5, "symmetric", "labels has values outside 0..1"),
    ],
)
def test_errors_name_the_argument(labels, classes, rate, kind, says):
    with pytest.raises(StudyError, match=says):
        flip_labels(torch.tensor(labels), classes, rate, kind, torch.Generator())
