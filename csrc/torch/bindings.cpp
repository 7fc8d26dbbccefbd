// The Python module nvrm_fast._native: build facts, processor features and steps without the dispatcher. The operators
// register themselves beside their kernels (TORCH_LIBRARY_IMPL); their schemas are in nvrm_fast/ops, so that they exist
// without this module.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include "../cpu/pages.h"
#include "../cpu/select.h"
#include "steps_from_python.h"

namespace py = pybind11;

namespace {

py::dict build_facts() {
  py::dict facts;
  facts["compiler"] = __VERSION__;
  facts["torch"] = TORCH_VERSION;
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

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Native kernels of nvrm_fast: what was built and which instruction set runs.";
  m.def("build_facts", &build_facts);
  m.def("cpu_features", &cpu_features);
  m.def("available_instruction_sets", &nvrm::available_instruction_sets);
  m.def("instruction_set", [] { return std::string(nvrm::cpu_kernels().name); });
  m.def("use_instruction_set", &nvrm::use_instruction_set);
  m.def("steps_", &nvrm::steps_from_python, "See nvrm_fast/ops/step.py.");
  m.def("advise_huge_pages", &nvrm::advise_huge_pages);
}
