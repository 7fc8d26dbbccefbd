#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes: build, tests, compute-sanitizer, measurements.
# Not yet run on a GPU: written and kept without one.
#
# Needs torch with CUDA, nvcc of the same major version, a C++ compiler, setuptools, ninja, pybind11 and pytest; no
# network. Writes bench/results/<gpu>.md and .json, and to $RESULTS_DIR too where that is set.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHON="${PYTHON:-python3}" NVRM_FAST_BUILD=cuda MAX_JOBS="${MAX_JOBS:-$(nproc)}"
# The GPU at hand only: a third of the compile time.
TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$("$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')}"
export TORCH_CUDA_ARCH_LIST PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=0

section() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
attempt() { "$@" || { echo "FAILED: $*"; failed=1; }; }

section build
"$PYTHON" -m pip install --quiet --no-build-isolation --no-deps --no-index --editable . || exit 1
"$PYTHON" -m nvrm_fast.info

section "tests of the native CUDA kernels"
attempt timeout 150 "$PYTHON" -m pytest -q tests/csrc/test_cuda_step.py tests/optim/test_cuda_graph.py

if [ -d tests/triton_kernels ]; then
  section "tests of the Triton kernels"
  attempt timeout 120 "$PYTHON" -m pytest -q tests/triton_kernels
fi

section "tests of the layers"
attempt timeout 120 "$PYTHON" -m pytest -q tests/nn/test_gpu.py

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    section "compute-sanitizer $tool"
    attempt timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$PYTHON" -m bench.gpu_small
  done
else
  echo "compute-sanitizer is not on PATH: memcheck and racecheck are left out"
fi

if [ "$failed" = 0 ]; then
  section measurements
  attempt timeout 240 "$PYTHON" -m bench.gpu_report
  attempt timeout 60 "$PYTHON" -m bench.gpu_layers
else
  echo "no figures on red tests"
fi
if [ -n "${RESULTS_DIR:-}" ]; then find bench/results -newer setup.py -name '*.[mj]*' -exec cp {} "$RESULTS_DIR" \; ; fi
section "done, $([ "$failed" = 0 ] && echo green || echo red)"
exit "$failed"
