// step_, reperturb_ and measure_ (nvrm_fast/contract/arguments.py): their arguments, and what every device makes of
// them.
#pragma once

#include "fields.h"
#include "tensor_table_builder.h"

namespace nvrm {

struct StepArguments {
  static constexpr Py_ssize_t field_count = 25;
  explicit StepArguments(Fields& f);  // in the order of the members

  int64_t rule;
  Tensors params, grads, states, masters, steps, records;
  Numbers hyper;
  Integers offsets;
  double scale;
  int64_t seed, distribution;
  bool keep_noise;
  Tensors scale_tensors, measures, sums;
  Integers row_lengths;
  int64_t measure, denoise_every;
  bool cycle;
  const Tensor &hyper_tensor, &grad_scale, &found_inf;
  Integers run_lengths, run_strides;
};

struct ReperturbArguments {
  static constexpr Py_ssize_t field_count = 9;
  explicit ReperturbArguments(Fields& f);

  Tensors params, masters, records, targets;
  Integers offsets;
  Tensors measures;
  Integers row_lengths, run_lengths, run_strides;
};

struct MeasureArguments {
  static constexpr Py_ssize_t field_count = 11;
  explicit MeasureArguments(Fields& f);

  Tensors params, masters, records;
  Integers offsets;
  Tensors measures, sums;
  Integers row_lengths;
  int64_t measure;
  bool only_clean;
  Integers run_lengths, run_strides;
};

// How a device runs a finished table; nothing here refuses anything or needs anything of Python's.
struct StepBackend {
  ReadBy reader;
  void (*step)(TensorTable& table, int rule, Device device);
  void (*reperturb)(TensorTable& table, Device device);
  void (*measure)(TensorTable& table, bool only_clean, Device device);
};

StepBackend steps_on_cpu();
StepBackend steps_on_cuda();

// What Python calls; see nvrm_fast/ops/native.py. calls: tuples of StepArguments, all of them checked before the first
// one writes. around: None, or a function of nothing that makes a context manager, in which each of them is run.
// Returns a number for each that tells (nearly always) whether its parameters lie where they lay before.
std::vector<int64_t> steps_from_python(const pybind11::list& calls, const pybind11::object& around);
void reperturb_from_python(const pybind11::tuple& call);
void measure_from_python(const pybind11::tuple& call);

}  // namespace nvrm
