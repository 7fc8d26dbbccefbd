#include "tensor_table_builder.h"

#include <algorithm>

namespace nvrm {
namespace {

void check_length(size_t length, size_t expected, const char* name) {
  NVRM_CHECK_VALUE(length == expected, name, " needs one value for each of params: ", expected, ", got ", length);
}

void check_tensor(const Tensor& tensor, const Tensor& param, ElementType dtype, Device device, const char* name,
                  size_t i) {
  NVRM_CHECK_TYPE(tensor.is_strided(), name, "[", i,
                  "] must be dense; sparse gradients are not supported (use sparse=False in the embedding)");
  NVRM_CHECK_VALUE(tensor.device() == device, name, "[", i, "] must be on ", device, " like params[0], got ",
                   tensor.device());
  NVRM_CHECK_TYPE(tensor.type() == dtype, name, "[", i, "] must be ", dtype, ", got ", tensor.type());
  NVRM_CHECK_VALUE(tensor.sizes() == param.sizes(), name, "[", i, "] must have the parameter's shape ", param.sizes(),
                   ", got ", tensor.sizes());
}

void check_written(const Tensor& tensor, const char* name, size_t i) {
  NVRM_CHECK_VALUE(!tensor.is_expanded(), name, "[", i,
                   "] has elements that share memory (an expanded tensor): clone() it first");
}

void check_record(const Tensor& record, Device device, ReadBy reader, const char* name, size_t i) {
  NVRM_CHECK_TYPE(record.type() == ElementType::int64 && record.numel() == record_words, name, "[", i,
                  "] must be an int64 tensor with ", static_cast<int>(record_words), " elements");
  NVRM_CHECK_VALUE(record.device() == device, name, "[", i, "] must be on ", device, " like params[0], got ",
                   record.device());
  NVRM_CHECK_VALUE(record.is_contiguous(), name, "[", i, "] must be contiguous()");
  if (reader == ReadBy::device) return;
  const int64_t* words = record.data<int64_t>();
  noise_key(words[record_seed], words[record_stream], words[record_step]);
  check_distribution(words[record_distribution], "distribution");
  NVRM_CHECK_VALUE(words[record_turn] >= 0 && words[record_turn] < turn_count, "turn must be in [0, ", turn_count,
                   "), got ", words[record_turn]);
}

}  // namespace

TensorTable::TensorTable(Tensors params, Tensors grads, Tensors masters, Tensors records, Integers offsets,
                         ReadBy reader)
    : params_(params), records_(records), reader_(reader) {
  const size_t n = params.size();
  check_length(grads.size(), n, "grads");
  check_length(records.size(), n, "records");
  check_length(offsets.size(), n, "offsets");
  NVRM_CHECK_VALUE(masters.empty() || masters.size() == n,
                   "masters must be empty or hold one tensor for each of params");
  operands_[parameter_operand] = params;
  operands_[gradient_operand] = grads;
  operands_[master_operand] = masters;
  if (n == 0) return;

  const Device device = params[0].device();
  NVRM_CHECK_VALUE(device.is_cpu() == (reader == ReadBy::host), "params[0] must be on the ",
                   reader == ReadBy::host ? "CPU" : "GPU", ", got ", device);
  dtype_ = params[0].type();
  scalar_kind(dtype_, "params[0]");
  const ElementType math = dtype_ == ElementType::float64 ? ElementType::float64 : ElementType::float32;
  state_dtype_ = masters.empty() ? dtype_ : math;
  entries_.resize(n);
  places_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    check_tensor(params[i], params[i], dtype_, device, "params", i);
    check_written(params[i], "params", i);
    check_tensor(grads[i], params[i], dtype_, device, "grads", i);
    if (!masters.empty()) {
      check_tensor(masters[i], params[i], math, device, "masters", i);
      check_written(masters[i], "masters", i);
    }
    check_record(records[i], device, reader, "records", i);
    NVRM_CHECK_VALUE(offsets[i] >= 0, "offsets[", i, "] must not be negative, got ", offsets[i]);
    places_[i] = {records[i].data<int64_t>(), nullptr, nullptr, nullptr};
    entries_[i] = TensorEntry{};
    entries_[i].numel = params[i].numel();
    entries_[i].offset = offsets[i];
  }
}

