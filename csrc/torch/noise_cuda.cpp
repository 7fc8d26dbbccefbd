// nvrm_fast::fill_noise_ on CUDA devices.
#include <torch/library.h>

#include "../cuda/launches.h"
#include "launch_place.h"
#include "noise_arguments.h"

namespace nvrm {
namespace {

void fill_noise_cuda(const at::Tensor& self, int64_t seed, int64_t stream, int64_t step, int64_t distribution,
                     double scale, int64_t offset) {
  const NoiseKey key = checked_fill(self, seed, stream, step, distribution, offset);
  if (self.numel() == 0) return;
  const LaunchPlace place(self);
  C10_CUDA_CHECK(launch_noise(key, static_cast<int>(distribution), static_cast<float>(scale), offset,
                              self.mutable_data_ptr<float>(), self.numel(), place.stream()));
}

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CUDA, m) { m.impl("fill_noise_", &fill_noise_cuda); }

}  // namespace nvrm
