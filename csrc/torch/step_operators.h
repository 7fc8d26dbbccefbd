// The operators' argument lists and what every device makes of them, once. A backend says who reads the records
// (`reader`) and runs a finished table: step, reperturb, measure.
#pragma once

#include <memory>

#include "tensor_table_builder.h"

namespace nvrm {

// The arguments of step_ (nvrm_fast/contract/arguments.py), in its order. The lists must outlive the record.
struct StepArguments {
  int64_t rule;
  at::TensorList params, grads, states, masters, steps, records;
  at::ArrayRef<double> hyper;
  at::IntArrayRef offsets;
  double scale;
  int64_t seed, distribution;
  bool keep_noise;
  at::TensorList scale_tensors, measures, sums;
  at::IntArrayRef row_lengths;
  int64_t measure;
  int64_t denoise_every;
  bool cycle;
  const std::optional<at::Tensor>&hyper_tensor, &grad_scale, &found_inf;
  at::IntArrayRef run_lengths, run_strides;
};

// A step whose arguments were checked: run() refuses nothing.
struct CheckedStep {
  virtual ~CheckedStep() = default;
  virtual void run() = 0;
};

template <class Backend>
class CheckedStepOn final : public CheckedStep {
 public:
  explicit CheckedStepOn(const StepArguments& a)
      : rule_(static_cast<int>(a.rule)),
        params_(a.params),
        table_(a.params, a.grads, a.masters, a.records, a.offsets, Backend::reader) {
    const RuleFacts* facts = facts_of_rule(a.rule);
    TORCH_CHECK_VALUE(facts != nullptr, "rule must be a code in [0, ", rule_count, "), got ", a.rule);
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
    if (params_.empty()) return;
    Backend::step(table_, rule_, params_[0]);
    table_.note_writes(true);
  }

 private:
  int rule_;
  at::TensorList params_;
  TensorTable table_;
};

// Each raises ValueError or TypeError that names the argument; nothing has been written then.
std::unique_ptr<CheckedStep> check_cpu_step(const StepArguments& arguments);
std::unique_ptr<CheckedStep> check_cuda_step(const StepArguments& arguments);

template <class Backend>
void step(int64_t rule, at::TensorList params, at::TensorList grads, at::TensorList states, at::TensorList masters,
          at::TensorList steps, at::TensorList records, at::ArrayRef<double> hyper, at::IntArrayRef offsets,
          double scale, int64_t seed, int64_t distribution, bool keep_noise, at::TensorList scale_tensors,
          at::TensorList measures, at::TensorList sums, at::IntArrayRef row_lengths, int64_t measure,
          int64_t denoise_every, bool cycle, const std::optional<at::Tensor>& hyper_tensor,
          const std::optional<at::Tensor>& grad_scale, const std::optional<at::Tensor>& found_inf,
          at::IntArrayRef run_lengths, at::IntArrayRef run_strides) {
  CheckedStepOn<Backend>({rule,       params,    grads,       states,     masters,       steps,      records,
                          hyper,      offsets,   scale,       seed,       distribution,  keep_noise, scale_tensors,
                          measures,   sums,      row_lengths, measure,    denoise_every, cycle,      hyper_tensor,
                          grad_scale, found_inf, run_lengths, run_strides})
      .run();
}

template <class Backend>
void reperturb(at::TensorList params, at::TensorList masters, at::TensorList records, at::TensorList targets,
               at::IntArrayRef offsets, at::TensorList measures, at::IntArrayRef row_lengths,
               at::IntArrayRef run_lengths, at::IntArrayRef run_strides) {
  // No rule reads the gradient; the parameters stand in for it.
  TensorTable table(params, params, masters, records, offsets, Backend::reader);
  table.set_targets(targets);
  table.set_runs(run_lengths, run_strides);
  table.set_measures(measures, row_lengths, measure_nothing, {});
  table.finish();
  if (params.empty()) return;
  Backend::reperturb(table, params[0]);
  table.note_writes(false);
}

template <class Backend>
void measure(at::TensorList params, at::TensorList masters, at::TensorList records, at::IntArrayRef offsets,
             at::TensorList measures, at::TensorList sums, at::IntArrayRef row_lengths, int64_t measure,
             bool only_clean, at::IntArrayRef run_lengths, at::IntArrayRef run_strides) {
  TORCH_CHECK_VALUE(measure != measure_nothing, "measure must be a code in [1, ", static_cast<int>(measure_count),
                    "), got ", measure);
  TensorTable table(params, params, masters, records, offsets, Backend::reader);
  table.set_runs(run_lengths, run_strides);
  table.set_measures(measures, row_lengths, measure, sums);
  table.finish();
  if (params.empty()) return;
  Backend::measure(table, only_clean, params[0]);
  table.note_measures();
}

}  // namespace nvrm