void TensorTable::set_states(int count, Tensors states) {
  const size_t n = params_.size();
  NVRM_CHECK_VALUE(states.size() == n * static_cast<size_t>(count), "states needs ", count,
                   " values for each of params: ", n * static_cast<size_t>(count), ", got ", states.size());
  for (size_t i = 0; i < states.size(); ++i) {
    check_tensor(states[i], params_[i % n], state_dtype_, params_[0].device(), "states", i);
    check_written(states[i], "states", i);
  }
  for (size_t k = 0; k < static_cast<size_t>(count); ++k) operands_[state_operand + k] = states.subspan(k * n, n);
}

void TensorTable::set_step(Tensors steps, const NewNoise& noise, Tensors scale_tensors) {
  const size_t n = params_.size();
  check_length(steps.size(), n, "steps");
  NVRM_CHECK_VALUE(noise.denoise_every >= 0, "denoise_every must not be negative, got ", noise.denoise_every);
  NVRM_CHECK_VALUE(!(noise.cycle && noise.keep_noise),
                   "cycle must be False with keep_noise: noise that stays has to be drawn anew in every step");
  noise_ = noise;
  if (n == 0) return;
  const Device device = params_[0].device();
  bool scales_fit = scale_tensors.empty() || scale_tensors.size() == n;
  for (const Tensor& scale : scale_tensors) {
    scales_fit &= scale.is_float32_scalar() && scale.device() == device;
  }
  NVRM_CHECK_VALUE(scales_fit,
                   "scale_tensors must be empty or hold one float32 tensor with one element for each of params, on ",
                   "their device");
  for (size_t i = 0; i < n; ++i) {
    NVRM_CHECK_TYPE(steps[i].is_int64_scalar() && steps[i].device() == device, "steps[", i,
                    "] must be an int64 tensor with one element on ", device.is_cpu() ? "the CPU" : written(device));
    places_[i].step = steps[i].data<int64_t>();
    if (!scale_tensors.empty()) places_[i].scale = scale_tensors[i].data<float>();
  }
}

void TensorTable::set_hyper(const RuleFacts& rule, Numbers hyper, const Tensor& hyper_tensor) {
  NVRM_CHECK_VALUE(hyper.size() == static_cast<size_t>(rule.hyper_count), "hyper needs ", rule.hyper_count,
                   " values, got ", hyper.size());
  hyper_ = hyper;
  if (hyper_tensor.is_there() && !params_.empty()) {
    const Device device = params_[0].device();
    NVRM_CHECK_VALUE(hyper_tensor.type() == ElementType::float64 && hyper_tensor.numel() == rule.hyper_count &&
                         hyper_tensor.is_contiguous() && hyper_tensor.device() == device,
                     "hyper_tensor must be None or a float64 tensor with ", rule.hyper_count, " elements on ", device,
                     ", contiguous()");
    hyper_tensor_ = hyper_tensor.data<double>();
  }
  if (hyper_tensor_ != nullptr && reader_ == ReadBy::device) return;  // its values are not known here
  const Refusal refusal = rule.refused(hyper_tensor_ != nullptr ? hyper_tensor_ : hyper_.data());
  NVRM_CHECK_VALUE(refusal.reason == nullptr, refusal.reason, ", got ", refusal.value);
}

void TensorTable::set_targets(Tensors targets) {
  check_length(targets.size(), params_.size(), "targets");
  targets_ = targets;
  for (size_t i = 0; i < targets.size(); ++i) {
    check_record(targets[i], params_[0].device(), reader_, "targets", i);
    places_[i].target = targets[i].data<int64_t>();
  }
}

