"""The variational model: posteriors over the direction and magnitude of each weight vector, learned with the weights.

Thesis of P. Kirichenko (2018), section 4.1: the angle of rotation has a posterior tN[0, pi/2] (mu, sigma^2) and a
uniform prior, the magnitude a posterior N(m, alpha m^2) and a log-uniform prior, learned through lambda, the standard
deviation m sqrt(alpha).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..contract.laws import NormalMagnitude, Rotation
from ..ops.direction import law_constants
from .base import wide
from .direction import DirectionConv1d, DirectionConv2d, DirectionConv3d, DirectionLinear
from .divergence import log_uniform_divergence, truncated_normal_divergence
from .weight_norm import WeightNormalized

#: Below this standard deviation of the angle float32 sees no noise; the parameters are free to go there and back.
SMALLEST_DEVIATION = 1e-6


def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on (-1, 1), float64: exact for polynomials of degree 2 count - 1.

    Golub and Welsch (1969): eigenvalues of the Jacobi matrix, here with Newton steps on the polynomial itself.
    """
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k * k - 1).sqrt()
    nodes = torch.linalg.eigvalsh(torch.diag(beside, 1) + torch.diag(beside, -1))
    for _ in range(3):
        before, value = torch.ones_like(nodes), nodes
        for n in range(2, count + 1):
            before, value = value, ((2 * n - 1) * nodes * value - (n - 1) * before) / n
        slope = count * (before - nodes * value) / (1 - nodes * nodes)
        nodes = nodes - value / slope
    return nodes, 2 / ((1 - nodes * nodes) * slope * slope)


#: For means over the angle's quantiles.
_NODES, _WEIGHTS = gauss_legendre(64)


