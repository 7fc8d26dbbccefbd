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

// A step whose arguments were checked: nothing was written, and run() refuses nothing.
class CheckedStep {
 public:
  explicit CheckedStep(const StepArguments& a)
      : backend_(backend_of(a.params)),
        rule_(static_cast<int>(a.rule)),
        params_(a.params),
        table_(a.params, a.grads, a.masters, a.records, a.offsets, backend_.reader) {
    const RuleFacts* facts = facts_of_rule(a.rule);
    NVRM_CHECK_VALUE(facts != nullptr, "rule must be a code in [0, ", rule_count, "), got ", a.rule);
    check_distribution(a.distribution, "distribution");
    table_.set_states(facts->states, a.states);
    table_.set_step(a.steps,
                    {static_cast<uint64_t>(a.seed), a.denoise_every, static_cast<int>(a.distribution),
                     static_cast<float>(a.scale), a.keep_noise, measure_nothing, a.cycle},
                    a.scale_tensors);
    table_.set_hyper(*facts, a.hyper, a.hyper_tensor);
    table_.set_scaling({a.grad_scale, a.found_inf});
    table_.set_runs(a.run_lengths, a.run_strides);
    table_.set_measures(a.measures, a.row_lengths, a.measure, a.sums);
    table_.finish();
  }

  void run() {
    if (params_.empty()) return;
    const pybind11::gil_scoped_release no_gil;
    backend_.step(table_, rule_, params_[0].device());
  }

  int64_t addresses() const {
    uint64_t sum = 0;
    for (const Tensor& param : params_) {
      sum = sum * 0x9E3779B97F4A7C15u + reinterpret_cast<uintptr_t>(param.data());
    }
    return static_cast<int64_t>(sum);
  }

 private:
  StepBackend backend_;
  int rule_;
  Tensors params_;
  TensorTable table_;
};

// A context manager's block.
template <class Run>
void inside(const pybind11::object& manager, const Run& run) {
  manager.attr("__enter__")();
  const auto leave = [&] { manager.attr("__exit__")(pybind11::none(), pybind11::none(), pybind11::none()); };
  try {
    run();
  } catch (...) {
    leave();
    throw;
  }
  leave();
}

}  // namespace

std::vector<int64_t> steps_from_python(const pybind11::list& calls, const pybind11::object& around) {
  // Deques: what is in them has places of its own.
  std::deque<Fields> fields;
  std::deque<CheckedStep> steps;
  std::vector<StepArguments> arguments;
  for (const pybind11::handle call : calls) {
    arguments.emplace_back(fields.emplace_back(call, StepArguments::field_count));
  }
  for (const StepArguments& each : arguments) steps.emplace_back(each);
  std::vector<int64_t> addresses;
  for (CheckedStep& step : steps) {
    if (around.is_none()) {
      step.run();
    } else {
      inside(around(), [&] { step.run(); });
    }
    addresses.push_back(step.addresses());
  }
  return addresses;
}

void reperturb_from_python(const pybind11::tuple& call) {
  Fields fields(call, ReperturbArguments::field_count);
  const ReperturbArguments a(fields);
  const StepBackend backend = backend_of(a.params);
  // No rule reads the gradient; the parameters stand in for it.
  TensorTable table(a.params, a.params, a.masters, a.records, a.offsets, backend.reader);
  table.set_targets(a.targets);
  table.set_runs(a.run_lengths, a.run_strides);
  table.set_measures(a.measures, a.row_lengths, measure_nothing, {});
  table.finish();
  if (a.params.empty()) return;
  const pybind11::gil_scoped_release no_gil;
  backend.reperturb(table, a.params[0].device());
}

void measure_from_python(const pybind11::tuple& call) {
  Fields fields(call, MeasureArguments::field_count);
  const MeasureArguments a(fields);
  NVRM_CHECK_VALUE(a.measure != measure_nothing, "measure must be a code in [1, ", static_cast<int>(measure_count),
                   "), got ", a.measure);
  const StepBackend backend = backend_of(a.params);
  TensorTable table(a.params, a.params, a.masters, a.records, a.offsets, backend.reader);
  table.set_runs(a.run_lengths, a.run_strides);
  table.set_measures(a.measures, a.row_lengths, a.measure, a.sums);
  table.finish();
  if (a.params.empty()) return;
  const pybind11::gil_scoped_release no_gil;
  backend.measure(table, a.only_clean, a.params[0].device());
}

}  // namespace nvrm
