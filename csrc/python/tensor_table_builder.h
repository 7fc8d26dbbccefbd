// From lists of tensors to the tensor table of a step, with every check before the first write.
#pragma once

#include <deque>
#include <vector>

#include "../math/tensor_table.h"
#include "noise_arguments.h"
#include "tensor.h"

namespace nvrm {

// What torch.amp.GradScaler found, or nothing.
struct GradientScaling {
  const Tensor& grad_scale;
  const Tensor& found_inf;
};

// Who reads records and step counters: the host, where the operands lie in its memory (and then it checks what the
// records say), or the kernels, from the device, so that a captured graph goes on by itself.
enum class ReadBy { host, device };

class TensorTable {
 public:
  // Every function that takes arguments raises ValueError or TypeError that names the argument and its position;
  // nothing has been written then.
  TensorTable(Tensors params, Tensors grads, Tensors masters, Tensors records, Integers offsets, ReadBy reader);

  // The states of a rule with so many: all parameters' first one, then all second ones.
  void set_states(int count, Tensors states);

  // A step: its counters and the noise to put on. scale_tensors: none, or one for each parameter.
  void set_step(Tensors steps, const NewNoise& noise, Tensors scale_tensors);

  // hyper must outlive the table.
  void set_hyper(const RuleFacts& rule, Numbers hyper, const Tensor& hyper_tensor);

  // No step: the records of the noise to put on.
  void set_targets(Tensors targets);

  void set_scaling(const GradientScaling& scaling);

  // Shards that lie in their full tensors in runs of so many elements, so far apart; a length of 0: in one piece. Empty
  // lists: all of them in one piece.
  void set_runs(Integers lengths, Integers strides);

  // After set_runs: the parameters' measures, and what a step or a measuring is to leave of them (0: nothing). sums:
  // none, or a tensor for each parameter, where its sums are left instead of the finished measures.
  void set_measures(Tensors measures, Integers row_lengths, int64_t measure, Tensors sums);

  // After everything was set: lays the table out.
  void finish();

  StepPlan plan() const;
  int64_t superblock_count() const { return first_superblock_.back(); }

  // Each parameter's, where plan().entries has each run's.
  const std::vector<RecordPlace>& places() const { return places_; }

  // On the device: each parameter's sums, and where they go when everything is summed up.
  std::vector<FinishPlace> finishes() const;

  // On the host: whether there is nothing to do, because gradients were infinite.
  bool is_skipped() const { return found_inf_ != nullptr && *found_inf_ != 0; }

  // On the host, before and after the clean weights are summed up. moves: the line of the clean weights becomes that of
  // the noise that is on. only_clean: parameters that carry noise are left out.
  void start_measuring(bool only_clean);
  void finish_measuring(bool moves, bool only_clean) const;

  // On the host, the last thing that an operator does: what the weights carry now, and the step counters.
  void write_records() const;

 private:
  bool is_measured(size_t i, bool only_clean) const;
  void set_layout(size_t i);
  void split_into_runs();
  void place_sums();

  Tensors params_;
  Tensors records_;
  Tensors operands_[operand_count];
  ReadBy reader_;
  ElementType dtype_ = ElementType::float32;
  ElementType state_dtype_ = ElementType::float32;
  NewNoise noise_{};
  Numbers hyper_;
  const double* hyper_tensor_ = nullptr;
  const float* grad_scale_ = nullptr;
  const float* found_inf_ = nullptr;
  Integers run_lengths_;
  Integers run_strides_;
  Tensors targets_;
  Tensors measures_;
  Tensors sums_;
  std::vector<RecordPlace> places_;
  std::vector<MeasurePlace> measure_places_;
  std::vector<int64_t> host_sums_;
  pybind11::object device_sums_;      // a tensor of torch
  std::vector<TensorEntry> entries_;  // a parameter's one, or one for each of its runs
  std::vector<int64_t> first_superblock_ = {0};
  std::deque<Layout> layouts_;  // a deque, so that entries may point into it while it grows
};

}  // namespace nvrm
