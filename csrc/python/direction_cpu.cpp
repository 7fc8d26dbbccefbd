// direction_noise and its backward on the CPU.
#include <algorithm>
#include <vector>

#include "../cpu/select.h"
#include "direction.h"
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
      next += values->is_there() ? set(next, *values) : 1;
    }
  }
  int64_t padded() const { return padded_; }
  const float* row(int64_t i) const { return memory_.data() + i * padded_; }

 private:
  // Returns how many rows they are.
  int64_t set(int64_t first, const Tensor& values) {
    if (neurons_ == 0) return 0;
    const float* from = values.data<float>();
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

  explicit Pass(const DirectionInputs& in)
      : scalars(layer_scalars(in.at.fan_in, in.at.alpha, in.at.low, in.at.high)), parameters(in) {
    const DirectionSettings& at = in.at;
    plan = {};
    plan.key = philox_schedule(noise_key(*in.key.data<int64_t>(), at.stream, at.step));
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
    plan.storage = scalar_kind(in.s.type(), "s");
    plan.s = in.s.data();
    if (at.direction != 0) plan.sq_norm = in.sq_norm.data<float>();
  }

  void run(bool backward, int64_t law) const {
    const pybind11::gil_scoped_release no_gil;
    const auto kernel = backward ? cpu_kernels().direction_backward : cpu_kernels().direction_forward;
    parallel_for(0, plan.tiles(), 1,
                 [&](int64_t begin, int64_t end) { kernel(static_cast<int>(law), plan, begin, end); });
  }
};

struct Cpu {
  static void forward(const DirectionInputs& in, const Tensor& y) {
    Pass pass(in);
    pass.plan.out = y.data();
    pass.run(false, in.at.direction);
  }

  static DirectionParts backward(const DirectionInputs& in, const DirectionGradients& out,
                                 const pybind11::object& like) {
    Pass pass(in);
    DirectionPlan& plan = pass.plan;
    plan.grad = out.grad.data();
    plan.out = out.ds.data();
    plan.slopes = out.slopes;
    DirectionParts parts;
    parts.neurons = Parts(like, {plan.neuron_parts(), neuron_sums, plan.neurons});
    plan.neuron_part = parts.neurons.tensor.data<float>();
    plan.tangent = out.d_tangent.data<float>();
    if (in.has_sq_norm_parts()) {
      parts.sq_norm = Parts(like, {plan.sq_norm_parts(), plan.outer, plan.inner});
      plan.sq_norm_part = parts.sq_norm.tensor.data<float>();
    }
    pass.run(true, in.at.direction);
    return parts;
  }
};

}  // namespace

DirectionBackend direction_on_cpu() { return {&Cpu::forward, &Cpu::backward}; }

}  // namespace nvrm
