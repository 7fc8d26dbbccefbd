#include "steps_from_python.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"  // torch's headers for Python have some
#include <ATen/record_function.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#pragma GCC diagnostic pop

#include <deque>

#include "step_operators.h"

namespace py = pybind11;

namespace nvrm {
namespace {

// What a tensor must not be, for an operator that goes around the dispatcher: wrapped by a transform, or without memory
// of its own.
constexpr c10::DispatchKeySet not_plain({
    c10::DispatchKey::Python,
    c10::DispatchKey::FuncTorchBatched,
    c10::DispatchKey::FuncTorchGradWrapper,
    c10::DispatchKey::Functionalize,
    c10::DispatchKey::Conjugate,
    c10::DispatchKey::Negative,
    c10::DispatchKey::ZeroTensor,
});

const at::Tensor& tensor_of(PyObject* object, const char* name) {
  TORCH_CHECK_TYPE(
      THPVariable_CheckExact(object) && !THPVariable_Unpack(object).unsafeGetTensorImpl()->key_set().has_any(not_plain),
      name, " must hold plain tensors");
  return THPVariable_Unpack(object);
}

// The fields of one StepArguments, taken in turn. It keeps what they are made into.
class Fields {
 public:
  explicit Fields(PyObject* call) : call_(call) {
    TORCH_CHECK_TYPE(PyTuple_Check(call) && PyTuple_GET_SIZE(call) == field_count, "a call has ", field_count,
                     " fields");
  }

  at::TensorList tensors(const char* name) {
    return list<at::Tensor>(tensors_, name, [&](PyObject* item) { return tensor_of(item, name); });
  }
  at::IntArrayRef integers(const char* name) { return list<int64_t>(integers_, name, &integer_of); }
  at::ArrayRef<double> numbers(const char* name) { return list<double>(numbers_, name, &number_of); }
  const std::optional<at::Tensor>& tensor_or_none(const char* name) {
    PyObject* object = next();
    return optionals_.emplace_back(object == Py_None ? std::nullopt : std::make_optional(tensor_of(object, name)));
  }
  int64_t integer() { return integer_of(next()); }
  double number() { return number_of(next()); }
  bool flag() { return PyObject_IsTrue(next()) == 1; }

 private:
  static constexpr Py_ssize_t field_count = 25;

  PyObject* next() { return PyTuple_GET_ITEM(call_, next_++); }

  static int64_t integer_of(PyObject* object) {
    const int64_t value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return value;
  }

  static double number_of(PyObject* object) {
    const double value = PyFloat_AsDouble(object);
    if (value == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return value;
  }

  template <class T, class Convert>
  at::ArrayRef<T> list(std::deque<std::vector<T>>& kept, const char* name, const Convert& convert) {
    PyObject* object = next();
    TORCH_CHECK_TYPE(PyList_Check(object), name, " must be a list");
    std::vector<T>& values = kept.emplace_back();
    values.reserve(static_cast<size_t>(PyList_GET_SIZE(object)));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) values.push_back(convert(PyList_GET_ITEM(object, i)));
    return values;
  }

  PyObject* call_;
  Py_ssize_t next_ = 0;
  // Deques, so that references into them hold while they grow.
  std::deque<std::vector<at::Tensor>> tensors_;
  std::deque<std::vector<int64_t>> integers_;
  std::deque<std::vector<double>> numbers_;
  std::deque<std::optional<at::Tensor>> optionals_;
};

// Braces: evaluated in this order, which is that of the fields.
StepArguments arguments_of(Fields& f) {
  return StepArguments{f.integer(),
                       f.tensors("params"),
                       f.tensors("grads"),
                       f.tensors("states"),
                       f.tensors("masters"),
                       f.tensors("steps"),
                       f.tensors("records"),
                       f.numbers("hyper"),
                       f.integers("offsets"),
                       f.number(),
                       f.integer(),
                       f.integer(),
                       f.flag(),
                       f.tensors("scale_tensors"),
                       f.tensors("measures"),
                       f.tensors("sums"),
                       f.integers("row_lengths"),
                       f.integer(),
                       f.integer(),
                       f.flag(),
                       f.tensor_or_none("hyper_tensor"),
                       f.tensor_or_none("grad_scale"),
                       f.tensor_or_none("found_inf"),
                       f.integers("run_lengths"),
                       f.integers("run_strides")};
}

std::unique_ptr<CheckedStep> checked(const StepArguments& arguments) {
#if defined(NVRM_WITH_CUDA)
  if (!arguments.params.empty() && arguments.params[0].is_cuda()) return check_cuda_step(arguments);
#endif
  return check_cpu_step(arguments);
}

}  // namespace

std::vector<int64_t> steps_from_python(const py::list& calls) {
  HANDLE_TH_ERRORS
  std::deque<Fields> fields;
  std::vector<StepArguments> arguments;
  for (const py::handle call : calls) arguments.push_back(arguments_of(fields.emplace_back(call.ptr())));
  const py::gil_scoped_release no_gil;
  std::vector<std::unique_ptr<CheckedStep>> steps;
  for (const StepArguments& each : arguments) steps.push_back(checked(each));
  for (const auto& step : steps) {
    RECORD_FUNCTION("nvrm_fast::step_", c10::ArrayRef<const c10::IValue>{});
    step->run();
  }
  std::vector<int64_t> addresses;
  for (const StepArguments& each : arguments) {
    uint64_t sum = 0;
    for (const at::Tensor& param : each.params) {
      sum = sum * 0x9E3779B97F4A7C15u + reinterpret_cast<uintptr_t>(param.const_data_ptr());
    }
    addresses.push_back(static_cast<int64_t>(sum));
  }
  return addresses;
  END_HANDLE_TH_ERRORS_PYBIND
}

}  // namespace nvrm
