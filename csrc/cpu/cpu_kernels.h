// What each instruction set offers. The three files kernels_*.cpp are the same code (noise_kernel.h, step_kernel.h,
// direction_kernel.h, stochastic_kernel.h) over different lanes; select.cpp picks one when the program runs.
#pragma once

#include "../math/tensor_table.h"
#include "../math/update_rule.h"
#include "direction_plan.h"
#include "stochastic_plan.h"

namespace nvrm {

struct CpuKernels {
  const char* name;
  // out[0..count) = elements [offset, offset + count) of scale * distribution(key).
  void (*noise)(const NoiseKey& key, int distribution, float scale, int64_t offset, float* out, int64_t count);
  // One step, by the rule with this code (NVRM_FOR_EACH_RULE), over superblocks [begin, end) of the plan's running
  // count. Records and step counters are only read.
  void (*step)(int rule, const StepPlan&, int64_t begin, int64_t end);
  // The same without a rule: only the noise changes.
  void (*reperturb)(const StepPlan&, int64_t begin, int64_t end);
  // Adds the clean weights of these superblocks to the sums (row_measures.h). only_clean: of tensors without noise.
  void (*measure)(const StepPlan&, bool only_clean, int64_t begin, int64_t end);
  // Tiles [begin, end) of a layer's pass, with a law of the angle (NVRM_FOR_EACH_LAW).
  void (*direction_forward)(int law, const DirectionPlan&, int64_t begin, int64_t end);
  void (*direction_backward)(int law, const DirectionPlan&, int64_t begin, int64_t end);
  void (*stochastic_forward)(Sums, const StochasticPlan&, int64_t begin, int64_t end);
  void (*stochastic_backward)(Sums, const StochasticPlan&, int64_t begin, int64_t end);
};

extern const CpuKernels portable_kernels;
#if defined(__x86_64__)
extern const CpuKernels avx2_kernels;
extern const CpuKernels avx512_kernels;
#endif

}  // namespace nvrm
