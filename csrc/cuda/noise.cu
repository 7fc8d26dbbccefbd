// The generator alone: any stretch of any stream of noise.
#include "launches.h"
#include "noise_thread.h"

namespace nvrm {
namespace {

__global__ void __launch_bounds__(threads_per_cta) noise_kernel(const __grid_constant__ FillArguments arguments) {
  __shared__ WordStore words;
  noise_thread(arguments, blockIdx.x, static_cast<int>(threadIdx.x), words);
}

}  // namespace

cudaError_t launch_noise(const NoiseKey& key, int distribution, float scale, int64_t offset, float* out, int64_t count,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const int64_t superblocks = (offset + count + superblock_size - 1) / superblock_size - offset / superblock_size;
  const int64_t ctas = (superblocks + superblocks_per_round - 1) / superblocks_per_round;
  if (ctas > 0x7fffffff) return cudaErrorInvalidConfiguration;
  const FillArguments arguments{philox_schedule(key),
                                out,
                                offset,
                                count,
                                scale,
                                distribution,
                                offset % row_elements == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0};
  noise_kernel<<<static_cast<unsigned>(ctas), threads_per_cta, 0, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace nvrm