void TensorTable::set_scaling(const GradientScaling& scaling) {
  if (params_.empty()) return;
  const Device device = params_[0].device();
  const auto address_of = [&](const Tensor& scalar, const char* name) -> const float* {
    if (!scalar.is_there()) return nullptr;
    NVRM_CHECK_VALUE(scalar.is_float32_scalar() && scalar.device() == device, name,
                     " must be None or a float32 tensor with one element on ", device);
    return scalar.data<float>();
  };
  grad_scale_ = address_of(scaling.grad_scale, "grad_scale");
  found_inf_ = address_of(scaling.found_inf, "found_inf");
}

void TensorTable::set_runs(Integers lengths, Integers strides) {
  if (lengths.empty() && strides.empty()) return;
  check_length(lengths.size(), params_.size(), "run_lengths");
  check_length(strides.size(), params_.size(), "run_strides");
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] == 0) continue;
    NVRM_CHECK_VALUE(lengths[i] > 0 && strides[i] >= lengths[i] && params_[i].numel() % lengths[i] == 0, "run_lengths[",
                     i, "] must be 0 or divide the parameter's ", params_[i].numel(), " elements, and run_strides[", i,
                     "] be at least as long; got ", lengths[i], " and ", strides[i]);
  }
  run_lengths_ = lengths;
  run_strides_ = strides;
}

void TensorTable::set_measures(Tensors measures, Integers row_lengths, int64_t measure, Tensors sums) {
  const size_t n = params_.size();
  NVRM_CHECK_VALUE(measure >= 0 && measure < measure_count, "measure must be a code in [0, ",
                   static_cast<int>(measure_count), "), got ", measure);
  NVRM_CHECK_VALUE(measure == 0 || !noise_.keep_noise,
                   "measure must be 0 with keep_noise: noise that stays has no clean weights beside it");
  NVRM_CHECK_VALUE(measure == 0 || measures.size() == n || !measures.empty(),
                   "measures must hold one tensor for each of params where there is a measure to be taken");
  noise_.measure = static_cast<int>(measure);
  if (n == 0) return;
  if (measures.empty() && row_lengths.empty()) {
    if (reader_ == ReadBy::device) return;
    const auto refuse = [](Tensors records, const char* name) {
      for (size_t i = 0; i < records.size(); ++i) {
        NVRM_CHECK_VALUE(!is_relative(records[i].data<int64_t>()), name, "[", i,
                         "] tells of noise whose scale is relative: measures must hold its measures");
      }
    };
    refuse(records_, "records");
    refuse(targets_, "targets");
    return;
  }
  check_length(measures.size(), n, "measures");
  check_length(row_lengths.size(), n, "row_lengths");
  if (!sums.empty()) check_length(sums.size(), n, "sums");
  const Device device = params_[0].device();
  measure_places_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    const Tensor& x = measures[i];
    NVRM_CHECK_TYPE(x.type() == ElementType::float32 && x.dim() == 2 && x.size(0) == 2 && x.size(1) >= 1, "measures[",
                    i, "] must be a float32 tensor of shape (2, rows)");
    NVRM_CHECK_VALUE(x.device() == device, "measures[", i, "] must be on ", device, " like params[0], got ",
                     x.device());
    NVRM_CHECK_VALUE(x.is_contiguous(), "measures[", i, "] must be contiguous()");
    const int64_t rows = x.size(1), length = row_lengths[i];
    NVRM_CHECK_VALUE(length >= 0 && (length == 0) == (rows == 1), "row_lengths[", i,
                     "] must be 0 for one measure and positive for several, got ", length, " for ", rows);
    const int64_t numel = params_[i].numel();
    const int64_t run = run_lengths_.empty() ? 0 : run_lengths_[i];
    const int64_t last =
        numel == 0
            ? -1
            : entries_[i].offset + (run == 0 ? numel - 1 : (numel - 1) / run * run_strides_[i] + (numel - 1) % run);
    NVRM_CHECK_VALUE(length == 0 || last < length * rows, "params[", i, "] has elements behind its ", rows, " rows of ",
                     length, ": measures[", i, "] is of another shape");
    if (!sums.empty()) {
      NVRM_CHECK_VALUE(sums[i].type() == ElementType::int64 && sums[i].dim() == 2 && sums[i].size(0) == rows &&
                           sums[i].size(1) == sum_words && sums[i].is_contiguous() && sums[i].device() == device,
                       "sums[", i, "] must be a contiguous int64 tensor of shape (", rows, ", ", sum_words, ") on ",
                       device);
    }
    measure_places_[i] = {nullptr, nullptr, rows, length};
  }
  measures_ = measures;
  sums_ = sums;
}

