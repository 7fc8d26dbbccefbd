// The step's instances for parameters of float64.
#include "step_kernel.cuh"

namespace nvrm {

cudaError_t launch_float64_step(int rule, const LaunchTable& table, bool has_master, cudaStream_t stream) {
  return launch_storage<double, double, false>(rule, table, has_master, stream);
}

}  // namespace nvrm
