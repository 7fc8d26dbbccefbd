// The kernel around step_thread.h, and the choice of its instance.
#pragma once

#include "kernels.h"
#include "step_thread.h"

namespace nvrm {
namespace {

template <class Rule>
constexpr bool needs_corrections = false;
template <bool amsgrad>
constexpr bool needs_corrections<Adam<amsgrad>> = true;

// Groups that fit a multiprocessor at once. The bound on registers that follows (96; 128 for amsgrad; 168 for float64)
// is above what each instance needs: without a bound the compiler aims lower and spills.
template <class Rule, class Math>
constexpr int resident_groups = sizeof(Math) == 8   ? 3
                                : Rule::states == 3 ? 4
                                                    : 5;

// The table stays in the constant bank (__grid_constant__): what is uniform in a group is read from there.
template <class Rule, class Param, class Math, bool master>
__global__ void __launch_bounds__(threads_per_group, resident_groups<Rule, Math>)
    step_kernel(const __grid_constant__ LaunchTable table,
                const __grid_constant__ typename Rule::template Hyper<Math> hyper) {
  if (is_skipped(table.header.found_inf)) return;
  const int position = table.tensor_of(blockIdx.x);
  AdamScalars scalars = {};
  if constexpr (needs_corrections<Rule>) {
    __shared__ AdamScalars shared;
    if (threadIdx.x == 0) shared = adam_scalars(table.header.adam, *table.tensor(position).step + 1);
    __syncthreads();
    scalars = shared;
  }
  __shared__ CoatWords words;
  step_thread<Rule, Param, Math, master>(table, hyper, position, blockIdx.x, static_cast<int>(threadIdx.x), scalars,
                                         words);
}

template <class Rule, class Param, class Math, bool master>
cudaError_t launch_instance(const LaunchTable& table, const typename Rule::template Hyper<double>& hyper,
                            cudaStream_t stream) {
  using Hyper = typename Rule::template Hyper<Math>;
  static_assert(sizeof(Hyper) <= hyper_bytes, "the table leaves hyper_bytes for the rule");
  step_kernel<Rule, Param, Math, master>
      <<<table.header.group_count, threads_per_group, 0, stream>>>(table, rounded_to<Math>(hyper));
  return cudaGetLastError();
}

template <class Rule, class Param, class Math>
cudaError_t launch_storage(const LaunchTable& table, bool has_master,
                           const typename Rule::template Hyper<double>& hyper, cudaStream_t stream) {
  return has_master ? launch_instance<Rule, Param, Math, true>(table, hyper, stream)
                    : launch_instance<Rule, Param, Math, false>(table, hyper, stream);
}

template <class Rule>
cudaError_t launch_rule(const LaunchTable& table, ScalarKind kind, bool has_master,
                        const typename Rule::template Hyper<double>& hyper, cudaStream_t stream) {
  if (table.header.group_count == 0) return cudaSuccess;
  switch (kind) {
    case ScalarKind::float32:
      return launch_storage<Rule, float, float>(table, has_master, hyper, stream);
    case ScalarKind::float64:
      return launch_storage<Rule, double, double>(table, has_master, hyper, stream);
    case ScalarKind::bfloat16:
      return launch_storage<Rule, BFloat16, float>(table, has_master, hyper, stream);
    case ScalarKind::float16:
      return launch_storage<Rule, Float16, float>(table, has_master, hyper, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace nvrm
