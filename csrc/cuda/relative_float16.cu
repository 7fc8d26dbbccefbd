// The instances for parameters of float16 that have measures.
#include "step_kernel.cuh"

namespace nvrm {

cudaError_t launch_relative_float16_step(int rule, const LaunchTable& table, bool has_master, cudaStream_t stream) {
  return launch_storage<Float16, float, true>(rule, table, has_master, stream);
}

}  // namespace nvrm
