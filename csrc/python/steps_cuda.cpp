// step_, reperturb_ and measure_ on CUDA devices: one launch for a whole parameter list, or as few as the
// argument table needs, and small ones that finish the measures and write the records. Nothing here waits for the
// device.
#include <memory>

#include "../cuda/launch_plan.h"
#include "../cuda/launches.h"
#include "launch_place.h"
#include "steps.h"

namespace nvrm {
namespace {

cudaError_t launch_step(int rule, ScalarKind kind, const LaunchTable& table, bool has_master, cudaStream_t stream) {
  switch (kind) {
    case ScalarKind::float32:
      return launch_float32_step(rule, table, has_master, stream);
    case ScalarKind::float64:
      return launch_float64_step(rule, table, has_master, stream);
    case ScalarKind::bfloat16:
      return launch_bfloat16_step(rule, table, has_master, stream);
    case ScalarKind::float16:
      return launch_float16_step(rule, table, has_master, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_relative_step(int rule, ScalarKind kind, const LaunchTable& table, bool has_master,
                                 cudaStream_t stream) {
  switch (kind) {
    case ScalarKind::float32:
      return launch_relative_float32_step(rule, table, has_master, stream);
    case ScalarKind::float64:
      return launch_relative_float64_step(rule, table, has_master, stream);
    case ScalarKind::bfloat16:
      return launch_relative_bfloat16_step(rule, table, has_master, stream);
    case ScalarKind::float16:
      return launch_relative_float16_step(rule, table, has_master, stream);
  }
  return cudaErrorInvalidValue;
}

// Goes through the elements; records, counters and measures stay.
void launch(const StepPlan& plan, int rule, bool only_clean, cudaStream_t stream) {
  // Too large for a stack that may be a small thread's.
  const auto table = std::make_unique<LaunchTable>();
  for (int64_t next = 0; next < plan.entry_count;) {
    next = fill_table(plan, next, *table);
    table->header.only_clean = only_clean;
    const auto launch_one = plan.has_measures ? launch_relative_step : launch_step;
    NVRM_CUDA_CHECK(launch_one(rule, plan.kind, *table, plan.has_master, stream));
  }
}

void finish(const TensorTable& table, const StepPlan& plan, bool moves, bool only_clean, cudaStream_t stream) {
  for_each_finish_table(table.finishes(), plan, moves, only_clean,
                        [&](const FinishTable& finish) { NVRM_CUDA_CHECK(launch_finish(finish, stream)); });
}

void step(TensorTable& table, int rule, Device device) {
  const LaunchPlace place(device);
  const StepPlan plan = table.plan();
  launch(plan, rule, false, place.stream());
  if (plan.noise.measure != 0) finish(table, plan, true, false, place.stream());
  for_each_record_table(table.places(), plan, [&](const RecordTable& records, bool writes_records, bool counts) {
    NVRM_CUDA_CHECK(launch_records(records, writes_records, counts, place.stream()));
  });
}

void reperturb(TensorTable& table, Device device) { step(table, no_rule, device); }

void measure(TensorTable& table, bool only_clean, Device device) {
  const LaunchPlace place(device);
  const StepPlan plan = table.plan();
  launch(plan, only_measure, only_clean, place.stream());
  finish(table, plan, false, only_clean, place.stream());
}

}  // namespace

StepBackend steps_on_cuda() { return {ReadBy::device, &step, &reperturb, &measure}; }

}  // namespace nvrm
