// direction_noise and its backward on CUDA devices. Nothing here waits for the device: the kernels read the key there.
#include "../cuda/layer_launches.h"
#include "direction.h"
#include "launch_place.h"

namespace nvrm {
namespace {

struct Cuda {
  static DirectionArguments arguments_of(const DirectionInputs& in) {
    const DirectionSettings& at = in.at;
    const auto of = [](const Tensor& values) {
      return values.is_there() ? values.data<float>() : static_cast<const float*>(nullptr);
    };
    DirectionArguments a = {};
    a.key = {in.key.data<int64_t>(), static_cast<uint32_t>(at.stream), static_cast<uint32_t>(at.step)};
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
    a.storage = scalar_kind(in.s.type(), "s");
    a.s = in.s.data();
    return a;
  }

  static void forward(const DirectionInputs& in, const Tensor& y) {
    const LaunchPlace place(in.s.device());
    DirectionArguments a = arguments_of(in);
    a.out = y.data();
    const bool directed = in.at.direction != 0;
    NVRM_CUDA_CHECK(launch_direction(static_cast<int>(in.at.direction), cut_pass(a, directed), place.stream()));
  }

  static DirectionParts backward(const DirectionInputs& in, const DirectionGradients& out,
                                 const pybind11::object& like) {
    const LaunchPlace place(in.s.device());
    const bool directed = in.at.direction != 0;
    DirectionArguments a = arguments_of(in);
    a.grad = out.grad.data();
    a.out = out.ds.data();
    a.slopes = out.slopes;
    a.tangent = out.d_tangent.data<float>();
    DirectionLaunch launch = cut_pass(a, directed);
    DirectionParts parts;
    parts.neurons = Parts(like, {launch.neuron_parts, neuron_sums, a.neurons});
    launch.arguments.neuron_part = parts.neurons.tensor.data<float>();
    if (in.has_sq_norm_parts()) {
      parts.sq_norm = Parts(like, {launch.sq_norm_parts, a.outer, a.inner});
      launch.arguments.sq_norm_part = parts.sq_norm.tensor.data<float>();
    }
    NVRM_CUDA_CHECK(launch_direction_backward(static_cast<int>(in.at.direction), launch, place.stream()));
    return parts;
  }
};

}  // namespace

DirectionBackend direction_on_cuda() { return {&Cuda::forward, &Cuda::backward}; }

}  // namespace nvrm
