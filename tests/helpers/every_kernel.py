"""Whether all is compiled and run that CUDA's and Triton's kernels have: `make cuda-check` asks for it. Tests otherwise
take a few of CUDA's kernels of relative noise, which are the steps' with rows and measures added, and of options that
have nothing to do with each other no more combinations than each two need (covering.py)."""

import os

EVERY_KERNEL = bool(os.environ.get("NVRM_FAST_EVERY_KERNEL"))
