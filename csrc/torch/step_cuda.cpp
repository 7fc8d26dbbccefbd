// nvrm_fast::step_ and reperturb_ on CUDA devices: one launch for a whole parameter list, or as few as the argument
// table needs, and a small one that writes the records. Nothing here waits for the device.
#include <torch/library.h>

#include <memory>

#include "../cuda/launch_plan.h"
#include "../cuda/launches.h"
#include "launch_place.h"
#include "step_operators.h"

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

struct Cuda {
  static constexpr ReadBy reader = ReadBy::device;
  static constexpr bool takes_measures = false;

  static void step(const TensorTable& table, int rule, const at::Tensor& param) {
    const LaunchPlace place(param);
    const StepPlan plan = table.plan();
    // Too large for a stack that may be a small thread's.
    const auto launch_table = std::make_unique<LaunchTable>();
    for (int64_t next = 0; next < plan.entry_count;) {
      next = fill_table(plan, next, *launch_table);
      C10_CUDA_CHECK(launch_step(rule, plan.kind, *launch_table, plan.has_master, place.stream()));
    }
    for_each_record_table(table.places(), plan, [&](const RecordTable& records, bool writes_records, bool counts) {
      C10_CUDA_CHECK(launch_records(records, writes_records, counts, place.stream()));
    });
  }

  static void reperturb(const TensorTable& table, const at::Tensor& param) { step(table, no_rule, param); }
};

}  // namespace

std::unique_ptr<CheckedStep> check_cuda_step(const StepArguments& arguments) {
  return std::make_unique<CheckedStepOn<Cuda>>(arguments);
}

TORCH_LIBRARY_IMPL(nvrm_fast, CUDA, m) {
  m.impl("step_", &step<Cuda>);
  m.impl("reperturb_", &reperturb<Cuda>);
}

}  // namespace nvrm
