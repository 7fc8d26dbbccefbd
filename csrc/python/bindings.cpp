// The Python module nvrm_fast._native: build facts, processor features and the native kernels, as
// nvrm_fast/ops/native.py calls them. It knows torch by two stable interfaces of C alone, which Python hands to
// connect(): DLPack's exchange of tensors, and torch's parallel loop. So one binary serves every torch that has them,
// and none is needed to compile it.
#include <pybind11/pybind11.h>

#include "../cpu/pages.h"
#include "../cpu/select.h"
#include "direction.h"
#include "parallel.h"
#include "steps.h"
#include "stochastic.h"

namespace py = pybind11;

namespace {

py::dict build_facts() {
  py::dict facts;
  facts["compiler"] = __VERSION__;
#if defined(NVRM_WITH_CUDA)
  facts["cuda"] = NVRM_WITH_CUDA;  // the toolkit's version and the architectures, from setup.py
#else
  facts["cuda"] = py::none();
#endif
  return facts;
}

py::dict cpu_features() {
  py::dict features;
  for (const auto& [name, there] : nvrm::cpu_features()) features[name.c_str()] = there;
  return features;
}

// parallel_for: the address of torch_parallel_for.
void connect(const py::capsule& exchange_api, py::type tensor, py::type parameter, uintptr_t parallel_for) {
  nvrm::connect_tensors(exchange_api, std::move(tensor), std::move(parameter));
  nvrm::torch_parallel_for = reinterpret_cast<nvrm::ParallelFor>(parallel_for);
}

// Whether the dicts hold these very objects under the keys, dict by dict: asked before every step of every parameter's
// state, where Python takes three times as long.
bool hold(const py::list& dicts, const py::tuple& keys, const py::list& objects) {
  if (objects.size() != dicts.size() * keys.size()) return false;
  Py_ssize_t place = 0;
  for (const py::handle dict : dicts) {
    if (!PyDict_Check(dict.ptr())) throw py::type_error("state must be a dict");
    for (const py::handle key : keys) {
      const PyObject* found = PyDict_GetItemWithError(dict.ptr(), key.ptr());
      if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
      if (found != PyList_GET_ITEM(objects.ptr(), place++)) return false;
    }
  }
  return true;
}

void fill_noise(const py::object& self, int64_t seed, int64_t stream, int64_t step, int64_t distribution, double scale,
                int64_t offset) {
  const nvrm::Tensor out(self.ptr(), "self");
  const nvrm::NoiseKey key = nvrm::checked_fill(out, seed, stream, step, distribution, offset);
  const py::gil_scoped_release no_gil;
#if defined(NVRM_WITH_CUDA)
  if (out.device().type == nvrm::dlpack::cuda) {
    nvrm::fill_noise_on_cuda(key, static_cast<int>(distribution), static_cast<float>(scale), offset, out);
    return;
  }
#endif
  nvrm::fill_noise(key, static_cast<int>(distribution), static_cast<float>(scale), offset, out.data<float>(),
                   out.numel());
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native kernels of nvrm_fast: what was built, which instruction set runs, and the kernels themselves.";
  m.def("connect", &connect);
  m.def("build_facts", &build_facts);
  m.def("cpu_features", &cpu_features);
  m.def("available_instruction_sets", &nvrm::available_instruction_sets);
  m.def("instruction_set", [] { return std::string(nvrm::cpu_kernels().name); });
  m.def("use_instruction_set", &nvrm::use_instruction_set);
  m.def("advise_huge_pages", &nvrm::advise_huge_pages);
  m.def("hold", &hold);
  m.def("fill_noise_", &fill_noise);
  m.def("steps_", &nvrm::steps_from_python);
  m.def("reperturb_", &nvrm::reperturb_from_python);
  m.def("measure_", &nvrm::measure_from_python);
  m.def("direction_noise", &nvrm::direction_noise_from_python);
  m.def("direction_noise_backward", &nvrm::direction_noise_backward_from_python);
  m.def("stochastic_activation", &nvrm::stochastic_activation_from_python);
  m.def("stochastic_activation_backward", &nvrm::stochastic_activation_backward_from_python);
}
