// The instances for parameters of float64 that have measures.
#include "step_kernel.cuh"

namespace nvrm {

cudaError_t launch_relative_float64_step(int rule, const LaunchTable& table, bool has_master, cudaStream_t stream) {
  return launch_storage<double, double, true>(rule, table, has_master, stream);
}

}  // namespace nvrm
