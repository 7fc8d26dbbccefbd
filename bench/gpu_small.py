"""`python -m bench.gpu_small`: each native CUDA kernel once on a small list, for compute-sanitizer."""

from __future__ import annotations

import torch

import nvrm_fast  # noqa: F401  (defines the operators)
from nvrm_fast.contract.arguments import ReperturbArguments, StepArguments
from nvrm_fast.contract.distributions import DISTRIBUTIONS
from nvrm_fast.contract.record import Record, pack
from nvrm_fast.contract.rules import RULES

from .parameter_lists import SMALL_LIST

DEVICE = "cuda"
SCALE = 0.01
#: A value for every hyper-parameter that a rule may have; the rest are flags, and off.
HYPER = dict(lr=0.01, momentum=0.9, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-3)
RUNS = [0, 65, 0, 0, 0, 7]  # two of the parameters as shards of columns


def main() -> None:
    operators = torch.ops.nvrm_fast
    distribution = DISTRIBUTIONS["gaussian"]

    def fresh(dtype: torch.dtype) -> list[torch.Tensor]:
        return [torch.rand(shape, device=DEVICE).to(dtype) for shape in SMALL_LIST]

    def records(scale: float) -> list[torch.Tensor]:
        return [
            torch.tensor(pack(Record(scale, 1, distribution, i, 0, 0, 1, x.numel())), device=DEVICE)
            for i, x in enumerate(fresh(torch.float32))
        ]

    for dtype, with_master in (
        (torch.float32, False),
        (torch.float32, True),
        (torch.bfloat16, True),
        (torch.float16, False),
        (torch.float64, False),
    ):
        masters = fresh(torch.float32) if with_master else []
        steps = [torch.zeros((), dtype=torch.int64, device=DEVICE) for _ in SMALL_LIST]
        params, grads, carried = fresh(dtype), fresh(dtype), records(SCALE)
        for rule in RULES:
            states = [x for _ in rule.states for x in fresh(torch.float32 if with_master else dtype)]
            operators.step_(
                *StepArguments(
                    rule.code,
                    params,
                    grads,
                    states,
                    masters,
                    steps,
                    carried,
                    [HYPER.get(hyper.name, 0.0) for hyper in rule.hyper],
                    [0, 3, 4, 0, 0, 0],
                    SCALE,
                    1,
                    distribution,
                    False,
                    [],
                    grad_scale=torch.full((1,), 8.0, device=DEVICE),
                    found_inf=torch.zeros(1, device=DEVICE),
                    run_lengths=RUNS,
                    run_strides=[2 * length for length in RUNS],
                )
            )
        operators.reperturb_(*ReperturbArguments(params, masters, carried, records(0.0), [0, 3, 4, 0, 0, 0]))
        assert int(steps[0]) == len(RULES)
    operators.fill_noise_(torch.empty(4099, device=DEVICE), 1, 2, 3, distribution, SCALE, 5)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
