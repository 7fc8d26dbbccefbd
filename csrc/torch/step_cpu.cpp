// nvrm_fast::sgd_step_, adam_step_ and change_coat_ on the CPU: one parallel region over the whole parameter list.
#include <torch/library.h>

#include "../cpu/select.h"
#include "parallel.h"
#include "step_operators.h"

namespace nvrm {
namespace {

template <class Kernel>
void run(const TensorTable& table, Kernel kernel) {
  const StepPlan plan = table.plan();
  parallel_for(0, table.superblock_count(), superblocks_per_task,
               [&](int64_t begin, int64_t end) { kernel(plan, begin, end); });
}

struct Cpu {
  static constexpr StepCounters counters = StepCounters::on_host;

  static void sgd(const TensorTable& table, const at::Tensor&, const SgdHyper<double>& hyper, bool with_momentum) {
    if (table.is_skipped()) return;
    const CpuKernels& kernels = cpu_kernels();
    run(table,
        [&](const StepPlan& plan, int64_t begin, int64_t end) { kernels.sgd(plan, hyper, with_momentum, begin, end); });
    table.count_steps();
  }

  static void adam(const TensorTable& table, const at::Tensor&, const AdamHyper<double>& hyper, bool amsgrad, double) {
    if (table.is_skipped()) return;
    const CpuKernels& kernels = cpu_kernels();
    run(table,
        [&](const StepPlan& plan, int64_t begin, int64_t end) { kernels.adam(plan, hyper, amsgrad, begin, end); });
    table.count_steps();
  }

  static void change_coat(const TensorTable& table, const at::Tensor&) {
    const CpuKernels& kernels = cpu_kernels();
    run(table, [&](const StepPlan& plan, int64_t begin, int64_t end) { kernels.change_coat(plan, begin, end); });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CPU, m) {
  m.impl("sgd_step_", &sgd_step<Cpu>);
  m.impl("adam_step_", &adam_step<Cpu>);
  m.impl("change_coat_", &change_coat<Cpu>);
}

}  // namespace nvrm
