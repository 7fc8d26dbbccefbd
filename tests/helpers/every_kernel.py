"""Whether CUDA's kernels of relative noise are all compiled and run as PTX: `make cuda-check` asks for it. They are the
steps' with rows and measures added, so tests otherwise take a few of them."""

import os

EVERY_KERNEL = bool(os.environ.get("NVRM_FAST_EVERY_KERNEL"))
