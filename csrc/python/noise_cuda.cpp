// fill_noise_ on CUDA devices.
#include "../cuda/launches.h"
#include "launch_place.h"
#include "noise_arguments.h"

namespace nvrm {

void fill_noise_on_cuda(const NoiseKey& key, int distribution, float scale, int64_t offset, const Tensor& out) {
  if (out.numel() == 0) return;
  const LaunchPlace place(out.device());
  NVRM_CUDA_CHECK(launch_noise(key, distribution, scale, offset, out.data<float>(), out.numel(), place.stream()));
}

}  // namespace nvrm
