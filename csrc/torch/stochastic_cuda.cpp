// The stochastic layers' operators on CUDA devices. Nothing here waits for the device: the kernels read the key there.
#include <torch/library.h>

#include "../cuda/layer_launches.h"
#include "launch_place.h"
#include "stochastic_operators.h"

namespace nvrm {
namespace {

struct Cuda {
  static StochasticArguments arguments_of(const Tensor& z, const Tensor& key, const StochasticSettings& at) {
    StochasticArguments a = {};
    a.key = {key.const_data_ptr<int64_t>(), static_cast<uint32_t>(at.stream), static_cast<uint32_t>(at.step)};
    a.offset = at.offset;
    a.outer = z.size(0);
    a.inner = z.size(2);
    a.run = z.size(1) / 2 * a.inner;
    a.relu = at.activation == 1;
    a.margin = static_cast<float>(at.margin);
    a.storage = scalar_kind(z.scalar_type(), "z");
    a.z = z.const_data_ptr();
    return a;
  }

  // Parts are made first, and are aligned as every tensor that torch makes.
  static Tensor forward(const Tensor& z, const Tensor& key, const StochasticSettings& at, Tensor& y) {
    const LaunchPlace place(z);
    const Sums kind = at.kind();
    StochasticArguments a = arguments_of(z, key, at);
    a.out = y.mutable_data_ptr();
    const bool apart = kind == Sums::neuron && !adds_neurons(a);
    const Sums in_pass = apart ? Sums::nothing : kind;
    StochasticLaunch pass = cut_pass(a, in_pass);
    StochasticLaunch sums = apart ? cut_neuron_sums(a) : pass;
    Tensor parts =
        z.new_empty({kind == Sums::nothing ? 0 : sums.parts, kind == Sums::neuron ? a.run : a.outer}, at::kFloat);
    pass.arguments.parts = sums.arguments.parts = parts.mutable_data_ptr<float>();
    C10_CUDA_CHECK(launch_stochastic(in_pass, false, pass, place.stream()));
    if (apart) C10_CUDA_CHECK(launch_neuron_sums(sums, place.stream()));
    if (kind == Sums::nothing) return parts.view({0});
    if (kind == Sums::neuron) {
      constexpr int64_t but_neurons[] = {0, 2};
      return parts.view({sums.parts, z.size(1) / 2, a.inner}).sum(at::IntArrayRef(but_neurons));
    }
    return sums.parts == 1 ? parts.view({a.outer}) : parts.sum(0);
  }

  static void backward(const Tensor& grad, const Tensor& weight, const Tensor& z, const Tensor& key,
                       const StochasticSettings& at, Tensor& dz) {
    const LaunchPlace place(z);
    StochasticArguments a = arguments_of(z, key, at);
    a.grad = grad.const_data_ptr();
    a.weight = weight.const_data_ptr<float>();
    a.out = dz.mutable_data_ptr();
    C10_CUDA_CHECK(launch_stochastic(at.kind(), true, cut_pass(a, at.kind()), place.stream()));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CUDA, m) {
  m.impl("stochastic_activation.native", &stochastic_activation<Cuda>);
  m.impl("stochastic_activation_backward.native", &stochastic_activation_backward<Cuda>);
}

}  // namespace nvrm
