// nvrm_fast::sgd_step_, adam_step_ and change_coat_ on CUDA devices: one launch for a whole parameter list, or as few
// as the argument table needs, and a small one that counts. Nothing here waits for the device.
#include <torch/library.h>

#include <memory>

#include "../cuda/kernels.h"
#include "../cuda/launch.h"
#include "../cuda/launch_plan.h"
#include "table.h"

namespace nvrm {
namespace {

// launch(table, plan, stream) starts the kernel of one launch.
template <class Launch>
void run(const TensorTable& table, at::TensorList params, const ListOptions& options, Launch launch) {
  const LaunchPlace place(params[0]);
  const StepPlan plan = table.plan();
  const std::vector<int64_t*> counters = table.counters();
  // Too large for a stack that may be a small thread's.
  const auto launch_table = std::make_unique<LaunchTable>();
  for (int64_t next = 0; next < plan.entry_count;) {
    next = fill_table(plan, counters.data(), options, next, *launch_table);
    C10_CUDA_CHECK(launch(*launch_table, plan, place.stream()));
  }
  if (!options.draws_next) return;
  // After every launch of the step: parameters in different launches may share a counter.
  for (size_t next = 0; next < counters.size(); next += counters_per_launch) {
    CounterTable count{};
    count.found_inf = options.found_inf;
    count.count = static_cast<int>(std::min<size_t>(counters_per_launch, counters.size() - next));
    std::copy_n(counters.data() + next, count.count, count.counter);
    C10_CUDA_CHECK(launch_count(count, place.stream()));
  }
}

void sgd_step_cuda(at::TensorList params, at::TensorList grads, at::TensorList momentum_buffers,
                   at::TensorList masters, at::TensorList steps, at::IntArrayRef streams, at::IntArrayRef offsets,
                   at::ArrayRef<double> scales, int64_t seed, int64_t distribution, at::ArrayRef<double> coat_scales,
                   int64_t coat_seed, int64_t coat_distribution, bool keep_noise, const c10::List<bool>& is_first,
                   double lr, double momentum, double dampening, double weight_decay, bool nesterov, bool maximize) {
  const bool with_momentum = momentum != 0;
  TORCH_CHECK_VALUE(is_first.size() == params.size(), "is_first needs one value for each of params");
  TensorTable table(params, grads, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, keep_noise},
                    StepCounters::on_device);
  if (with_momentum) table.add_state("momentum_buffers", momentum_buffers);
  table.finish([&](TensorEntry& entry, size_t i, int64_t) { entry.is_first = is_first[i]; });
  if (params.empty()) return;
  const SgdHyper<double> hyper{lr, momentum, 1 - dampening, weight_decay, nesterov, maximize};
  run(table, params, {{}, nullptr, nullptr, true}, [&](const LaunchTable& one, const StepPlan& plan, auto stream) {
    return launch_sgd(one, plan.kind, plan.has_master, hyper, with_momentum, stream);
  });
}

void adam_step_cuda(at::TensorList params, at::TensorList grads, at::TensorList exp_avgs, at::TensorList exp_avg_sqs,
                    at::TensorList max_exp_avg_sqs, at::TensorList masters, at::TensorList steps,
                    at::IntArrayRef streams, at::IntArrayRef offsets, at::ArrayRef<double> scales, int64_t seed,
                    int64_t distribution, at::ArrayRef<double> coat_scales, int64_t coat_seed,
                    int64_t coat_distribution, bool keep_noise, double lr, double beta1, double beta2, double eps,
                    double weight_decay, bool amsgrad, bool decoupled_weight_decay, bool maximize) {
  TensorTable table(params, grads, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, keep_noise},
                    StepCounters::on_device);
  table.add_state("exp_avgs", exp_avgs);
  table.add_state("exp_avg_sqs", exp_avg_sqs);
  if (amsgrad) table.add_state("max_exp_avg_sqs", max_exp_avg_sqs);
  table.finish([](TensorEntry&, size_t, int64_t) {});
  if (params.empty()) return;
  const AdamHyper<double> hyper =
      adam_hyper(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize);
  run(table, params, {{lr, beta1, beta2}, nullptr, nullptr, true},
      [&](const LaunchTable& one, const StepPlan& plan, auto stream) {
        return launch_adam(one, plan.kind, plan.has_master, hyper, amsgrad, stream);
      });
}

void change_coat_cuda(at::TensorList params, at::TensorList masters, at::TensorList steps, at::IntArrayRef streams,
                      at::IntArrayRef offsets, at::ArrayRef<double> scales, int64_t seed, int64_t distribution,
                      at::ArrayRef<double> coat_scales, int64_t coat_seed, int64_t coat_distribution) {
  // No rule reads the gradient; the parameters stand in for it.
  TensorTable table(params, params, masters, steps, streams, offsets,
                    {seed, distribution, coat_seed, coat_distribution, scales, coat_scales, false},
                    StepCounters::on_device, StepCount::stays);
  table.finish([](TensorEntry&, size_t, int64_t) {});
  if (params.empty()) return;
  run(table, params, {{}, nullptr, nullptr, false}, [](const LaunchTable& one, const StepPlan& plan, auto stream) {
    return launch_change_coat(one, plan.kind, plan.has_master, stream);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CUDA, m) {
  m.impl("sgd_step_", &sgd_step_cuda);
  m.impl("adam_step_", &adam_step_cuda);
  m.impl("change_coat_", &change_coat_cuda);
}

}  // namespace nvrm
