#!/usr/bin/env bash
# Everything that needs a GPU, in two calls:
#
#     bench/on_gpu.sh 1     at most 7 minutes: the native module, a few tests of its steps, tables of steps, Triton's
#     bench/on_gpu.sh 2     at most 4 minutes: layers, CUDA graphs, memory, all native tests, compute-sanitizer
#
# Not yet run on a GPU: rehearsed without one (docs/cuda_build.md). Tests that fail label the figures and never stop
# them. Every row is written as soon as it is measured, into bench/results/<gpu>.json and .md, so that a call that is cut
# off keeps what it has; with RESULTS_DIR set, copies go there after every stage. For a second call on another machine,
# put the first one's .json back into bench/results.
#
# Needs torch with CUDA, Triton and pytest; no network. A native module that is there (docs/cuda_build.md says how to
# bring one) is taken as it is; else nvcc of torch's major version, a C++ compiler, setuptools and ninja build one for
# this GPU alone.
#
# NVRM_FAST_REHEARSAL=1 runs the same stages without a GPU, with tiny sizes; its figures mean nothing.
set -uo pipefail
case "${1:-}" in
  1) limit=420 ;;
  2) limit=240 ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
call="$1"
cd "$(dirname "$0")/.."
export PYTHON="${PYTHON:-python3}" NVRM_FAST_BUILD=cuda MAX_JOBS="${MAX_JOBS:-$(nproc)}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ "${NVRM_FAST_REHEARSAL:-}" = 1 ]; then
  gpu=rehearsal
  capability=9.0
else
  gpu="$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')"
  capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1)"
fi
[ -n "$gpu" ] || { echo "no GPU: nvidia-smi names none"; exit 1; }
export TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$capability}"
results="bench/results/$gpu.json"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failed=0
has_run=no # whether the results file has this call's run
pending=() # stages that came before it: name, status, seconds

left() { echo $((limit - SECONDS)); }

record() { # name, status, seconds
  printf -- '-- %s: %s, %s s (%s s of %s)\n' "$1" "$2" "$3" "$SECONDS" "$limit"
  pending+=("$@")
  if [ "$has_run" = yes ]; then
    for ((i = 0; i < ${#pending[@]}; i += 3)); do
      "$PYTHON" -m bench.gpu_results stage "$results" "${pending[@]:i:3}"
    done
    pending=()
    if [ -n "${RESULTS_DIR:-}" ]; then cp "$results" "${results%.json}.md" "$RESULTS_DIR"; fi
  fi
}

# stage NAME SECONDS COMMAND...: at most so long, and never beyond the end of the call. Sets status.
stage() {
  local name="$1" most="$2" began=$SECONDS code
  shift 2
  [ "$most" -le "$(left)" ] || most="$(left)"
  printf '\n== %s (at most %s s)\n' "$name" "$most"
  if [ "$most" -lt 10 ]; then
    status="left out: the call's time was up"
    record "$name" "$status" 0
    return
  fi
  timeout --kill-after=5 "$most" "$@" 2>&1 | tee "$work/output"
  code="${PIPESTATUS[0]}"
  case "$code" in
    0) status=passed ;;
    124 | 137) status="cut off after $most s" ;;
    *) status="failed (exit $code)" ;;
  esac
  # Of pytest: what it counted; where nothing ran, nothing passed.
  if grep -qE '^(=+ )?[0-9]+ (passed|failed|skipped|error)' "$work/output"; then
    local told
    told="$(grep -E '^(=+ )?[0-9]+ (passed|failed|skipped|error)' "$work/output" | tail -1 | tr -d = | sed 's/ in .*//; s/^ *//')"
    if ! grep -qE 'passed|failed|error' <<<"$told"; then
      status="nothing ran: $told"
    elif [ "$code" != 0 ]; then
      status="$told"
    fi
  fi
  [ "$status" = passed ] || failed=1
  record "$name" "$status" $((SECONDS - began))
}

tests() { # NAME SECONDS ARGUMENTS...
  local name="$1" most="$2"
  shift 2
  stage "$name" "$most" "$PYTHON" -m pytest -q -p no:cacheprovider --tb=short "$@"
}

# Time enough for a row that has begun to end within the stage.
report() { # NAME SECONDS MODULE ARGUMENTS...
  local name="$1" most="$2"
  shift 2
  [ "$most" -le "$(left)" ] || most="$(left)"
  stage "$name" "$most" "$PYTHON" -m "$@" --results "$results" --seconds $((most > 40 ? most - 25 : most / 3))
}

serves() { "$PYTHON" -c 'from nvrm_fast.ops.registry import native_serves_cuda; raise SystemExit(not native_serves_cuda())'; }

echo "call $call on $gpu, $(date -u '+%Y-%m-%d %H:%M UTC'), for sm_${TORCH_CUDA_ARCH_LIST/./}"
began=$SECONDS
if serves; then
  record "module" "brought along" $((SECONDS - began))
else
  stage "build" 240 "$PYTHON" setup.py -q build_ext --inplace
  # Without it Triton's rows can still be measured.
  serves || echo "no native module for CUDA: its rows will say so"
fi
stage "facts" 60 "$PYTHON" -m bench.gpu_report facts --results "$results"
[ "$status" = passed ] && has_run=yes

if [ "$call" = 1 ]; then
  tests "native tests" 60 tests/csrc/test_cuda_step.py tests/optim/test_cuda_graph.py \
    -k "(equals_the_cpu and (momentum or adamw)) or noise or shards or reperturb or scaling or read_on or replays or capture or stream"
  # Of what is left, most: where the module had to be built, the stages behind it may get nothing.
  report "steps" $(($(left) > 330 ? $(left) - 150 : $(left) * 2 / 3)) bench.gpu_report steps
  tests "Triton tests" 50 tests/triton_kernels/test_gpu.py
  report "Triton steps" 50 bench.gpu_report triton
  report "compiled steps" "$(left)" bench.gpu_report compiled
else
  parallel=()
  workers=$(($(nproc) / 2 > 8 ? 8 : $(nproc) / 2)) # the kernels' compilation is what takes the time
  if [ "$workers" -gt 1 ] && "$PYTHON" -c 'import xdist' 2>/dev/null; then parallel=(-n "$workers"); fi
  tests "layer tests" 60 "${parallel[@]}" tests/nn/test_gpu.py
  report "layers" 60 bench.gpu_layers
  report "graphs" 40 bench.gpu_report graphs
  report "memory" 30 bench.gpu_report memory
  tests "native tests" 40 tests/csrc/test_cuda_step.py tests/optim/test_cuda_graph.py tests/csrc/test_cuda_measures.py
  failed_before=$failed
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      stage "compute-sanitizer $tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 "$PYTHON" -m bench.gpu_small
    done
  else
    record "compute-sanitizer" "not on PATH" 0
  fi
  failed=$failed_before # what the sanitizers find is in the report; they do not run everywhere that kernels do
fi
printf '\ndone in %s s of %s: %s\n' "$SECONDS" "$limit" "$([ "$failed" = 0 ] && echo 'every stage passed' || echo 'see the stages above')"
exit "$failed"
