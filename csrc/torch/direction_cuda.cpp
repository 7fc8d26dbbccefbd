// The operators of layers with noise on directions, on CUDA devices. Nothing here waits for the device: the kernels
// read the key there.
#include <torch/library.h>

#include "../cuda/layer_launches.h"
#include "direction_operators.h"
#include "launch_place.h"

namespace nvrm {
namespace {

struct Cuda {
  static DirectionArguments arguments_of(const DirectionInputs& in, const DirectionSettings& at) {
    const auto of = [](const Tensor& values) {
      return values.defined() ? values.const_data_ptr<float>() : static_cast<const float*>(nullptr);
    };
    DirectionArguments a = {};
    a.key = {in.key.const_data_ptr<int64_t>(), static_cast<uint32_t>(at.stream), static_cast<uint32_t>(at.step)};
    a.offset = at.offset;
    a.scalars = layer_scalars(at.fan_in, at.alpha, at.low, at.high);
    a.magnitude = static_cast<Magnitude>(at.magnitude);
    a.tangent_given = at.tangent_given;
    a.outer = in.s.size(0);
    a.neurons = in.s.size(1);
    a.inner = in.s.size(2);
    a.groups = in.groups;
    a.scale = of(in.scale);
    a.magnitude_mean = of(in.magnitude_mean);
    a.magnitude_std = of(in.magnitude_std);
    a.bias = of(in.bias);
    a.constants = of(in.constants);
    a.sq_norm = of(in.sq_norm);
    a.storage = scalar_kind(in.s.scalar_type(), "s");
    a.s = in.s.const_data_ptr();
    return a;
  }

  static void forward(const DirectionInputs& in, const DirectionSettings& at, Tensor& y) {
    const LaunchPlace place(in.s);
    DirectionArguments a = arguments_of(in, at);
    a.out = y.mutable_data_ptr();
    C10_CUDA_CHECK(launch_direction(static_cast<int>(at.direction), cut_pass(a, at.direction != 0), place.stream()));
  }

  static DirectionParts backward(const DirectionInputs& in, const DirectionSettings& at, const Tensor& grad,
                                 bool slopes, Tensor& ds, Tensor& d_tangent) {
    const LaunchPlace place(in.s);
    DirectionArguments a = arguments_of(in, at);
    a.grad = grad.const_data_ptr();
    a.out = ds.mutable_data_ptr();
    a.slopes = slopes;
    if (at.direction != 0 && at.tangent_given) a.tangent = d_tangent.mutable_data_ptr<float>();
    DirectionLaunch launch = cut_pass(a, at.direction != 0);
    DirectionParts parts;
    parts.neurons = in.scale.new_empty({launch.neuron_parts, neuron_sums, a.neurons});
    launch.arguments.neuron_part = parts.neurons.mutable_data_ptr<float>();
    if (at.direction != 0 && !at.tangent_given) {
      parts.sq_norm = in.scale.new_empty({launch.sq_norm_parts, a.outer, a.inner});
      launch.arguments.sq_norm_part = parts.sq_norm.mutable_data_ptr<float>();
    }
    C10_CUDA_CHECK(launch_direction_backward(static_cast<int>(at.direction), launch, place.stream()));
    return parts;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CUDA, m) {
  m.impl("direction_noise.native", &direction_noise<Cuda>);
  m.impl("direction_noise_backward.native", &direction_noise_backward<Cuda>);
}

}  // namespace nvrm
