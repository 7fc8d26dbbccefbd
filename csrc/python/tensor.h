// What an operator is told of a tensor of torch: where it lies and how. It owns nothing: it holds as long as the Python
// object does and nobody gives it other memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <span>
#include <string>

#include "../math/storage.h"
#include "dlpack.h"
#include "errors.h"

namespace nvrm {

struct Device {
  int32_t type = dlpack::cpu, index = 0;
  bool is_cpu() const { return type == dlpack::cpu; }
  bool operator==(const Device&) const = default;
};
std::ostream& operator<<(std::ostream& out, Device device);

// The first four are those that kernels have.
enum class ElementType {
  float32,
  float64,
  bfloat16,
  float16,
  int64,
  int32,
  int16,
  int8,
  uint8,
  boolean,
  complex64,
  complex128,
  other
};
std::ostream& operator<<(std::ostream& out, ElementType type);

// Written as [2, 3].
struct Sizes : std::span<const int64_t> {
  using std::span<const int64_t>::span;
  bool operator==(Sizes other) const;
};
std::ostream& operator<<(std::ostream& out, Sizes sizes);

class Tensor {
 public:
  Tensor() = default;

  // object: a torch.Tensor or Parameter with memory of its own, nothing else; raises TypeError with the argument's
  // name. One that is not strided (a sparse one) is taken, and is_strided() is false: nothing else of it is known.
  Tensor(PyObject* object, const char* name);

  bool is_there() const { return strided_; }
  bool is_strided() const { return strided_; }
  ElementType type() const { return type_; }
  Device device() const { return {view_.device.type, view_.device.type == dlpack::cpu ? 0 : view_.device.index}; }
  int64_t numel() const { return numel_; }
  int dim() const { return view_.dim; }
  int64_t size(int d) const { return view_.shape[d]; }
  int64_t stride(int d) const { return view_.strides[d]; }
  Sizes sizes() const { return {view_.shape, static_cast<size_t>(view_.dim)}; }
  bool is_contiguous() const { return contiguous_; }
  // Whether elements certainly share memory: a dimension is expanded.
  bool is_expanded() const;
  bool is_floating_point() const { return type_ <= ElementType::float16; }
  bool is_int64_scalar() const { return type_ == ElementType::int64 && numel_ == 1; }
  bool is_float32_scalar() const { return type_ == ElementType::float32 && numel_ == 1; }

  template <class T = void>
  T* data() const {
    return static_cast<T*>(view_.data);
  }

 private:
  dlpack::TensorView view_ = {};
  int64_t numel_ = 0;
  ElementType type_ = ElementType::other;
  bool strided_ = false, contiguous_ = false;
};

using Tensors = std::span<const Tensor>;
using Integers = std::span<const int64_t>;
using Numbers = std::span<const double>;

// Raises TypeError, with the argument's name, for a type that no kernel has.
ScalarKind scalar_kind(ElementType type, const char* argument);
int64_t element_size(ElementType type);

// torch's current stream on a CUDA device.
void* current_stream(Device device);

// exchange_api: the capsule at torch.Tensor.__dlpack_c_exchange_api__; the types: torch.Tensor and torch.nn.Parameter.
// To be called once, before anything else. Raises ImportError for an exchange API of another version.
void connect_tensors(const pybind11::capsule& exchange_api, pybind11::type tensor, pybind11::type parameter);

}  // namespace nvrm
