"""`python -m bench.gpu_small`: each native CUDA kernel once on a small list, for compute-sanitizer."""

from __future__ import annotations

import torch

import nvrm_fast  # noqa: F401  (defines the operators)

from .parameter_lists import SMALL_LIST

NOISE = (0, 0.01)  # distribution, scale
RUNS = [0, 65, 0, 0, 0, 7]  # two of the parameters as shards of columns


def main() -> None:
    operators = torch.ops.nvrm_fast
    count = len(SMALL_LIST)
    distribution, scale = NOISE

    def fresh(dtype: torch.dtype) -> list[torch.Tensor]:
        return [torch.rand(shape, device="cuda").to(dtype) for shape in SMALL_LIST]

    for dtype, with_master in (
        (torch.float32, False), (torch.float32, True), (torch.bfloat16, True), (torch.float16, False),
        (torch.float64, False),
    ):  # fmt: skip
        state = torch.float32 if with_master else dtype
        masters = fresh(torch.float32) if with_master else []
        steps = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in range(count)]
        coat = ([scale] * count, 1, distribution)
        coats = (list(range(count)), [0, 3, 4, 0, 0, 0], *coat, *coat)
        params, grads = fresh(dtype), fresh(dtype)
        operators.sgd_step_(
            params, grads, fresh(state), masters, steps, *coats, False, [False] * count,
            0.1, 0.9, 0.0, 1e-3, False, False, torch.full((1,), 8.0, device="cuda"), torch.zeros(1, device="cuda"),
        )  # fmt: skip
        operators.adam_step_(
            params, grads, fresh(state), fresh(state), fresh(state), masters, steps, *coats, False,
            1e-3, 0.9, 0.999, 1e-8, 1e-2, True, True, False, None, None, RUNS, [2 * length for length in RUNS],
        )  # fmt: skip
        operators.change_coat_(params, masters, steps, *coats)
        assert int(steps[0]) == 2
    operators.fill_noise_(torch.empty(4099, device="cuda"), 1, 2, 3, distribution, scale, 5)
    torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