void TensorTable::finish() {
  for (size_t i = 0; i < entries_.size(); ++i) {
    set_layout(i);
    NVRM_CHECK_VALUE(run_lengths_.empty() || run_lengths_[i] == 0 || entries_[i].layout == nullptr, "params[", i,
                     "] is a shard in runs: it, its gradient and its state must be contiguous()");
  }
  // From here on nothing is refused.
  for (size_t i = 0; i < entries_.size(); ++i) {
    entries_[i].place = places_[i];
    if (!measures_.empty()) {
      measure_places_[i].measures = measures_[i].data<float>();
      if (!sums_.empty()) measure_places_[i].sums = sums_[i].data<int64_t>();
    }
    for (int o = 0; o < operand_count; ++o) {
      if (!operands_[o].empty()) {
        entries_[i].data[o] = operands_[o][i].data();
      }
    }
  }
  if (noise_.measure != 0 && (sums_.empty() || reader_ == ReadBy::device)) place_sums();
  for (size_t i = 0; i < measure_places_.size(); ++i) {
    entries_[i].measure = measure_places_[i];
    if (noise_.measure == 0) entries_[i].measure.sums = nullptr;
  }
  if (!run_lengths_.empty()) split_into_runs();
  first_superblock_.reserve(entries_.size() + 1);
  for (const TensorEntry& entry : entries_) {
    const int64_t begin = entry.offset / superblock_size;
    const int64_t end = (entry.offset + entry.numel + superblock_size - 1) / superblock_size;
    first_superblock_.push_back(first_superblock_.back() + (entry.numel == 0 ? 0 : end - begin));
  }
}

// Gives the sums memory of their own: on the device, where whoever reads the tensors of a step that is skipped must
// find them as they were, even where tensors for them are given.
void TensorTable::place_sums() {
  int64_t words = 0;
  for (const MeasurePlace& place : measure_places_) words += place.rows * sum_words;
  int64_t* next = nullptr;
  if (reader_ == ReadBy::device && words > 0) {
    const auto torch = pybind11::module_::import("torch");
    device_sums_ = torch.attr("zeros")(words, pybind11::arg("dtype") = torch.attr("int64"),
                                       pybind11::arg("device") = written(params_[0].device()));
    next = Tensor(device_sums_.ptr(), "sums").data<int64_t>();
  } else {
    host_sums_.resize(static_cast<size_t>(words));
    next = host_sums_.data();
  }
  for (MeasurePlace& place : measure_places_) {
    place.sums = next;
    next += place.rows * sum_words;
  }
}

// Every run becomes an entry of its own: to the kernels it is one more small parameter.
void TensorTable::split_into_runs() {
  const std::vector<TensorEntry> wholes = std::move(entries_);
  entries_.clear();
  for (size_t i = 0; i < wholes.size(); ++i) {
    const int64_t length = run_lengths_[i] == 0 ? std::max<int64_t>(wholes[i].numel, 1) : run_lengths_[i];
    for (int64_t begin = 0; begin < wholes[i].numel; begin += length) {
      TensorEntry run = wholes[i];
      run.numel = length;
      run.offset += begin / length * run_strides_[i];
      for (int o = 0; o < operand_count; ++o) {
        if (run.data[o] == nullptr) continue;
        run.data[o] = static_cast<char*>(run.data[o]) + begin * element_size(operands_[o][i].type());
      }
      entries_.push_back(run);
    }
  }
}

