"""Layers with noise on the direction and magnitude of their weights, drop-in for nn.Linear and nn.ConvNd.

    from nvrm_fast import nn as noisy

    layer = noisy.DirectionLinear(784, 1024, direction=noisy.Projected(alpha=0.01))
    model = noisy.to_noisy(model, direction=noisy.Rotation(sigma=0.3))       # every nn.Linear and nn.ConvNd of a model
    plain = noisy.to_plain(model)                                            # and back, with the mean weights

    direction    Projected(alpha), Tangent(alpha), Rotation(sigma), BetaRotation(beta), VonMisesFisher(kappa) or None
    magnitude    NormalMagnitude(alpha), GammaMagnitude(alpha) or None
    sampling     "local" (each example and neuron its own, exact), "shared" (one plane for the mini-batch), "batch" (one
                 turned weight vector for the mini-batch, as in the thesis's experiments) or "flipout"
    normalize    "output", or for dense layers "input" (with sampling "shared", "batch" or "flipout")

On the signal, in front of a plain layer: SignalNoise(direction, magnitude), GaussianDropout(alpha). Gaussian noise on
every weight: GaussianDropoutLinear, GaussianDropoutConv2d.

Noise does not follow train() and eval(); it has modes of its own:

    with noisy.noise_mode(model, "mean"): ...              # deterministic network
    with noisy.noise_mode(model, "fixed", seed=1): ...     # the same noise at every pass
    logits = noisy.mc(model, x, samples=30)                # (30, batch, classes), in one pass with local sampling
    mean, entropy, information = noisy.predict(model, x, samples=30)

Variational model: VariationalLinear, VariationalConv2d learn their noise; the loss of a mini-batch is

    loss = noisy.elbo_loss(F.cross_entropy(model(x), y), model, data_size=60_000, weight=noisy.warm_up(step, 10_000))

and afterwards noisy.prune(model) silences neurons whose magnitude is noise, noisy.compress(model) takes them out.

Stochastic layers: StochasticLinear, StochasticConv2d predict mean and standard deviation of every activation:

    model = noisy.to_noisy(model, "stochastic", where=lambda name, layer: name != "classifier")
    noisy.set_regularizer(model, noisy.MaxEntropy("sample", margin=math.log(4)))
    loss = F.cross_entropy(model(x), y) + 0.01 * noisy.regularizer_loss(model)
    deployed = noisy.to_plain(model)                                         # plain layers, no deviation branch

Source: P. Kirichenko, thesis (Higher School of Economics, 2018); local sampling of directions is this project's.
Stochastic layers: "Simple and Effective Stochastic Neural Networks" (SE-SNN).
"""

from ..contract import laws
from ..contract.laws import *  # noqa: F403
from ..prediction import Prediction, prediction
from .base import MODES, NoisyModule
from .convert import noisy_layer, to_noisy, to_plain
from .direction import DirectionConv1d, DirectionConv2d, DirectionConv3d, DirectionLinear
from .divergence import log_uniform_divergence, truncated_normal_divergence
from .elbo import divergence, elbo_loss, warm_up
from .ensemble import mc, predict
from .entropy import MaxEntropy, StandardNormal
from .gaussian import (
    GaussianDropout,
    GaussianDropoutConv1d,
    GaussianDropoutConv2d,
    GaussianDropoutConv3d,
    GaussianDropoutLinear,
)
from .noise_mode import noise_mode, noisy_modules, set_noise_mode
from .prune import collapsed, compress, prune
from .regularizer import regularizer_loss, set_regularizer, without_regularizer
from .signal import SignalNoise
from .stochastic import StochasticConv1d, StochasticConv2d, StochasticConv3d, StochasticLinear
from .variational import VariationalConv1d, VariationalConv2d, VariationalConv3d, VariationalLinear

__all__ = [
    "MODES",
    "DirectionConv1d",
    "DirectionConv2d",
    "DirectionConv3d",
    "DirectionLinear",
    "GaussianDropout",
    "GaussianDropoutConv1d",
    "GaussianDropoutConv2d",
    "GaussianDropoutConv3d",
    "GaussianDropoutLinear",
    "MaxEntropy",
    "NoisyModule",
    "Prediction",
    "SignalNoise",
    "StandardNormal",
    "StochasticConv1d",
    "StochasticConv2d",
    "StochasticConv3d",
    "StochasticLinear",
    "VariationalConv1d",
    "VariationalConv2d",
    "VariationalConv3d",
    "VariationalLinear",
    "collapsed",
    "compress",
    "divergence",
    "elbo_loss",
    "log_uniform_divergence",
    "mc",
    "noise_mode",
    "noisy_layer",
    "noisy_modules",
    "predict",
    "prediction",
    "prune",
    "regularizer_loss",
    "set_noise_mode",
    "set_regularizer",
    "to_noisy",
    "to_plain",
    "truncated_normal_divergence",
    "warm_up",
    "without_regularizer",
]
__all__ += laws.__all__
