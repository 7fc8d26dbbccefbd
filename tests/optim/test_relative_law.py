"""Noise by rows of their largest weight is the per-channel weight noise of analog hardware-aware training.

aihwkit-lightning's weight modifier adds sigma * max|w of the channel| * N(0, 1) to each weight of a channel. Here its
formula is drawn with torch's generator, and the two samples are compared. Seeds are fixed; by chance a comparison would
fail once in a million.
"""

import math

import pytest
import torch
from torch import nn

from nvrm_fast import NVRMSGD

pytestmark = pytest.mark.filterwarnings("ignore:nvrm_fast computes in plain torch")

FALSE_ALARM = 1e-6
SIGMA = 0.07


def distance(a, b):
    """Two samples' Kolmogorov-Smirnov distance."""
    both = torch.cat([a, b]).sort().values
    cdf = [torch.searchsorted(x.sort().values, both, right=True) / len(x) for x in (a, b)]
    return float((cdf[0] - cdf[1]).abs().max())


def limit(n, m):
    return math.sqrt(-math.log(FALSE_ALARM / 2) / 2) * math.sqrt((n + m) / (n * m))


@pytest.mark.parametrize("shape", [(40, 300), (24, 8, 5, 5)], ids=str)
def test_per_channel_weight_noise(shape):
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(shape, generator=generator) * torch.logspace(-2, 0.5, shape[0]).view(-1, *[1] * (len(shape) - 1))
    param = nn.Parameter(w.clone())
    optimizer = NVRMSGD([param], lr=0.0, variability=SIGMA, relative="absmax", per="row", seed=2)
    param.grad = torch.full_like(param, 1e-30)
    optimizer.step()
    channels = w.flatten(1)
    absmax = channels.abs().amax(1, keepdim=True)
    theirs = channels + SIGMA * absmax * torch.randn(channels.shape, generator=generator)
    ours = param.detach().flatten(1)
    units = [((x - channels) / (SIGMA * absmax)).flatten() for x in (ours, theirs)]
    n = len(units[0])
    assert distance(*units) < limit(n, n)
    assert distance(ours.flatten(), theirs.flatten()) < limit(n, n)
    # The test can tell: noise of the tensor's largest weight is another law.
    other = ((channels + SIGMA * absmax.max() * torch.randn(channels.shape, generator=generator)) - channels) / (
        SIGMA * absmax
    )
    assert distance(units[0], other.flatten()) > limit(n, n)
