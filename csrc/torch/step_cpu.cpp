// nvrm_fast::step_, reperturb_ and measure_ on the CPU: one parallel region over the whole parameter list.
#include <torch/library.h>

#include "../cpu/select.h"
#include "parallel.h"
#include "step_operators.h"

namespace nvrm {
namespace {

// run(kernels, plan, begin, end) on all superblocks, by torch's threads.
template <class Run>
void for_superblocks(const TensorTable& table, const Run& run) {
  const StepPlan plan = table.plan();
  const CpuKernels& kernels = cpu_kernels();
  parallel_for(0, table.superblock_count(), superblocks_per_task,
               [&](int64_t begin, int64_t end) { run(kernels, plan, begin, end); });
}

struct Cpu {
  static constexpr ReadBy reader = ReadBy::host;

  static void step(TensorTable& table, int rule, const at::Tensor&) {
    if (table.is_skipped()) return;
    table.start_measuring(false);
    for_superblocks(table, [&](const CpuKernels& kernels, const StepPlan& plan, int64_t begin, int64_t end) {
      kernels.step(rule, plan, begin, end);
    });
    table.finish_measuring(true, false);
    table.write_records();
  }

  static void reperturb(const TensorTable& table, const at::Tensor&) {
    for_superblocks(table, [](const CpuKernels& kernels, const StepPlan& plan, int64_t begin, int64_t end) {
      kernels.reperturb(plan, begin, end);
    });
    table.write_records();
  }

  static void measure(TensorTable& table, bool only_clean, const at::Tensor&) {
    table.start_measuring(only_clean);
    for_superblocks(table, [&](const CpuKernels& kernels, const StepPlan& plan, int64_t begin, int64_t end) {
      kernels.measure(plan, only_clean, begin, end);
    });
    table.finish_measuring(false, only_clean);
  }
};

}  // namespace

std::unique_ptr<CheckedStep> check_cpu_step(const StepArguments& arguments) {
  return std::make_unique<CheckedStepOn<Cpu>>(arguments);
}

TORCH_LIBRARY_IMPL(nvrm_fast, CPU, m) {
  m.impl("step_", &step<Cpu>);
  m.impl("reperturb_", &reperturb<Cpu>);
  m.impl("measure_", &measure<Cpu>);
}

}  // namespace nvrm
