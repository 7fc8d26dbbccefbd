// The launches, for the glue that knows torch. Every function returns the launch's own error, to be checked.
#pragma once

#include <cuda_runtime_api.h>

#include "../math/update_rule.h"
#include "launch_table.h"

namespace nvrm {

// out[0..count) = elements [offset, offset + count) of scale * distribution(key).
cudaError_t launch_noise(const NoiseKey& key, int distribution, float scale, int64_t offset, float* out, int64_t count,
                         cudaStream_t stream);

// One step of the table's tensors; their counters stay. kind and has_master as in StepPlan.
cudaError_t launch_sgd(const LaunchTable&, ScalarKind kind, bool has_master, const SgdHyper<double>&,
                       bool with_momentum, cudaStream_t);
cudaError_t launch_adam(const LaunchTable&, ScalarKind kind, bool has_master, const AdamHyper<double>&, bool amsgrad,
                        cudaStream_t);
cudaError_t launch_change_coat(const LaunchTable&, ScalarKind kind, bool has_master, cudaStream_t);

// Adds 1 to each counter, unless found_inf says otherwise.
cudaError_t launch_count(const CounterTable&, cudaStream_t);

}  // namespace nvrm
