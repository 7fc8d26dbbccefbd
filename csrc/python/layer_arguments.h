// What the layers' operators check alike.
#pragma once

#include "noise_arguments.h"

namespace nvrm {

// Raises TypeError, or ValueError for a key on another device than the activations.
inline void check_key(const Tensor& key, const Tensor& activations) {
  NVRM_CHECK_TYPE(key.is_int64_scalar(), "key must be an int64 tensor with one element");
  NVRM_CHECK_VALUE(key.device() == activations.device(), "key must be on the activations' device ",
                   activations.device(), ", got ", key.device());
}

// What a kernel reads or writes without strides.
inline void check_contiguous(const Tensor& tensor, const char* name) {
  NVRM_CHECK_VALUE(tensor.is_contiguous(), name, " must be contiguous()");
}

// A layer's parameter as kernels take it: float32, contiguous, of so many elements, on the activations' device.
inline void check_parameter(const Tensor& values, int64_t count, const Tensor& activations, const char* name) {
  NVRM_CHECK_TYPE(values.type() == ElementType::float32, name, " must be float32, got ", values.type());
  NVRM_CHECK_VALUE(values.numel() == count, name, " must have ", count, " elements, got ", values.numel());
  NVRM_CHECK_VALUE(values.device() == activations.device(), name, " must be on the activations' device ",
                   activations.device(), ", got ", values.device());
  check_contiguous(values, name);
}

// A result, which Python has made: of the activations' type and device, contiguous, of so many elements.
inline void check_result(const Tensor& result, int64_t count, const Tensor& activations, const char* name) {
  NVRM_CHECK_TYPE(result.type() == activations.type(), name, " must be ", activations.type());
  NVRM_CHECK_VALUE(result.numel() == count && result.device() == activations.device(), name, " must have ", count,
                   " elements on ", activations.device());
  check_contiguous(result, name);
}

// Memory for parts of sums, float32 on the tensor's device, made by torch: its Python object, and what kernels see.
struct Parts {
  pybind11::object object;
  Tensor tensor;

  Parts() = default;
  Parts(const pybind11::object& like, const std::vector<int64_t>& sizes)
      : object(
            like.attr("new_empty")(sizes, pybind11::arg("dtype") = pybind11::module_::import("torch").attr("float32"))),
        tensor(object.ptr(), "parts") {}
  pybind11::object object_or_none() const { return object ? object : pybind11::none(); }
};

}  // namespace nvrm
