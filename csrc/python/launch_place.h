// Device, stream and error of a launch, for the glue.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>

#include "tensor.h"

namespace nvrm {

inline void check_cuda(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw std::runtime_error(written(cudaGetErrorString(error), " in ", call));
}

// While it lives, launches go to a device, on torch's current stream there.
class LaunchPlace {
 public:
  explicit LaunchPlace(Device device) : stream_(static_cast<cudaStream_t>(current_stream(device))) {
    check_cuda(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device.index) check_cuda(cudaSetDevice(device.index), "cudaSetDevice");
    changed_ = before_ != device.index;
  }
  ~LaunchPlace() {
    if (changed_) cudaSetDevice(before_);
  }
  LaunchPlace(const LaunchPlace&) = delete;
  LaunchPlace& operator=(const LaunchPlace&) = delete;

  cudaStream_t stream() const { return stream_; }

 private:
  cudaStream_t stream_;
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace nvrm

#define NVRM_CUDA_CHECK(call) nvrm::check_cuda(call, #call)
