// The arguments of an operator as Python hands them over: a tuple, read field by field.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <vector>

#include "tensor.h"

namespace nvrm {

// Keeps what the fields are made into; the tuple and its tensors must outlive it. Every function takes the next field
// and raises TypeError where it is of another type.
class Fields {
 public:
  Fields(const pybind11::handle& call, Py_ssize_t count);

  Tensors tensors(const char* name);
  Integers integers(const char* name);
  Numbers numbers(const char* name);
  // Of single tensors TypeError also where one is not strided, which would look as if it were not there.
  const Tensor& tensor(const char* name);
  // None: one that is not there.
  const Tensor& tensor_or_none(const char* name);
  int64_t integer();
  double number();
  bool flag();
  void skip(Py_ssize_t count) { next_ += count; }

 private:
  const Tensor& strided(PyObject* object, const char* name);
  PyObject* next() { return PyTuple_GET_ITEM(call_, next_++); }

  template <class T, class Convert>
  std::span<const T> list(std::deque<std::vector<T>>& kept, const char* name, const Convert& convert);

  PyObject* call_;
  Py_ssize_t next_ = 0;
  // Deques, so that references into them hold while they grow.
  std::deque<std::vector<Tensor>> tensor_lists_;
  std::deque<std::vector<int64_t>> integer_lists_;
  std::deque<std::vector<double>> number_lists_;
  std::deque<Tensor> tensors_;
};

}  // namespace nvrm
