// The launches, for the glue that knows torch. Every function returns the launch's own error, to be checked.
#pragma once

#include <cuda_runtime_api.h>

#include "launch_table.h"

namespace nvrm {

// out[0..count) = elements [offset, offset + count) of scale * distribution(key).
cudaError_t launch_noise(const NoiseKey& key, int distribution, float scale, int64_t offset, float* out, int64_t count,
                         cudaStream_t stream);

// One step of the table's tensors, by the rule with this code; their records and counters stay. A function for each
// ScalarKind, and another one where the tensors have measures: those add what they measure to the sums.
cudaError_t launch_float32_step(int rule, const LaunchTable&, bool has_master, cudaStream_t);
cudaError_t launch_float64_step(int rule, const LaunchTable&, bool has_master, cudaStream_t);
cudaError_t launch_bfloat16_step(int rule, const LaunchTable&, bool has_master, cudaStream_t);
cudaError_t launch_float16_step(int rule, const LaunchTable&, bool has_master, cudaStream_t);
cudaError_t launch_relative_float32_step(int rule, const LaunchTable&, bool has_master, cudaStream_t);
cudaError_t launch_relative_float64_step(int rule, const LaunchTable&, bool has_master, cudaStream_t);
cudaError_t launch_relative_bfloat16_step(int rule, const LaunchTable&, bool has_master, cudaStream_t);
cudaError_t launch_relative_float16_step(int rule, const LaunchTable&, bool has_master, cudaStream_t);

// After those, before the records: measures from the sums.
cudaError_t launch_finish(const FinishTable&, cudaStream_t);

// After every launch of the step: writes what the weights carry, adds 1 to the step counters, unless found_inf says
// otherwise.
cudaError_t launch_records(const RecordTable&, bool writes_records, bool counts_steps, cudaStream_t);

}  // namespace nvrm
