// The operators' argument lists and what every device makes of them, once. A backend says where its step counters lie
// (`counters`) and runs a finished table: sgd, adam, change_coat.
#pragma once

#include "rule.h"
#include "table.h"

namespace nvrm {

template <class Backend>
void sgd_step(at::TensorList params, at::TensorList grads, at::TensorList momentum_buffers, at::TensorList masters,
              at::TensorList steps, at::IntArrayRef streams, at::IntArrayRef offsets, at::ArrayRef<double> scales,
              int64_t seed, int64_t distribution, at::ArrayRef<double> coat_scales, int64_t coat_seed,
              int64_t coat_distribution, bool keep_noise, const c10::List<bool>& is_first, double lr, double momentum,
              double dampening, double weight_decay, bool nesterov, bool maximize,
              const std::optional<at::Tensor>& grad_scale, const std::optional<at::Tensor>& found_inf,
              at::IntArrayRef run_lengths, at::IntArrayRef run_strides) {
  const bool with_momentum = momentum != 0;
  TORCH_CHECK_VALUE(is_first.size() == params.size(), "is_first needs one value for each of params");
  TensorTable table(params, grads, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, keep_noise},
                    Backend::counters);
  if (with_momentum) table.add_state("momentum_buffers", momentum_buffers);
  table.set_scaling({grad_scale, found_inf});
  table.set_runs(run_lengths, run_strides);
  table.finish([&](TensorEntry& entry, size_t i, int64_t) { entry.is_first = is_first[i]; });
  if (params.empty()) return;
  const SgdHyper<double> hyper{lr, momentum, 1 - dampening, weight_decay, nesterov, maximize};
  Backend::sgd(table, params[0], hyper, with_momentum);
  table.note_writes(true);
}

template <class Backend>
void adam_step(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs, at::TensorList exp_avg_sqs,
               at::TensorList max_exp_avg_sqs, at::TensorList masters, at::TensorList steps, at::IntArrayRef streams,
               at::IntArrayRef offsets, at::ArrayRef<double> scales, int64_t seed, int64_t distribution,
               at::ArrayRef<double> coat_scales, int64_t coat_seed, int64_t coat_distribution, bool keep_noise,
               double lr, double beta1, double beta2, double eps, double weight_decay, bool amsgrad,
               bool decoupled_weight_decay, bool maximize, const std::optional<at::Tensor>& grad_scale,
               const std::optional<at::Tensor>& found_inf, at::IntArrayRef run_lengths, at::IntArrayRef run_strides) {
  TORCH_CHECK_VALUE(beta1 >= 0 && beta1 < 1, "beta1 must be in [0, 1), got ", beta1);
  TORCH_CHECK_VALUE(beta2 >= 0 && beta2 < 1, "beta2 must be in [0, 1), got ", beta2);
  TensorTable table(params, grads, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, keep_noise},
                    Backend::counters);
  table.add_state("exp_avgs", exp_avgs);
  table.add_state("exp_avg_sqs", exp_avg_sqs);
  if (amsgrad) table.add_state("max_exp_avg_sqs", max_exp_avg_sqs);
  table.set_scaling({grad_scale, found_inf});
  table.set_runs(run_lengths, run_strides);

  // Tensors nearly always share their step: remember the last one's corrections. Where the device counts (step 0 here)
  // it works them out itself.
  int64_t known_step = 0;
  AdamScalars scalars{};
  table.finish([&](TensorEntry& entry, size_t, int64_t step) {
    if (step != known_step) {
      scalars = adam_scalars({lr, beta1, beta2}, step);
      known_step = step;
    }
    entry.step_size = scalars.step_size;
    entry.root_scale = scalars.root_scale;
  });
  if (params.empty()) return;
  const AdamHyper<double> hyper = adam_hyper(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize);
  Backend::adam(table, params[0], hyper, amsgrad, lr);
  table.note_writes(true);
}

template <class Backend>
void change_coat(at::TensorList params, at::TensorList masters, at::TensorList steps, at::IntArrayRef streams,
                 at::IntArrayRef offsets, at::ArrayRef<double> scales, int64_t seed, int64_t distribution,
                 at::ArrayRef<double> coat_scales, int64_t coat_seed, int64_t coat_distribution,
                 at::IntArrayRef run_lengths, at::IntArrayRef run_strides) {
  // No rule reads the gradient; the parameters stand in for it.
  TensorTable table(params, params, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, false}, Backend::counters,
                    StepCount::stays);
  table.set_runs(run_lengths, run_strides);
  table.finish([](TensorEntry&, size_t, int64_t) {});
  if (params.empty()) return;
  Backend::change_coat(table, params[0]);
  table.note_writes(false);
}

}  // namespace nvrm
