// The step's instances for parameters of bfloat16.
#include "step_kernel.cuh"

namespace nvrm {

cudaError_t launch_bfloat16_step(int rule, const LaunchTable& table, bool has_master, cudaStream_t stream) {
  return launch_storage<BFloat16, float, false>(rule, table, has_master, stream);
}

}  // namespace nvrm
