// nvrm_fast::sgd_step_, adam_step_ and change_coat_ on CUDA devices: one launch for a whole parameter list, or as few
// as the argument table needs, and a small one that counts. Nothing here waits for the device.
#include <torch/library.h>

#include <memory>

#include "../cuda/launches.h"
#include "launch_place.h"
#include "../cuda/launch_plan.h"
#include "step_operators.h"

namespace nvrm {
namespace {

// launch(table, plan, stream) starts the kernel of one launch.
template <class Launch>
void run(const TensorTable& table, const at::Tensor& param, const ListOptions& options, Launch launch) {
  const LaunchPlace place(param);
  const StepPlan plan = table.plan();
  const std::vector<int64_t*> entry_counters = table.counters_of_entries();
  // Too large for a stack that may be a small thread's.
  const auto launch_table = std::make_unique<LaunchTable>();
  for (int64_t next = 0; next < plan.entry_count;) {
    next = fill_table(plan, entry_counters.data(), options, next, *launch_table);
    C10_CUDA_CHECK(launch(*launch_table, plan, place.stream()));
  }
  if (!options.draws_next) return;
  // After every launch of the step: parameters in different launches may share a counter.
  const std::vector<int64_t*> counters = table.counters();
  for (size_t next = 0; next < counters.size(); next += counters_per_launch) {
    CounterTable count{};
    count.found_inf = plan.found_inf;
    count.count = static_cast<int>(std::min<size_t>(counters_per_launch, counters.size() - next));
    std::copy_n(counters.data() + next, count.count, count.counter);
    C10_CUDA_CHECK(launch_count(count, place.stream()));
  }
}

struct Cuda {
  static constexpr StepCounters counters = StepCounters::on_device;

  static void sgd(const TensorTable& table, const at::Tensor& param, const SgdHyper<double>& hyper,
                  bool with_momentum) {
    run(table, param, {{}, true}, [&](const LaunchTable& one, const StepPlan& plan, auto stream) {
      return launch_sgd(one, plan.kind, plan.has_master, hyper, with_momentum, stream);
    });
  }

  static void adam(const TensorTable& table, const at::Tensor& param, const AdamHyper<double>& hyper, bool amsgrad,
                   double lr) {
    run(table, param, {{lr, hyper.beta1, hyper.beta2}, true},
        [&](const LaunchTable& one, const StepPlan& plan, auto stream) {
          return launch_adam(one, plan.kind, plan.has_master, hyper, amsgrad, stream);
        });
  }

  static void change_coat(const TensorTable& table, const at::Tensor& param) {
    run(table, param, {{}, false}, [](const LaunchTable& one, const StepPlan& plan, auto stream) {
      return launch_change_coat(one, plan.kind, plan.has_master, stream);
    });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CUDA, m) {
  m.impl("sgd_step_", &sgd_step<Cuda>);
  m.impl("adam_step_", &adam_step<Cuda>);
  m.impl("change_coat_", &change_coat<Cuda>);
}

}  // namespace nvrm
