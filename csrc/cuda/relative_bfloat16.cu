// The instances for parameters of bfloat16 that have measures.
#include "step_kernel.cuh"

namespace nvrm {

cudaError_t launch_relative_bfloat16_step(int rule, const LaunchTable& table, bool has_master, cudaStream_t stream) {
  return launch_storage<BFloat16, float, true>(rule, table, has_master, stream);
}

}  // namespace nvrm
