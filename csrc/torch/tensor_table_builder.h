// From lists of tensors to the tensor table of step.h, with every check before the first write.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "noise_arguments.h"
#include "../math/tensor_table.h"

namespace nvrm {

// What is drawn in this step (scales) and what the parameters wear from the last one (coat_*).
struct NoiseArguments {
  int64_t seed;
  int64_t distribution;
  int64_t coat_seed;
  int64_t coat_distribution;
  at::ArrayRef<double> scales;
  at::ArrayRef<double> coat_scales;
  bool keep_noise;
};

// What torch.amp.GradScaler found, or nothing.
struct GradientScaling {
  const std::optional<at::Tensor>& grad_scale;
  const std::optional<at::Tensor>& found_inf;
};

// Where the operands lie. On the CPU the table reads the step counters; elsewhere the kernel does, from the device, so
// that a captured graph counts on, and entries' keys have step 0.
enum class StepCounters { on_host, on_device };

// Whether the new coat is drawn at the next step, or at the one that the counters show.
enum class StepCount { advances, stays };

class TensorTable {
 public:
  // Raises ValueError or TypeError that names the argument and its position; nothing has been written then.
  TensorTable(at::TensorList params, at::TensorList grads, at::TensorList masters, at::TensorList steps,
              at::IntArrayRef streams, at::IntArrayRef offsets, NoiseArguments noise, StepCounters counters,
              StepCount count = StepCount::advances);

  // The rule's next state tensor of every parameter.
  void add_state(const char* name, at::TensorList states);

  void set_scaling(const GradientScaling& scaling);

  // Shards that lie in their full tensors in runs of so many elements, so far apart; a length of 0: in one piece. Empty
  // lists: all of them in one piece.
  void set_runs(at::IntArrayRef lengths, at::IntArrayRef strides);

  // After the last state: lays the table out. fill(entry, position, step) sets what depends on the rule; step counts
  // this one, from 1 (on the device: 0, not known here).
  void finish(const std::function<void(TensorEntry&, size_t, int64_t)>& fill);

  StepPlan plan() const;
  int64_t superblock_count() const { return first_superblock_.back(); }

  // The parameters' counters, on the device, and each entry's.
  std::vector<int64_t*> counters() const;
  std::vector<int64_t*> counters_of_entries() const;

  // On the host: whether there is nothing to do, because gradients were infinite.
  bool is_skipped() const { return found_inf_ != nullptr && *found_inf_ != 0; }

  // Tells autograd that parameters, states and, if so, masters were written: whoever saved one of them for a backward
  // pass must hear of it.
  void note_writes(bool with_masters) const;

  // Adds 1 to every step counter on the host: the last thing that a step does.
  void count_steps() const;

 private:
  void set_layout(size_t i);
  void split_into_runs();
  int64_t step_of(size_t i) const;

  at::TensorList params_;
  at::TensorList steps_;
  at::TensorList operands_[operand_count];
  NoiseArguments noise_;
  StepCounters counters_;
  at::ScalarType dtype_ = at::kFloat;
  at::ScalarType state_dtype_ = at::kFloat;
  int states_ = 0;
  const float* grad_scale_ = nullptr;
  const float* found_inf_ = nullptr;
  at::IntArrayRef run_lengths_;
  at::IntArrayRef run_strides_;
  std::vector<TensorEntry> entries_;  // a parameter's one, or one for each of its runs
  std::vector<size_t> owners_;        // the entry's position in params
  std::vector<int64_t> first_superblock_ = {0};
  std::deque<Layout> layouts_;  // a deque, so that entries may point into it while it grows
};

}  // namespace nvrm
