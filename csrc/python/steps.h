// step_, reperturb_ and measure_ (nvrm_fast/contract/arguments.py): what every device makes of their arguments, once. A
// backend says who reads the records (`reader`) and runs a finished table: step, reperturb, measure.
#pragma once

#include <memory>

#include "fields.h"
#include "tensor_table_builder.h"

namespace nvrm {

// A call whose arguments were checked: run() refuses nothing, and needs nothing of Python's.
struct CheckedCall {
  virtual ~CheckedCall() = default;
  virtual void run() = 0;
};

struct StepArguments {
  static constexpr Py_ssize_t field_count = 25;
  explicit StepArguments(Fields& f);  // in the order of the members

  int64_t rule;
  Tensors params, grads, states, masters, steps, records;
  Numbers hyper;
  Integers offsets;
  double scale;
  int64_t seed, distribution;
  bool keep_noise;
  Tensors scale_tensors, measures, sums;
  Integers row_lengths;
  int64_t measure, denoise_every;
  bool cycle;
  const Tensor &hyper_tensor, &grad_scale, &found_inf;
  Integers run_lengths, run_strides;
};

struct ReperturbArguments {
  static constexpr Py_ssize_t field_count = 9;
  explicit ReperturbArguments(Fields& f);

  Tensors params, masters, records, targets;
  Integers offsets;
  Tensors measures;
  Integers row_lengths, run_lengths, run_strides;
};

struct MeasureArguments {
  static constexpr Py_ssize_t field_count = 11;
  explicit MeasureArguments(Fields& f);

  Tensors params, masters, records;
  Integers offsets;
  Tensors measures, sums;
  Integers row_lengths;
  int64_t measure;
  bool only_clean;
  Integers run_lengths, run_strides;
};

template <class Backend>
class CheckedStep final : public CheckedCall {
 public:
  explicit CheckedStep(const StepArguments& a)
      : rule_(static_cast<int>(a.rule)),
        params_(a.params),
        table_(a.params, a.grads, a.masters, a.records, a.offsets, Backend::reader) {
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

  void run() override {
    if (!params_.empty()) Backend::step(table_, rule_, params_[0].device());
  }

 private:
  int rule_;
  Tensors params_;
  TensorTable table_;
};

template <class Backend>
class CheckedReperturb final : public CheckedCall {
 public:
  // No rule reads the gradient; the parameters stand in for it.
  explicit CheckedReperturb(const ReperturbArguments& a)
      : params_(a.params), table_(a.params, a.params, a.masters, a.records, a.offsets, Backend::reader) {
    table_.set_targets(a.targets);
    table_.set_runs(a.run_lengths, a.run_strides);
    table_.set_measures(a.measures, a.row_lengths, measure_nothing, {});
    table_.finish();
  }

  void run() override {
    if (!params_.empty()) Backend::reperturb(table_, params_[0].device());
  }

 private:
  Tensors params_;
  TensorTable table_;
};

template <class Backend>
class CheckedMeasure final : public CheckedCall {
 public:
  explicit CheckedMeasure(const MeasureArguments& a)
      : params_(a.params),
        only_clean_(a.only_clean),
        table_(a.params, a.params, a.masters, a.records, a.offsets, Backend::reader) {
    NVRM_CHECK_VALUE(a.measure != measure_nothing, "measure must be a code in [1, ", static_cast<int>(measure_count),
                     "), got ", a.measure);
    table_.set_runs(a.run_lengths, a.run_strides);
    table_.set_measures(a.measures, a.row_lengths, a.measure, a.sums);
    table_.finish();
  }

  void run() override {
    if (!params_.empty()) Backend::measure(table_, only_clean_, params_[0].device());
  }

 private:
  Tensors params_;
  bool only_clean_;
  TensorTable table_;
};

// Each raises ValueError or TypeError that names the argument; nothing has been written then.
using StepCheck = std::unique_ptr<CheckedCall> (*)(const StepArguments&);
using ReperturbCheck = std::unique_ptr<CheckedCall> (*)(const ReperturbArguments&);
using MeasureCheck = std::unique_ptr<CheckedCall> (*)(const MeasureArguments&);

struct StepBackend {
  StepCheck step;
  ReperturbCheck reperturb;
  MeasureCheck measure;
};

template <class Backend>
StepBackend step_backend() {
  return {
      [](const StepArguments& a) -> std::unique_ptr<CheckedCall> { return std::make_unique<CheckedStep<Backend>>(a); },
      [](const ReperturbArguments& a) -> std::unique_ptr<CheckedCall> {
        return std::make_unique<CheckedReperturb<Backend>>(a);
      },
      [](const MeasureArguments& a) -> std::unique_ptr<CheckedCall> {
        return std::make_unique<CheckedMeasure<Backend>>(a);
      }};
}

StepBackend steps_on_cpu();
StepBackend steps_on_cuda();

// What Python calls; see nvrm_fast/ops/native.py. calls: tuples of StepArguments, all of them checked before the first
// one writes. Returns a number for each that tells (nearly always) whether its parameters lie where they lay before.
std::vector<int64_t> steps_from_python(const pybind11::list& calls);
void reperturb_from_python(const pybind11::tuple& call);
void measure_from_python(const pybind11::tuple& call);

}  // namespace nvrm
