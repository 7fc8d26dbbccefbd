"""NVRM-SGD, NVRM-Adam(W) and NVRM-Lion: torch.optim's rules on clean weights under fresh noise (Xie et al. 2021)."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .perturbation import NeuralVariableOptimizer
from .rules import AdamRule, LionRule, SgdRule, refuse_differentiable
from .selection import Choices

_NOISE_ARGUMENTS = """
        variability: b, the scale of the noise, in the units of the weights; 0 is the plain optimizer (default: 0.01).
            Its meaning depends on the noise type, as in the paper: N(0, b^2) has standard deviation b,
            Uniform(-b, b) b / sqrt(3), Laplace(0, b) b * sqrt(2), "rademacher" (b or -b) b.
        noise: "gaussian", "uniform", "laplace" or "rademacher" (default: "gaussian").
        seed: 64 bits; noise is a function of it, of the parameter and of the step, never of torch's generators. None
            (default): 0 in the first optimizer that a process makes, another in each further one, so that no two draw
            the same noise. Every rank of a distributed training must then make its optimizers in the same order; a
            checkpoint brings its own.
        draws: "independent" (default): every step draws its noise anew. "cycle": one draw serves four steps, turned by
            a quarter each time. Each step's noise has the same distribution, and an element's is independent of what it
            was in the step before; the third is the first with its sign turned, and four sum to zero. In place a step
            takes less time then. With master_weights, where a step draws once anyway, it takes as long as before: there
            the option only gives the same noise as in place.
        denoise_every: leave the weights clean after every so many steps of a parameter, for instance steps per epoch;
            None: never (default).
        master_weights: True keeps the clean weights in float32 (float64 for float64 parameters) in the state under
            "master_param", so that taking the noise off is exact; False: in place, no extra memory. None (default):
            True for bfloat16 and float16 parameters, False for float32 and float64.
        decorrelate_ranks: under DistributedDataParallel, every rank carries noise of its own: the averaged gradient
            then is a mean over as many samples of the noise as there are ranks, at no cost. Implies master_weights;
            clean weights stay the same bits on all ranks (default: False, one noise for all).
        include: which parameters carry noise: a pattern of names ("*.weight"), a module, a function of name and
            parameter, or a list of these; None: all. Patterns need named parameters.
        exclude: which do not, for instance ["*bias", "*norm*"].
        start_step: the weights stay clean for so many steps of a parameter (default: 0).
        relative: None: b is variability (default). "rms" or "absmax": b is variability times the root mean square, or
            the largest absolute value, of the clean weights that the step starts from.
        per: with relative, what of a parameter has one b: "tensor" (default), or "row", what lies at one index of
            dimension 0: an output unit, a filter. Parameters of fewer than two dimensions have one.
        backend: "native", "triton" or "reference"; None (default) takes the fastest that serves the parameters' device.
        maximize: ascend instead of descend.
        capturable: lr, betas and variability that are tensors are read by the kernel, so that they may change between
            replays of a captured CUDA graph (default: False). Tensors on a GPU always are, and the host never waits.
        foreach: accepted for compatibility and without effect: the step is always one fused pass.
        fused: True: with a torch.amp.GradScaler the kernel unscales the gradients and skips steps by itself, and the
            host waits for nothing. None (default) or False: the scaler does both, so that gradients can be clipped and
            a skipped step is seen, under Lightning and Accelerate, too.
"""

_RAISES = """
    Raises:
        ValueError: a hyper-parameter out of its range, named.
        TypeError: a complex or integer parameter, named.
