#include "steps.h"

namespace nvrm {

StepArguments::StepArguments(Fields& f)
    : rule(f.integer()),
      params(f.tensors("params")),
      grads(f.tensors("grads")),
      states(f.tensors("states")),
      masters(f.tensors("masters")),
      steps(f.tensors("steps")),
      records(f.tensors("records")),
      hyper(f.numbers("hyper")),
      offsets(f.integers("offsets")),
      scale(f.number()),
      seed(f.integer()),
      distribution(f.integer()),
      keep_noise(f.flag()),
      scale_tensors(f.tensors("scale_tensors")),
      measures(f.tensors("measures")),
      sums(f.tensors("sums")),
      row_lengths(f.integers("row_lengths")),
      measure(f.integer()),
      denoise_every(f.integer()),
      cycle(f.flag()),
      hyper_tensor(f.tensor_or_none("hyper_tensor")),
      grad_scale(f.tensor_or_none("grad_scale")),
      found_inf(f.tensor_or_none("found_inf")),
      run_lengths(f.integers("run_lengths")),
      run_strides(f.integers("run_strides")) {}

ReperturbArguments::ReperturbArguments(Fields& f)
    : params(f.tensors("params")),
      masters(f.tensors("masters")),
      records(f.tensors("records")),
      targets(f.tensors("targets")),
      offsets(f.integers("offsets")),
      measures(f.tensors("measures")),
      row_lengths(f.integers("row_lengths")),
      run_lengths(f.integers("run_lengths")),
      run_strides(f.integers("run_strides")) {}

MeasureArguments::MeasureArguments(Fields& f)
    : params(f.tensors("params")),
      masters(f.tensors("masters")),
      records(f.tensors("records")),
      offsets(f.integers("offsets")),
      measures(f.tensors("measures")),
      sums(f.tensors("sums")),
      row_lengths(f.integers("row_lengths")),
      measure(f.integer()),
      only_clean(f.flag()),
      run_lengths(f.integers("run_lengths")),
      run_strides(f.integers("run_strides")) {}

namespace {

// That of the device where the parameters are; the CPU's refuses those that no kernel serves.
StepBackend backend_of(Tensors params) {
#if defined(NVRM_WITH_CUDA)
  if (!params.empty() && params[0].device().type == dlpack::cuda) return steps_on_cuda();
#else
  (void)params;
#endif
  return steps_on_cpu();
}

void run(CheckedCall& call) {
  const pybind11::gil_scoped_release no_gil;
  call.run();
}

}  // namespace

std::vector<int64_t> steps_from_python(const pybind11::list& calls) {
  std::deque<Fields> fields;
  std::vector<StepArguments> arguments;
  for (const pybind11::handle call : calls) {
    arguments.emplace_back(fields.emplace_back(call, StepArguments::field_count));
  }
  std::vector<std::unique_ptr<CheckedCall>> steps;
  for (const StepArguments& each : arguments) steps.push_back(backend_of(each.params).step(each));
  for (const auto& step : steps) run(*step);
  std::vector<int64_t> addresses;
  for (const StepArguments& each : arguments) {
    uint64_t sum = 0;
    for (const Tensor& param : each.params) {
      sum = sum * 0x9E3779B97F4A7C15u + reinterpret_cast<uintptr_t>(param.data());
    }
    addresses.push_back(static_cast<int64_t>(sum));
  }
  return addresses;
}

void reperturb_from_python(const pybind11::tuple& call) {
  Fields fields(call, ReperturbArguments::field_count);
  const ReperturbArguments arguments(fields);
  run(*backend_of(arguments.params).reperturb(arguments));
}

void measure_from_python(const pybind11::tuple& call) {
  Fields fields(call, MeasureArguments::field_count);
  const MeasureArguments arguments(fields);
  run(*backend_of(arguments.params).measure(arguments));
}

}  // namespace nvrm
