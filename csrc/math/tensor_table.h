// The tensor table: what one fused step is told about each parameter. Plain data, no Python in sight, shared by every
// kernel; the host (python/tensor_table_builder.cpp) fills it after all checks.
#pragma once

#include "measure.h"
#include "record.h"
#include "storage.h"
#include "update_rule.h"

namespace nvrm {

constexpr int max_dims = 8;
constexpr int operand_count = 3 + max_states;  // parameter, gradient, master, states

// Strides, in elements, of tensors that are not all contiguous in row-major order.
struct Layout {
  int dims;
  int64_t sizes[max_dims];
  int64_t strides[operand_count][max_dims];
};

enum Operand { parameter_operand = 0, gradient_operand = 1, master_operand = 2, state_operand = 3 };

struct TensorEntry {
  // Indexed by Operand. master is null in place; states that the rule has not got are null.
  void* data[operand_count];
  int64_t numel;
  int64_t offset;        // global row-major index of the first element (a shard's place in its tensor)
  const Layout* layout;  // null when everything is contiguous
  RecordPlace place;
  MeasurePlace measure;
};

// The scales of the noise to take off and of the noise to put on.
NVRM_INLINE ScaleOf old_scale(const NoiseDraw& draw, const RecordPlace& at, const MeasurePlace& measure) {
  return noise_scale(draw.scale, is_relative(at.record) ? measure.on() : nullptr, measure);
}
NVRM_INLINE ScaleOf new_scale(const NoiseDraw& draw, const RecordPlace& at, const MeasurePlace& measure,
                              const NewNoise& noise) {
  const float* line = nullptr;
  if (at.target != nullptr) {
    if (is_relative(at.target)) line = measure.on();
  } else if (noise.measure != 0) {
    line = measure.clean();
  }
  return noise_scale(draw.scale, line, measure);
}

struct StepPlan {
  const TensorEntry* entries;
  const int64_t* first_superblock;  // running count of superblocks before each entry, one more than entries
  int64_t entry_count;
  ScalarKind kind;
  bool has_master;
  bool has_measures;       // every entry has a MeasurePlace that is not null
  bool stream_parameters;  // with masters: parameters are written past the caches
  NewNoise noise;
  int hyper_count;
  const double* hyper;         // the rule's, raw; on the host
  const double* hyper_tensor;  // the same in the parameters' memory, read instead of them; may be null
  // What torch.amp.GradScaler found, in the parameters' memory; each may be null.
  const float* grad_scale;  // the gradients are divided by it
  const float* found_inf;   // not 0: the step is skipped (the CPU's host asks before it starts)
};

}  // namespace nvrm
