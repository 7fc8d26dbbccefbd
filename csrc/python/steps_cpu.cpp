// step_, reperturb_ and measure_ on the CPU: one parallel region over the whole parameter list.
#include "../cpu/select.h"
#include "parallel.h"
#include "steps.h"

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

void step(TensorTable& table, int rule, Device) {
  if (table.is_skipped()) return;
  table.start_measuring(false);
  for_superblocks(table, [&](const CpuKernels& kernels, const StepPlan& plan, int64_t begin, int64_t end) {
    kernels.step(rule, plan, begin, end);
  });
  table.finish_measuring(true, false);
  table.write_records();
}

void reperturb(TensorTable& table, Device) {
  for_superblocks(table, [](const CpuKernels& kernels, const StepPlan& plan, int64_t begin, int64_t end) {
    kernels.reperturb(plan, begin, end);
  });
  table.write_records();
}

void measure(TensorTable& table, bool only_clean, Device) {
  table.start_measuring(only_clean);
  for_superblocks(table, [&](const CpuKernels& kernels, const StepPlan& plan, int64_t begin, int64_t end) {
    kernels.measure(plan, only_clean, begin, end);
  });
  table.finish_measuring(false, only_clean);
}

}  // namespace

StepBackend steps_on_cpu() { return {ReadBy::host, &step, &reperturb, &measure}; }

}  // namespace nvrm
