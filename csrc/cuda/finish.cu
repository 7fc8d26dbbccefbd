// Measures from sums, after everything was added to them: a CTA for each parameter.
#include "launches.h"

namespace nvrm {
namespace {

constexpr int finish_threads = 128;

__global__ void __launch_bounds__(finish_threads) finish_kernel(const __grid_constant__ FinishTable table) {
  table.finish_rows_of(static_cast<int>(blockIdx.x), static_cast<int>(threadIdx.x), finish_threads);
}

}  // namespace

cudaError_t launch_finish(const FinishTable& table, cudaStream_t stream) {
  if (table.count == 0) return cudaSuccess;
  finish_kernel<<<table.count, finish_threads, 0, stream>>>(table);
  return cudaGetLastError();
}

}  // namespace nvrm
