// Records and step counters, after a step. A kernel of its own: within the step, CTAs of one tensor read them at
// different times.
#include "launches.h"

namespace nvrm {
namespace {

__global__ void __launch_bounds__(places_per_launch)
    record_kernel(const __grid_constant__ RecordTable table, bool writes_records, bool counts_steps) {
  const int thread = static_cast<int>(threadIdx.x);
  if (writes_records) table.write_record_of(thread);
  __syncthreads();
  if (!counts_steps) return;
  table.count_step_of(thread, [](int64_t* step) { atomicAdd(reinterpret_cast<unsigned long long*>(step), 1ull); });
}

}  // namespace

cudaError_t launch_records(const RecordTable& table, bool writes_records, bool counts_steps, cudaStream_t stream) {
  if (table.count == 0) return cudaSuccess;
  record_kernel<<<1, places_per_launch, 0, stream>>>(table, writes_records, counts_steps);
  return cudaGetLastError();
}

}  // namespace nvrm
