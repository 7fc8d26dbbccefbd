#include "tensor.h"

#include <algorithm>

namespace nvrm {
namespace {

const dlpack::ExchangeApi* api = nullptr;
PyTypeObject* plain_types[2] = {};

ElementType element_type(dlpack::Type type) {
  constexpr struct {
    dlpack::TypeCode code;
    int bits;
    ElementType type;
  } known[] = {
      {dlpack::floating, 32, ElementType::float32},      {dlpack::floating, 64, ElementType::float64},
      {dlpack::bfloat, 16, ElementType::bfloat16},       {dlpack::floating, 16, ElementType::float16},
      {dlpack::signed_integer, 64, ElementType::int64},  {dlpack::signed_integer, 32, ElementType::int32},
      {dlpack::signed_integer, 16, ElementType::int16},  {dlpack::signed_integer, 8, ElementType::int8},
      {dlpack::unsigned_integer, 8, ElementType::uint8}, {dlpack::boolean, 8, ElementType::boolean},
      {dlpack::complex, 64, ElementType::complex64},     {dlpack::complex, 128, ElementType::complex128},
  };
  for (const auto& each : known) {
    if (type.code == each.code && type.bits == each.bits && type.lanes == 1) return each.type;
  }
  return ElementType::other;
}

// Of an object that is a tensor and has no strides to tell of: whether that is a sparse one.
bool is_of_another_layout(PyObject* object) {
  const auto torch = pybind11::module_::import("torch");
  return !pybind11::handle(object).attr("layout").is(torch.attr("strided"));
}

}  // namespace

Tensor::Tensor(PyObject* object, const char* name) {
  const bool known = Py_TYPE(object) == plain_types[0] || Py_TYPE(object) == plain_types[1];
  NVRM_CHECK_TYPE(known, name, " must hold plain tensors");
  if (api->view_from_python(object, &view_) != 0) {
    PyErr_Clear();
    view_ = {};
    NVRM_CHECK_TYPE(is_of_another_layout(object), name, " must hold plain tensors");
    return;
  }
  view_.data = static_cast<char*>(view_.data) + view_.byte_offset;
  type_ = element_type(view_.type);
  numel_ = 1;
  contiguous_ = true;
  int64_t expected = 1;
  for (int d = view_.dim - 1; d >= 0; --d) {
    const int64_t size = view_.shape[d];
    contiguous_ = contiguous_ && (size == 1 || view_.strides[d] == expected);
    expected *= size;
    numel_ *= size;
  }
  contiguous_ = contiguous_ || numel_ == 0;
  strided_ = true;
  // A tensor of zeros that torch keeps without memory.
  NVRM_CHECK_TYPE(view_.data != nullptr || numel_ == 0, name, " must hold plain tensors");
}

bool Tensor::is_expanded() const {
  if (numel_ == 0) return false;
  for (int d = 0; d < view_.dim; ++d) {
    if (view_.strides[d] == 0 && view_.shape[d] > 1) return true;
  }
  return false;
}

bool Sizes::operator==(Sizes other) const {
  return size() == other.size() && std::equal(begin(), end(), other.begin());
}

std::ostream& operator<<(std::ostream& out, Device device) {
  if (device.type == dlpack::cpu) return out << "cpu";
  if (device.type == dlpack::cuda) return out << "cuda:" << device.index;
  return out << "a device of DLPack's type " << device.type;
}

std::ostream& operator<<(std::ostream& out, ElementType type) {
  constexpr const char* names[] = {"Float",        "Double",        "BFloat16",    "Half", "Long",
                                   "Int",          "Short",         "Char",        "Byte", "Bool",
                                   "ComplexFloat", "ComplexDouble", "another type"};
  return out << names[static_cast<int>(type)];
}

std::ostream& operator<<(std::ostream& out, Sizes sizes) {
  out << "[";
  for (size_t d = 0; d < sizes.size(); ++d) out << (d == 0 ? "" : ", ") << sizes[d];
  return out << "]";
}

ScalarKind scalar_kind(ElementType type, const char* argument) {
  switch (type) {
    case ElementType::float32:
      return ScalarKind::float32;
    case ElementType::float64:
      return ScalarKind::float64;
    case ElementType::bfloat16:
      return ScalarKind::bfloat16;
    case ElementType::float16:
      return ScalarKind::float16;
    default:
      throw pybind11::type_error(written(argument, " must be float32, float64, bfloat16 or float16, got ", type));
  }
}

int64_t element_size(ElementType type) {
  switch (type) {
    case ElementType::float32:
      return 4;
    case ElementType::bfloat16:
    case ElementType::float16:
      return 2;
    default:
      return 8;
  }
}

void* current_stream(Device device) {
  // Python is not held while kernels are launched, and an error would be one of Python's.
  const pybind11::gil_scoped_acquire held;
  void* stream = nullptr;
  const auto type = static_cast<dlpack::DeviceType>(device.type);
  if (api->current_work_stream(type, device.index, &stream) != 0) throw pybind11::error_already_set();
  return stream;
}

void connect_tensors(const pybind11::capsule& exchange_api, pybind11::type tensor, pybind11::type parameter) {
  const auto* header = static_cast<const dlpack::Header*>(exchange_api.get_pointer());
  while (header != nullptr && header->version.major != 1) header = header->previous;
  if (header == nullptr) throw pybind11::import_error("torch has another version of DLPack's exchange API than 1");
  api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  // They live as long as torch does, which is never unloaded.
  plain_types[0] = reinterpret_cast<PyTypeObject*>(tensor.release().ptr());
  plain_types[1] = reinterpret_cast<PyTypeObject*>(parameter.release().ptr());
}

}  // namespace nvrm
