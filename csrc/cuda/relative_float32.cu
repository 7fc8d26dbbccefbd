// The instances for parameters of float32 that have measures.
#include "step_kernel.cuh"

namespace nvrm {

cudaError_t launch_relative_float32_step(int rule, const LaunchTable& table, bool has_master, cudaStream_t stream) {
  return launch_storage<float, float, true>(rule, table, has_master, stream);
}

}  // namespace nvrm