"""


class NVRMSGD(SgdRule, NeuralVariableOptimizer):
    __doc__ = f"""Neural variable SGD (NVRM paper, section 3, algorithm 1): gradients are taken at weights + b * eps.

    Weight decay and momentum act on the clean weights. (The published code decays the noisy ones; the difference,
    lr * weight_decay * eps a step, is small beside eps: 5e-7 at the paper's settings, where eps is 0.05.)

    Args:
        params: parameters, named parameters or groups, as for torch.optim.SGD. Names free the streams from order.
        lr, momentum, dampening, weight_decay, nesterov: as for torch.optim.SGD.{_NOISE_ARGUMENTS}{_RAISES}"""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, variability: float | Tensor = 0.01,
        noise: str = "gaussian", draws: str = "independent", seed: int | None = None, denoise_every: int | None = None,
        master_weights: bool | None = None, decorrelate_ranks: bool = False, include: Choices = None,
        exclude: Choices = None, start_step: int = 0, relative: str | None = None, per: str = "tensor",
        backend: str | None = None, maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        refuse_differentiable(differentiable)
        super().__init__(
            params,
            dict(
                lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
                maximize=maximize, variability=variability, noise=noise, seed=seed, denoise_every=denoise_every,
                master_weights=master_weights, decorrelate_ranks=decorrelate_ranks, backend=backend,
                capturable=capturable, start_step=start_step, relative=relative, per=per, draws=draws,
            ),
            fused, include, exclude,
        )  # fmt: skip


class NVRMAdam(AdamRule, NeuralVariableOptimizer):
    __doc__ = f"""Neural variable Adam (NVRM paper, section 3, equation 11 with Adam's rule).

    Args:
        params: parameters, named parameters or groups, as for torch.optim.Adam. Names free the streams from order.
        lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay: torch.optim.Adam's.{_NOISE_ARGUMENTS}{_RAISES}"""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0, amsgrad: bool = False, *, variability: float | Tensor = 0.01,
        noise: str = "gaussian", draws: str = "independent", seed: int | None = None, denoise_every: int | None = None,
        master_weights: bool | None = None, decorrelate_ranks: bool = False, include: Choices = None,
        exclude: Choices = None, start_step: int = 0, relative: str | None = None, per: str = "tensor",
        backend: str | None = None, maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        refuse_differentiable(differentiable)
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad,
                decoupled_weight_decay=decoupled_weight_decay, maximize=maximize, variability=variability,
                noise=noise, seed=seed, denoise_every=denoise_every, master_weights=master_weights,
                decorrelate_ranks=decorrelate_ranks, backend=backend,
                capturable=capturable, start_step=start_step, relative=relative, per=per, draws=draws,
            ),
            fused, include, exclude,
        )  # fmt: skip


class NVRMAdamW(NVRMAdam):
    __doc__ = f"""Neural variable AdamW: NVRMAdam with decoupled weight decay, on the clean weights.

    Args:
        params: parameters, named parameters or groups, as for torch.optim.AdamW. Names free the streams from order.
        lr, betas, eps, weight_decay, amsgrad: as for torch.optim.AdamW.{_NOISE_ARGUMENTS}{_RAISES}"""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False, *, variability: float | Tensor = 0.01,
        noise: str = "gaussian", draws: str = "independent", seed: int | None = None, denoise_every: int | None = None,
        master_weights: bool | None = None, decorrelate_ranks: bool = False, include: Choices = None,
        exclude: Choices = None, start_step: int = 0, relative: str | None = None, per: str = "tensor",
        backend: str | None = None, maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, variability=variability, noise=noise, seed=seed,
            denoise_every=denoise_every, master_weights=master_weights, decorrelate_ranks=decorrelate_ranks,
            include=include, exclude=exclude, start_step=start_step, relative=relative, per=per,
            draws=draws, backend=backend, maximize=maximize,
            foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=True,
        )  # fmt: skip


class NVRMLion(LionRule, NeuralVariableOptimizer):
    __doc__ = f"""Neural variable Lion: the rule of Chen et al. 2023 (arXiv 2302.06675), decay on the clean weights.

    Args:
        params: parameters, named parameters or groups. Names free the streams from order.
        lr, betas: the paper's (defaults: 1e-4 and (0.9, 0.99)).
        weight_decay: decoupled (default: 0).{_NOISE_ARGUMENTS}{_RAISES}"""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-4, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0.0, *, variability: float | Tensor = 0.01, noise: str = "gaussian",
        draws: str = "independent", seed: int | None = None, denoise_every: int | None = None,
        master_weights: bool | None = None, decorrelate_ranks: bool = False, include: Choices = None,
        exclude: Choices = None, start_step: int = 0, relative: str | None = None, per: str = "tensor",
        backend: str | None = None, maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
        fused: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize, variability=variability, noise=noise,
                seed=seed, denoise_every=denoise_every, master_weights=master_weights,
                decorrelate_ranks=decorrelate_ranks, start_step=start_step, relative=relative, per=per,
                draws=draws, backend=backend, capturable=capturable,
            ),
            fused, include, exclude,
        )  # fmt: skip
