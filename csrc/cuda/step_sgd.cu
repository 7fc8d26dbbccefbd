// SGD, the bare change of coat, and the counters.
#include "step_kernel.cuh"

namespace nvrm {

cudaError_t launch_sgd(const LaunchTable& table, ScalarKind kind, bool has_master, const SgdHyper<double>& hyper,
                       bool with_momentum, cudaStream_t stream) {
  return with_momentum ? launch_rule<Sgd<true>>(table, kind, has_master, hyper, stream)
                       : launch_rule<Sgd<false>>(table, kind, has_master, hyper, stream);
}

cudaError_t launch_change_coat(const LaunchTable& table, ScalarKind kind, bool has_master, cudaStream_t stream) {
  return launch_rule<NoUpdate>(table, kind, has_master, NoHyper{}, stream);
}

namespace {

// A kernel of its own: within the step, groups of one tensor read its counter at different times.
__global__ void __launch_bounds__(counters_per_launch) count_kernel(const __grid_constant__ CounterTable table) {
  table.add_one(static_cast<int>(threadIdx.x));
}

}  // namespace

cudaError_t launch_count(const CounterTable& table, cudaStream_t stream) {
  if (table.count == 0) return cudaSuccess;
  count_kernel<<<1, counters_per_launch, 0, stream>>>(table);
  return cudaGetLastError();
}

}  // namespace nvrm