// Row-major order is memory order for nearly every tensor; the others get their strides written down, neighboring
// dimensions merged where all operands allow it.
void TensorTable::set_layout(size_t i) {
  bool contiguous = true;
  for (const Tensors& tensors : operands_) contiguous &= tensors.empty() || tensors[i].is_contiguous();
  if (contiguous) return;

  Layout layout{};
  const auto sizes = params_[i].sizes();
  for (int d = 0; d < params_[i].dim(); ++d) {
    if (sizes[d] == 1) continue;
    bool merges = layout.dims > 0;
    for (int o = 0; o < operand_count && merges; ++o) {
      if (operands_[o].empty()) continue;
      merges = layout.strides[o][layout.dims - 1] == operands_[o][i].stride(d) * sizes[d];
    }
    if (!merges) {
      NVRM_CHECK_VALUE(layout.dims < max_dims, "params[", i, "] has more than ", max_dims,
                       " dimensions that cannot be merged: make it contiguous()");
      layout.sizes[layout.dims++] = 1;
    }
    layout.sizes[layout.dims - 1] *= sizes[d];
    for (int o = 0; o < operand_count; ++o) {
      if (!operands_[o].empty()) layout.strides[o][layout.dims - 1] = operands_[o][i].stride(d);
    }
  }
  layouts_.push_back(layout);
  entries_[i].layout = &layouts_.back();
}

StepPlan TensorTable::plan() const {
  const bool has_master = !operands_[master_operand].empty();
  // A master's parameter is written without having been read. Where the list outgrows any cache, writing past the
  // caches spares reading the old values; where it fits, the next forward pass wants them there.
  constexpr int64_t cache_elements = 4 << 20;
  StepPlan plan{};
  plan.entries = entries_.data();
  plan.first_superblock = first_superblock_.data();
  plan.entry_count = static_cast<int64_t>(entries_.size());
  plan.kind = scalar_kind(dtype_, "params[0]");
  plan.has_master = has_master;
  plan.has_measures = !measure_places_.empty();
  plan.stream_parameters = has_master && superblock_count() * superblock_size > cache_elements;
  plan.noise = noise_;
  plan.hyper_count = static_cast<int>(hyper_.size());
  plan.hyper = hyper_.data();
  plan.hyper_tensor = hyper_tensor_;
  plan.grad_scale = grad_scale_;
  plan.found_inf = found_inf_;
  return plan;
}

bool TensorTable::is_measured(size_t i, bool only_clean) const {
  return !only_clean || recorded_noise(places_[i].record).scale == 0;
}

void TensorTable::start_measuring(bool only_clean) {
  for (size_t i = 0; i < measure_places_.size() && noise_.measure != 0; ++i) {
    const MeasurePlace& at = measure_places_[i];
    if (is_measured(i, only_clean)) std::fill_n(at.sums, at.rows * sum_words, int64_t{0});
  }
}

void TensorTable::finish_measuring(bool moves, bool only_clean) const {
  for (size_t i = 0; i < measure_places_.size() && noise_.measure != 0; ++i) {
    const MeasurePlace& at = measure_places_[i];
    if (!is_measured(i, only_clean)) continue;
    if (moves) std::copy_n(at.clean(), at.rows, at.measures);
    if (!sums_.empty()) continue;
    const int64_t count = params_[i].numel() / at.rows;
    for (int64_t row = 0; row < at.rows; ++row) {
      at.clean()[row] = finished_measure(at.sums + row * sum_words, noise_.measure, count);
    }
  }
}

std::vector<FinishPlace> TensorTable::finishes() const {
  std::vector<FinishPlace> found;
  for (size_t i = 0; i < measure_places_.size(); ++i) {
    const MeasurePlace& at = measure_places_[i];
    int64_t* left = sums_.empty() ? nullptr : sums_[i].data<int64_t>();
    found.push_back({at, params_[i].numel() / at.rows, left, places_[i].record});
  }
  return found;
}

void TensorTable::write_records() const {
  for (const RecordPlace& place : places_) write_record(place, noise_);
  // After every record: parameters may share a counter.
  for (const RecordPlace& place : places_) {
    if (place.step != nullptr) *place.step += 1;
  }
}

}  // namespace nvrm
