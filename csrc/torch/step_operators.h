// The operators' argument lists and what every device makes of them, once. A backend says who reads the records
// (`reader`) and runs a finished table: step, reperturb.
#pragma once

#include "tensor_table_builder.h"

namespace nvrm {

template <class Backend>
void step(int64_t rule, at::TensorList params, at::TensorList grads, at::TensorList states, at::TensorList masters,
          at::TensorList steps, at::TensorList records, at::ArrayRef<double> hyper, at::IntArrayRef offsets,
          double scale, int64_t seed, int64_t distribution, bool keep_noise, at::TensorList scale_tensors,
          int64_t denoise_every, const std::optional<at::Tensor>& hyper_tensor,
          const std::optional<at::Tensor>& grad_scale, const std::optional<at::Tensor>& found_inf,
          at::IntArrayRef run_lengths, at::IntArrayRef run_strides) {
  const RuleFacts* facts = facts_of_rule(rule);
  TORCH_CHECK_VALUE(facts != nullptr, "rule must be a code in [0, ", rule_count, "), got ", rule);
  check_distribution(distribution, "distribution");
  TensorTable table(params, grads, masters, records, offsets, Backend::reader);
  table.set_states(facts->states, states);
  table.set_step(steps,
                 {static_cast<uint64_t>(seed), denoise_every, static_cast<int>(distribution), static_cast<float>(scale),
                  keep_noise},
                 scale_tensors);
  table.set_hyper(*facts, hyper, hyper_tensor);
  table.set_scaling({grad_scale, found_inf});
  table.set_runs(run_lengths, run_strides);
  table.finish();
  if (params.empty()) return;
  Backend::step(table, static_cast<int>(rule), params[0]);
  table.note_writes(true);
}

template <class Backend>
void reperturb(at::TensorList params, at::TensorList masters, at::TensorList records, at::TensorList targets,
               at::IntArrayRef offsets, at::IntArrayRef run_lengths, at::IntArrayRef run_strides) {
  // No rule reads the gradient; the parameters stand in for it.
  TensorTable table(params, params, masters, records, offsets, Backend::reader);
  table.set_targets(targets);
  table.set_runs(run_lengths, run_strides);
  table.finish();
  if (params.empty()) return;
  Backend::reperturb(table, params[0]);
  table.note_writes(false);
}

}  // namespace nvrm