class Variational(WeightNormalized):
    """What variational layers share. Beside weight_v, weight_g (the posterior means m) and bias, one value a neuron:

    log_spread             ln lambda, lambda = m sqrt(alpha) the magnitude's standard deviation
    angle_mean_logit       mu = pi/2 sigmoid(angle_mean_logit), so that mu stays in [0, pi/2]
    log_angle_deviation    ln sigma
    silenced               bool buffer: weight vectors that prune() took out. Their magnitude is 0 without noise, they
                           add nothing to the divergence, and no optimizer brings them back
    """

    silenced: Tensor

    def _make_posterior(self, alpha: float, angle_mean: float, angle_deviation: float) -> None:
        if not (alpha > 0 and angle_deviation > 0 and 0 < angle_mean < math.pi / 2):
            raise ValueError(
                "alpha and angle_deviation must be positive and angle_mean in (0, pi/2), got "
                f"{alpha}, {angle_deviation} and {angle_mean}"
            )
        part = angle_mean / (math.pi / 2)
        self._initial = (0.5 * math.log(alpha), math.log(part / (1 - part)), math.log(angle_deviation))
        like = self.weight_g.detach().flatten()
        self.register_buffer("silenced", torch.zeros_like(like, dtype=torch.bool))
        self.log_spread = nn.Parameter(torch.empty_like(like))
        self.angle_mean_logit = nn.Parameter(torch.empty_like(like))
        self.log_angle_deviation = nn.Parameter(torch.empty_like(like))
        self.reset_posterior()

    @torch.no_grad()
    def reset_posterior(self) -> None:
        """The posterior as it was at the start, about the present magnitudes."""
        half_log_alpha, logit, log_deviation = self._initial
        self.log_spread.copy_(self.weight_g.flatten().abs().clamp_min(1e-12).log() + half_log_alpha)
        self.angle_mean_logit.fill_(logit)
        self.log_angle_deviation.fill_(log_deviation)
        self.silenced.zero_()

    def _set_magnitudes(self) -> None:
        super()._set_magnitudes()
        if hasattr(self, "log_spread"):
            self.reset_posterior()

    def angle_posterior(self) -> tuple[Tensor, Tensor]:
        """mu and sigma of each neuron, before truncation to [0, pi/2]: at least float32."""
        dtype = wide(self.weight_v.dtype)
        mean = (math.pi / 2) * torch.sigmoid(self.angle_mean_logit.to(dtype))
        return mean, self.log_angle_deviation.to(dtype).exp() + SMALLEST_DEVIATION

    def log_alpha(self) -> Tensor:
        """ln alpha = 2 (ln lambda - ln |m|) of each neuron's magnitude: large where that is nothing but noise."""
        magnitude = self.weight_g.flatten().to(wide(self.weight_g.dtype)).abs()
        return 2 * (self.log_spread.to(magnitude.dtype) - magnitude.clamp_min(1e-12).log())

    def divergence(self) -> Tensor:
        """KL of the layer's posterior from its prior, summed over neurons (equations 36 to 39): float32 scalar."""
        angle = truncated_normal_divergence(*self.angle_posterior(), 0.0, math.pi / 2)
        both = log_uniform_divergence(self.log_alpha()) + angle.to(wide(self.weight_g.dtype))
        return both.masked_fill(self.silenced, 0.0).sum().float()

    def _mean_magnitude(self) -> Tensor:
        return super()._mean_magnitude().masked_fill(self.silenced, 0.0)

    def _magnitude(self) -> tuple[Tensor, Tensor | None]:
        g = self._mean_magnitude()
        return g, self.log_spread.to(g.dtype).exp().masked_fill(self.silenced, 0.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Checkpoints without `silenced` load: there pruning had written -inf into log_spread."""
        spread = state_dict.get(f"{prefix}log_spread")
        if spread is not None and f"{prefix}silenced" not in state_dict:
            silenced = spread == -torch.inf
            state_dict[f"{prefix}silenced"] = silenced
            state_dict[f"{prefix}log_spread"] = spread.masked_fill(silenced, math.log(1e-12) + self._initial[0])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _law_tensors(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor]:
        mean, deviation = self.angle_posterior()
        constants = law_constants(self.direction, mean, deviation, self.fan_in, self.neurons, mean.device)
        return mean.to(dtype), deviation.to(dtype), constants

    def _mean_cosine(self) -> Tensor:
        """E[cos angle]: tangent parts average to nothing, so the mean weight is m E[cos] v. By quantiles."""
        mean, deviation = (p.double()[:, None] for p in self.angle_posterior())
        gamma, weight = ((_NODES + 1) / 2).to(mean.device), (_WEIGHTS / 2).to(mean.device)
        root = math.sqrt(0.5)
        low, high = (torch.erf((end - mean) / deviation * root) for end in (0.0, math.pi / 2))
        quantile = torch.erfinv((low + gamma * (high - low)).clamp(-1 + 1e-15, 1 - 1e-15)) / root
        angle = (mean + deviation * quantile).clamp(0.0, math.pi / 2)
        return (torch.cos(angle) * weight).sum(dim=1).to(wide(self.weight_v.dtype))


def _posterior_noise() -> dict[str, Any]:
    # Stand for the kinds of noise; the values in use are the layer's parameters.
    return {"direction": Rotation(1.0, mean=0.0, low=0.0), "magnitude": NormalMagnitude(1.0)}


class VariationalLinear(Variational, DirectionLinear):
    """A dense layer with a learned posterior over the magnitude and direction of each weight vector.

    Args:
        in_features, out_features, bias, sampling, normalize, device, dtype: as DirectionLinear; normalize="input" is
            section 4.3's ("Var FC reverse") and needs sampling="shared", "batch" or "flipout".
        alpha, angle_mean, angle_deviation: the posterior at the start: alpha, mu and sigma of every neuron.

    Add elbo's penalty to the loss (nvrm_fast.nn.elbo_loss). Modes as every noisy layer; in the mode mean the weight is
    the posterior mean m E[cos angle] v. Raises ValueError for a posterior outside its range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        alpha: float = 0.01,
        angle_mean: float = 0.1,
        angle_deviation: float = 0.1,
        sampling: str = "local",
        normalize: str = "output",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            bias,
            sampling=sampling,
            normalize=normalize,
            device=device,
            dtype=dtype,
            **_posterior_noise(),
        )
        self._make_posterior(alpha, angle_mean, angle_deviation)

    def extra_repr(self) -> str:
        features = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{features}, sampling={self.sampling!r}, normalize={self.normalize!r}"


class _VariationalConv(Variational):
    """A convolution with a learned posterior over the magnitude and direction of each output channel's kernel.

    Arguments as torch.nn.ConvNd, further sampling, alpha, angle_mean and angle_deviation as VariationalLinear. Local
    sampling is exact at each output position (see DirectionConv2d).
    """

    def __init__(
        self, *args: Any, alpha: float = 0.01, angle_mean: float = 0.1, angle_deviation: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(*args, **_posterior_noise(), **kwargs)
        self._make_posterior(alpha, angle_mean, angle_deviation)


class VariationalConv1d(_VariationalConv, DirectionConv1d):
    __doc__ = _VariationalConv.__doc__


class VariationalConv2d(_VariationalConv, DirectionConv2d):
    __doc__ = _VariationalConv.__doc__


class VariationalConv3d(_VariationalConv, DirectionConv3d):
    __doc__ = _VariationalConv.__doc__
