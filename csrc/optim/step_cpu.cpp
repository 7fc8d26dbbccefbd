// nvrm_fast::sgd_step_, adam_step_ and change_coat_ on the CPU: one parallel region over the whole parameter list.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../cpu/select.h"
#include "table.h"

namespace nvrm {
namespace {

template <class Kernel>
void run(const TensorTable& table, Kernel kernel) {
  const StepPlan plan = table.plan();
  at::parallel_for(0, table.superblock_count(), superblocks_per_task,
                   [&](int64_t begin, int64_t end) { kernel(plan, begin, end); });
}

void sgd_step_cpu(at::TensorList params, at::TensorList grads, at::TensorList momentum_buffers,
                  at::TensorList masters, at::TensorList steps, at::IntArrayRef streams, at::IntArrayRef offsets,
                  at::ArrayRef<double> scales, int64_t seed, int64_t distribution, at::ArrayRef<double> coat_scales,
                  int64_t coat_seed, int64_t coat_distribution, bool keep_noise, const c10::List<bool>& is_first,
                  double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize) {
  const bool with_momentum = momentum != 0;
  TORCH_CHECK_VALUE(is_first.size() == params.size(), "is_first needs one value for each of params");
  TensorTable table(params, grads, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, keep_noise},
                    StepCounters::on_host);
  if (with_momentum) table.add_state("momentum_buffers", momentum_buffers);
  table.finish([&](TensorEntry& entry, size_t i, int64_t) { entry.is_first = is_first[i]; });
  const SgdHyper<double> hyper{lr, momentum, 1 - dampening, weight_decay, nesterov, maximize};
  const CpuKernels& kernels = cpu_kernels();
  run(table, [&](const StepPlan& plan, int64_t begin, int64_t end) {
    kernels.sgd(plan, hyper, with_momentum, begin, end);
  });
  table.count_steps();
}

void adam_step_cpu(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs, at::TensorList exp_avg_sqs,
                   at::TensorList max_exp_avg_sqs, at::TensorList masters, at::TensorList steps,
                   at::IntArrayRef streams, at::IntArrayRef offsets, at::ArrayRef<double> scales, int64_t seed,
                   int64_t distribution, at::ArrayRef<double> coat_scales, int64_t coat_seed,
                   int64_t coat_distribution, bool keep_noise, double lr, double beta1, double beta2, double eps,
                   double weight_decay, bool amsgrad, bool decoupled_weight_decay, bool maximize) {
  TensorTable table(params, grads, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, keep_noise},
                    StepCounters::on_host);
  table.add_state("exp_avgs", exp_avgs);
  table.add_state("exp_avg_sqs", exp_avg_sqs);
  if (amsgrad) table.add_state("max_exp_avg_sqs", max_exp_avg_sqs);

  // Tensors nearly always share their step: remember the last one's corrections.
  int64_t known_step = -1;
  double step_size = 0, root_scale = 0;
  table.finish([&](TensorEntry& entry, size_t, int64_t step) {
    if (step != known_step) {
      step_size = lr / (1 - std::pow(beta1, static_cast<double>(step)));
      root_scale = 1 / std::sqrt(1 - std::pow(beta2, static_cast<double>(step)));
      known_step = step;
    }
    entry.step_size = step_size;
    entry.root_scale = root_scale;
  });
  const AdamHyper<double> hyper =
      adam_hyper(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize);
  const CpuKernels& kernels = cpu_kernels();
  run(table,
      [&](const StepPlan& plan, int64_t begin, int64_t end) { kernels.adam(plan, hyper, amsgrad, begin, end); });
  table.count_steps();
}

void change_coat_cpu(at::TensorList params, at::TensorList masters, at::TensorList steps, at::IntArrayRef streams,
                     at::IntArrayRef offsets, at::ArrayRef<double> scales, int64_t seed, int64_t distribution,
                     at::ArrayRef<double> coat_scales, int64_t coat_seed, int64_t coat_distribution) {
  // No rule reads the gradient; the parameters stand in for it.
  TensorTable table(params, params, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, false},
                    StepCounters::on_host, StepCount::stays);
  table.finish([](TensorEntry&, size_t, int64_t) {});
  const CpuKernels& kernels = cpu_kernels();
  run(table, [&](const StepPlan& plan, int64_t begin, int64_t end) { kernels.change_coat(plan, begin, end); });
}

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CPU, m) {
  m.impl("sgd_step_", &sgd_step_cpu);
  m.impl("adam_step_", &adam_step_cpu);
  m.impl("change_coat_", &change_coat_cpu);
}

}  // namespace nvrm
