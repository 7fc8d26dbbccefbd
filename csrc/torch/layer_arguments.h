// What the layers' operators check alike.
#pragma once

#include <ATen/core/Tensor.h>

#include "noise_arguments.h"
#include "scalar_kind.h"

namespace nvrm {

// Raises TypeError, or ValueError for a key on another device than the activations.
inline void check_key(const at::Tensor& key, const at::Tensor& activations) {
  TORCH_CHECK_TYPE(key.scalar_type() == at::kLong && key.numel() == 1, "key must be an int64 tensor with one element");
  TORCH_CHECK_VALUE(key.device() == activations.device(), "key must be on the activations' device ",
                    activations.device(), ", got ", key.device());
}

inline void check_stream(int64_t stream) {
  TORCH_CHECK_VALUE(stream >= 0 && stream <= 0xffffffffLL, "stream must be in [0, 2^32), got ", stream);
}

// A layer's parameter as kernels take it: float32, contiguous, of so many elements, on the activations' device.
inline at::Tensor checked_parameter(const at::Tensor& values, int64_t count, const at::Tensor& activations,
                                    const char* name) {
  TORCH_CHECK_TYPE(values.scalar_type() == at::kFloat, name, " must be float32, got ", values.scalar_type());
  TORCH_CHECK_VALUE(values.numel() == count, name, " must have ", count, " elements, got ", values.numel());
  TORCH_CHECK_VALUE(values.device() == activations.device(), name, " must be on the activations' device ",
                    activations.device(), ", got ", values.device());
  return values.contiguous();
}

}  // namespace nvrm
