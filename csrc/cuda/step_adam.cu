// Adam and AdamW. A file of its own, so that the two halves of the kernels compile side by side.
#include "step_kernel.cuh"

namespace nvrm {

cudaError_t launch_adam(const LaunchTable& table, ScalarKind kind, bool has_master, const AdamHyper<double>& hyper,
                        bool amsgrad, cudaStream_t stream) {
  return amsgrad ? launch_rule<Adam<true>>(table, kind, has_master, hyper, stream)
                 : launch_rule<Adam<false>>(table, kind, has_master, hyper, stream);
}

}  // namespace nvrm
