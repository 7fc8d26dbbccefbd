// The operators of layers with noise on directions, and nvrm_fast::gaussian_like, on the CPU.
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../cpu/select.h"
#include "direction_operators.h"
#include "parallel.h"

namespace nvrm {
namespace {

// Parameters of all neurons for the kernels, rows padded to whole vectors with the last neuron's, so that lanes beyond
// the end compute something finite.
class PaddedParameters {
 public:
  explicit PaddedParameters(const DirectionInputs& in)
      : neurons_(in.s.size(1)),
        padded_(std::max<int64_t>((neurons_ + 15) / 16, 1) * 16),
        memory_((4 + static_cast<size_t>(neurons_ > 0 ? in.constants.numel() / neurons_ : 0)) * padded_) {
    int64_t next = 0;
    for (const Tensor* values : {&in.scale, &in.magnitude_mean, &in.magnitude_std, &in.bias, &in.constants}) {
      next += values->defined() ? set(next, *values) : 1;
    }
  }
  int64_t padded() const { return padded_; }
  const float* row(int64_t i) const { return memory_.data() + i * padded_; }

 private:
  // Returns how many rows they are.
  int64_t set(int64_t first, const Tensor& values) {
    if (neurons_ == 0) return 0;
    const float* from = values.const_data_ptr<float>();
    const int64_t rows = values.numel() / neurons_;
    for (int64_t i = first; i < first + rows; ++i, from += neurons_) {
      float* to = memory_.data() + i * padded_;
      std::copy(from, from + neurons_, to);
      std::fill(to + neurons_, to + padded_, from[neurons_ - 1]);
    }
    return rows;
  }

  int64_t neurons_, padded_;
  std::vector<float> memory_;
};

struct Pass {
  LayerScalars scalars;
  PaddedParameters parameters;
  DirectionPlan plan;

  Pass(const DirectionInputs& in, const DirectionSettings& at)
      : scalars(layer_scalars(at.fan_in, at.alpha, at.low, at.high)), parameters(in) {
    plan = {};
    plan.key = philox_schedule(noise_key(in.key.item<int64_t>(), at.stream, at.step));
    plan.offset = at.offset;
    plan.scalars = &scalars;
    plan.magnitude = static_cast<int>(at.magnitude);
    plan.tangent_given = at.tangent_given;
    plan.outer = in.s.size(0);
    plan.neurons = in.s.size(1);
    plan.inner = in.s.size(2);
    plan.groups = in.groups;
    plan.padded = parameters.padded();
    plan.scale = parameters.row(0);
    plan.magnitude_mean = parameters.row(1);
    plan.magnitude_std = parameters.row(2);
    plan.bias = parameters.row(3);
    plan.constants = parameters.row(4);
    plan.storage = scalar_kind(in.s.scalar_type(), "s");
    plan.s = in.s.const_data_ptr();
    if (at.direction != 0) plan.sq_norm = in.sq_norm.const_data_ptr<float>();
  }

  void run(bool backward, int64_t law) const {
    const auto kernel = backward ? cpu_kernels().direction_backward : cpu_kernels().direction_forward;
    parallel_for(0, plan.tiles(), 1,
                 [&](int64_t begin, int64_t end) { kernel(static_cast<int>(law), plan, begin, end); });
  }
};

struct Cpu {
  static void forward(const DirectionInputs& in, const DirectionSettings& at, Tensor& y) {
    Pass pass(in, at);
    pass.plan.out = y.mutable_data_ptr();
    pass.run(false, at.direction);
  }

  static DirectionParts backward(const DirectionInputs& in, const DirectionSettings& at, const Tensor& grad,
                                 bool slopes, Tensor& ds, Tensor& d_tangent) {
    Pass pass(in, at);
    DirectionPlan& plan = pass.plan;
    plan.grad = grad.const_data_ptr();
    plan.out = ds.mutable_data_ptr();
    plan.slopes = slopes;
    DirectionParts parts;
    parts.neurons = in.scale.new_empty({plan.neuron_parts(), neuron_sums, plan.neurons});
    plan.neuron_part = parts.neurons.mutable_data_ptr<float>();
    if (at.direction != 0 && at.tangent_given) {
      plan.tangent = d_tangent.mutable_data_ptr<float>();
    } else if (at.direction != 0) {
      parts.sq_norm = in.scale.new_empty({plan.sq_norm_parts(), plan.outer, plan.inner});
      plan.sq_norm_part = parts.sq_norm.mutable_data_ptr<float>();
    }
    pass.run(true, at.direction);
    return parts;
  }
};

Tensor gaussian_like(const Tensor& like, const Tensor& key, int64_t stream, int64_t step, int64_t offset) {
  TORCH_CHECK_TYPE(key.scalar_type() == at::kLong && key.numel() == 1, "key must be an int64 tensor with one element");
  TORCH_CHECK_VALUE(offset >= 0, "offset must not be negative, got ", offset);
  const NoiseKey place = noise_key(key.item<int64_t>(), stream, step);
  Tensor out = like.new_empty(like.sizes(), at::kFloat);
  fill_noise(place, 0, 1.0f, offset, out.mutable_data_ptr<float>(), out.numel());
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CPU, m) {
  m.impl("direction_noise.native", &direction_noise<Cpu>);
  m.impl("direction_noise_backward.native", &direction_noise_backward<Cpu>);
  m.impl("gaussian_like.native", &gaussian_like);
}

}  // namespace nvrm
