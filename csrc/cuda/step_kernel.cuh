// The kernel around step_thread.h, and the choice of its instance. Each storage type has a file of its own
// (step_*.cu), so that they compile side by side; a rule comes to all of them by the list in math/update_rule.h.
#pragma once

#include "launches.h"
#include "step_thread.h"

namespace nvrm {
namespace {

// relative: the parameters have measures; other steps shall not pay for it.

// For Blackwell the compiler takes more registers for the same code.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int fewer_ctas = 1;
#else
constexpr int fewer_ctas = 0;
#endif

// CTAs that fit a multiprocessor at once. The bound on registers that follows (80; 96 for two states; 128 for three,
// and with measures; 168 for float64) is above what each instance needs: without a bound the compiler aims lower and
// spills.
template <class Rule, class Math, bool relative>
constexpr int resident_ctas = sizeof(Math) == 8               ? 3
                              : Rule::states == 3 || relative ? 4
                              : Rule::states == 2             ? 5 - fewer_ctas
                                                              : 6 - fewer_ctas;

// The table stays in the constant bank (__grid_constant__): what is uniform in a CTA is read from there.
template <class Rule, class Param, class Math, bool master, bool relative>
__global__ void __launch_bounds__(threads_per_cta, resident_ctas<Rule, Math, relative>)
    step_kernel(const __grid_constant__ LaunchTable table) {
  if (is_skipped(table.header.found_inf)) return;
  const int position = table.tensor_of(blockIdx.x);
  if (has_nothing_to_do<Rule>(table, position)) return;
  __shared__ CtaArguments<Rule, Math> arguments;
  __shared__ CtaWords<Math> words;
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (relative) {
    __shared__ CtaRelation relation;
    __shared__ CtaSums sums;
    if (thread == 0) {
      CtaArguments<Rule, Math> found = cta_arguments<Rule, Math, master>(table, position);
      relation = cta_relation(table, position, blockIdx.x, found);
      arguments = found;
    }
    __syncthreads();
    step_thread<Rule, Param, Math, master, true>(table, arguments, &relation, position, blockIdx.x, thread, words,
                                                 &sums);
    if (table.header.noise.measure == 0) return;
    __syncthreads();
    add_cta_sums(sums, table.measure(table.tensor(position).measure), relation.rows, table.header.noise.measure,
                 thread);
  } else {
    if (thread == 0) arguments = cta_arguments<Rule, Math, master>(table, position);
    __syncthreads();
    step_thread<Rule, Param, Math, master, false>(table, arguments, nullptr, position, blockIdx.x, thread, words,
                                                  nullptr);
  }
}

template <class Rule, class Param, class Math, bool relative>
cudaError_t launch_instance(const LaunchTable& table, bool has_master, cudaStream_t stream) {
  static_assert(Rule::noise_scale == NoiseScale::per_tensor, "these kernels know one scale a tensor");
  if (has_master) {
    step_kernel<Rule, Param, Math, true, relative><<<table.header.cta_count, threads_per_cta, 0, stream>>>(table);
  } else {
    step_kernel<Rule, Param, Math, false, relative><<<table.header.cta_count, threads_per_cta, 0, stream>>>(table);
  }
  return cudaGetLastError();
}

template <class Param, class Math, bool relative>
cudaError_t launch_storage(int rule, const LaunchTable& table, bool has_master, cudaStream_t stream) {
  if (table.header.cta_count == 0) return cudaSuccess;
  switch (rule) {
#define NVRM_CASE(code, Rule) \
  case code:                  \
    return launch_instance<Rule, Param, Math, relative>(table, has_master, stream);
    NVRM_FOR_EACH_RULE(NVRM_CASE)
#undef NVRM_CASE
    case no_rule:
      return launch_instance<NoUpdate, Param, Math, relative>(table, has_master, stream);
    case only_measure:
      if constexpr (relative) return launch_instance<OnlyMeasure, Param, Math, true>(table, has_master, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace
}  // namespace nvrm
