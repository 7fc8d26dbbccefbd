#include "fields.h"

namespace nvrm {
namespace {

int64_t integer_of(PyObject* object) {
  const int64_t value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  return value;
}

double number_of(PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  return value;
}

}  // namespace

Fields::Fields(const pybind11::handle& call, Py_ssize_t count) : call_(call.ptr()) {
  NVRM_CHECK_TYPE(PyTuple_Check(call_) && PyTuple_GET_SIZE(call_) == count, "a call has ", count, " fields");
}

template <class T, class Convert>
std::span<const T> Fields::list(std::deque<std::vector<T>>& kept, const char* name, const Convert& convert) {
  PyObject* object = next();
  NVRM_CHECK_TYPE(PyList_Check(object), name, " must be a list");
  std::vector<T>& values = kept.emplace_back();
  values.reserve(static_cast<size_t>(PyList_GET_SIZE(object)));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) values.push_back(convert(PyList_GET_ITEM(object, i)));
  return values;
}

Tensors Fields::tensors(const char* name) {
  return list<Tensor>(tensor_lists_, name, [&](PyObject* item) { return Tensor(item, name); });
}
Integers Fields::integers(const char* name) { return list<int64_t>(integer_lists_, name, &integer_of); }
Numbers Fields::numbers(const char* name) { return list<double>(number_lists_, name, &number_of); }

const Tensor& Fields::strided(PyObject* object, const char* name) {
  const Tensor& tensor = tensors_.emplace_back(object, name);
  NVRM_CHECK_TYPE(tensor.is_strided(), name, " must be dense");
  return tensor;
}
const Tensor& Fields::tensor(const char* name) { return strided(next(), name); }
const Tensor& Fields::tensor_or_none(const char* name) {
  PyObject* object = next();
  return object == Py_None ? tensors_.emplace_back() : strided(object, name);
}

int64_t Fields::integer() { return integer_of(next()); }
double Fields::number() { return number_of(next()); }
bool Fields::flag() { return PyObject_IsTrue(next()) == 1; }

}  // namespace nvrm
