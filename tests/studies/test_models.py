import pytest
import torch
from torch import nn

from studies import StudyError, models


@pytest.mark.parametrize(
    "name, weights",
    # VGG-16: 14.71 million weights in the convolutions of Simonyan and Zisserman, 2 * 4,224 of their batch norms, and
    # the three dense layers of Table 1. ResNet-34: the count that the published code's network has.
    [("vgg16", 14_710_464 + 8_448 + 2 * (512 * 512 + 512) + 5_130), ("resnet34", 21_282_122)],
)
def test_networks_of_table_1_have_the_known_number_of_weights(name, weights):
    network = models.build(name, (3, 32, 32), 10, seed=0)
    assert sum(weight.numel() for weight in network.parameters()) == weights


def test_mobilenetv2_has_the_table_s_blocks():
    network = models.build("mobilenetv2", (3, 32, 32), 100, seed=0)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    depthwise = [layer for layer in convolutions if layer.groups > 1]
    assert len(depthwise) == 1 + 2 + 3 + 4 + 3 + 3 + 1
    assert [layer.stride[0] for layer in depthwise].count(2) == 3
    pointwise = [layer.out_channels for layer in convolutions if layer.kernel_size == (1, 1)]
    assert [c for c in pointwise if c in (16, 24, 32, 64, 96, 160, 320)][-1] == 320 and pointwise[-1] == 1280


@pytest.mark.parametrize("network", models.NETWORKS)
@pytest.mark.parametrize("shape, classes", [((1, 28, 28), 10), ((3, 32, 32), 100), ((2, 13, 18), 3)])
def test_networks_fit_all_image_shapes(network, shape, classes):
    assert models.build(network, shape, classes, seed=0)(torch.zeros(5, *shape)).shape == (5, classes)


def test_lenet5_is_caffe_s():
    network = models.started(models.lenet5, (1, 28, 28), 10, seed=0)
    assert sum(weight.numel() for weight in network.parameters()) == 520 + 25_050 + 400_500 + 5_010
    half = models.started(models.lenet5, (1, 28, 28), 10, 0.5, seed=0)
    assert [layer.out_channels for layer in half if isinstance(layer, nn.Conv2d)] == [10, 25]


@pytest.mark.parametrize("network, pixels", [("cnn", 11), ("lenet5", 15)])
def test_images_too_small_for_the_network(network, pixels):
    with pytest.raises(StudyError, match="use mlp"):
        models.started(getattr(models, network), (1, 28, pixels), 10, 1, seed=0)


def test_weights_follow_from_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = models.started(models.mlp, (1, 2, 3), 4, (5, 6), seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, third = (models.started(models.mlp, (1, 2, 3), 4, (5, 6), seed=seed) for seed in (7, 8))
    assert [tuple(weight.shape) for weight in first.parameters()] == [(5, 6), (5,), (6, 5), (6,), (4, 6), (4,)]
    for one, same, other in zip(first.parameters(), second.parameters(), third.parameters()):
        assert torch.equal(one, same) and not torch.equal(one, other)
