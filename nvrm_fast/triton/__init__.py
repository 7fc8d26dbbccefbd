"""GPU kernels that need no compiler on the user's machine: the operators of nvrm_fast.reference, written in Triton.

Importing this package imports triton; nvrm_fast does so on first use only (see ops/registry.py). With
TRITON_INTERPRET=1 in the environment before that, the kernels run on CPU tensors in Triton's interpreter, for tests.
"""

import triton

from .kernels import step_kernel
from .step import fill_noise_, measure_, reperturb_, step_

__all__ = ["INTERPRETED", "fill_noise_", "measure_", "reperturb_", "step_"]

#: Whether the kernels run in the interpreter, which serves CPU tensors, and not on a GPU.
INTERPRETED = not isinstance(step_kernel, triton.JITFunction)
