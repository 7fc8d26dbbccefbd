"""ResNet-50, layer by layer and name by name that of torchvision, so that weights made for that load; and a small one.

Written out here because PyPI has torchvision for torch's CUDA build only: with torch's CPU build it cannot be imported.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nvrm_fast import nn as noisy
from studies import StudyError
from studies.models import started
from studies.stochastic.methods import Summed

#: ImageNet weights of ResNet-50 that torchvision's authors publish ("IMAGENET1K_V1"); the name holds the file's hash.
PRETRAINED = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last of four times the width, around a shortcut (He et al., 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = _EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != wide:
            self.downsample = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """A residual network of four stages of bottlenecks, with a classifier.

    Args:
        blocks: bottlenecks in each stage.
        classes: outputs of the classifier ``fc``.
        width: channels at the start; a stage has twice those of the one before.
        small_pictures: begin with a 3x3 convolution and no pooling, for pictures of some 30 pixels.

    Maps (N, 3, height, width) to logits (N, classes); ``features`` gives what ``fc`` takes, (N, 32 width).
    Source: He et al., "Deep Residual Learning for Image Recognition" (2016).
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], classes: int, width: int = 64, small_pictures: bool = False
    ) -> None:
        super().__init__()
        if small_pictures:
            self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if small_pictures else nn.MaxPool2d(3, 2, 1)
        channels = width
        for number, count in enumerate(blocks):
            inner = width * 2**number
            stage = []
            for place in range(count):
                stage.append(Bottleneck(channels, inner, 2 if number > 0 and place == 0 else 1))
                channels = _EXPANSION * inner
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def last_unit(self) -> tuple[str, Bottleneck]:
        """Name and module of the last bottleneck."""
        place = len(self.layer4) - 1
        return f"layer4.{place}", self.layer4[place]

    def features(self, x: Tensor) -> Tensor:
        """What the classifier takes: the last stage's activations, averaged over positions."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def build(name: str, classes: int, seed: int) -> ResNet:
    """A network of ``NetworkName`` with random weights."""
    if name == "resnet50":
        network = started(ResNet, (3, 4, 6, 3), classes, seed=seed)
    else:
        network = started(ResNet, (1, 1, 1, 1), classes, width=8, small_pictures=True, seed=seed)
    return network.to(memory_format=torch.channels_last)


NetworkName = Literal["resnet50", "small"]


def load_weights(network: ResNet, path: Path) -> None:
    """Weights of a file in torchvision's naming, all but the classifier's, whose classes are others.

    Raises:
        StudyError: if the file is not one of tensors by name, or is of another network.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: value for name, value in found.items() if not name.startswith("fc.")}
        lacking = network.load_state_dict(found, strict=False)
        names = [name for name in lacking.missing_keys if not name.startswith("fc.")] + lacking.unexpected_keys
        if names:
            raise ValueError(names[0])
    except Exception as error:
        # torch.load and load_state_dict have many ways to refuse a file.
        reason = str(error).splitlines()[0]
        raise StudyError(f"--weights {path} does not fit the network ({reason}): take weights of ResNet-50") from None


def weights_file(weights: str) -> Path | None:
    """The file that --weights means: a path, or for "download" the published ImageNet weights, checked by their hash
    and kept in torch's own cache; None for "random".

    Raises:
        StudyError: if the file is missing or cannot be had.
    """
    if weights == "random":
        return None
    if weights != "download":
        if not Path(weights).is_file():
            raise StudyError(f"--weights {weights} is missing: name a file, or random")
        return Path(weights)
    try:
        path = Path(torch.hub.get_dir()) / "checkpoints" / PRETRAINED.rsplit("/", 1)[1]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(PRETRAINED, str(path), hash_prefix="0676ba61")
    except (OSError, RuntimeError) as error:
        raise StudyError(
            f"--weights download: {PRETRAINED} cannot be had ({error}): get the file elsewhere and name it by --weights"
        ) from None
    return path


def extended(network: ResNet, stochastic: bool, seed: int) -> ResNet:
    """A copy of a network of the first stage made ready for the second (appendix A); the network itself stays.

    The last convolution of the last bottleneck becomes stochastic, with a deviation branch at random, or gets a
    parallel one. Its batch normalization is folded into it before: noise that comes before a normalization would be in
    its running variances, which the mode "mean" then divides by. All parameters but this layer's and the classifier's
    are frozen, and the other normalizations keep their statistics as long as the copy stays in eval mode, as returned.
    """
    new = copy.deepcopy(network).eval()
    name, unit = new.last_unit
    unit.conv3, unit.bn3 = fuse_conv_bn_eval(unit.conv3, unit.bn3), nn.Identity()
    if stochastic:
        new = started(
            noisy.to_noisy, new.cpu(), "stochastic", where=lambda layer, module: layer == f"{name}.conv3", seed=seed
        )
        new = new.to(next(network.parameters()).device)
    else:
        parallel = copy.deepcopy(unit.conv3)
        for parameter in parallel.parameters():
            nn.init.zeros_(parameter)  # so that the features begin as they were
        unit.conv3 = Summed(unit.conv3, parallel)
    for parameter in new.parameters():
        parameter.requires_grad_(False)
    for parameter in (*new.last_unit[1].conv3.parameters(), *new.fc.parameters()):
        parameter.requires_grad_(True)
    return new


@torch.no_grad()
def deviations(network: ResNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean sigma and mean log sigma of each picture, (N,) each, over channels and positions of the stochastic layer."""
    layer = network.last_unit[1].conv3
    seen = []
    handle = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        with noisy.noise_mode(network, "mean"):
            network.features(x)
    finally:
        handle.remove()
    sigma = layer.gaussian(seen[0])[1]
    return sigma.mean((1, 2, 3)), sigma.log().mean((1, 2, 3))
