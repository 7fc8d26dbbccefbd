// The stochastic layers' operators on CUDA devices. Nothing here waits for the device: the kernels read the key there.
#include "../cuda/layer_launches.h"
#include "launch_place.h"
#include "stochastic.h"

namespace nvrm {
namespace {

StochasticArguments arguments_of(const StochasticInputs& in) {
  StochasticArguments a = {};
  a.key = {in.key.data<int64_t>(), static_cast<uint32_t>(in.at.stream), static_cast<uint32_t>(in.at.step)};
  a.offset = in.at.offset;
  a.outer = in.outer();
  a.inner = in.inner();
  a.run = in.neurons() * a.inner;
  a.relu = in.at.activation == 1;
  a.margin = static_cast<float>(in.at.margin);
  a.storage = scalar_kind(in.z.type(), "z");
  a.z = in.z.data();
  return a;
}

// Parts are made first, and are aligned as every tensor that torch makes.
Parts forward(const StochasticInputs& in, const Tensor& y, const pybind11::object& like) {
  const LaunchPlace place(in.z.device());
  const Sums kind = in.at.kind();
  StochasticArguments a = arguments_of(in);
  a.out = y.data();
  const bool apart = kind == Sums::neuron && !adds_neurons(a);
  const Sums in_pass = apart ? Sums::nothing : kind;
  StochasticLaunch pass = cut_pass(a, in_pass);
  StochasticLaunch sums = apart ? cut_neuron_sums(a) : pass;
  Parts parts;
  if (kind != Sums::nothing) parts = Parts(like, {sums.parts, kind == Sums::neuron ? a.run : a.outer});
  pass.arguments.parts = sums.arguments.parts = parts.tensor.data<float>();
  NVRM_CUDA_CHECK(launch_stochastic(in_pass, false, pass, place.stream()));
  if (apart) NVRM_CUDA_CHECK(launch_neuron_sums(sums, place.stream()));
  return parts;
}

void backward(const StochasticInputs& in, const StochasticGradients& out) {
  const LaunchPlace place(in.z.device());
  StochasticArguments a = arguments_of(in);
  a.grad = out.grad.data();
  a.weight = out.weight.data<float>();
  a.out = out.dz.data();
  NVRM_CUDA_CHECK(launch_stochastic(in.at.kind(), true, cut_pass(a, in.at.kind()), place.stream()));
}

}  // namespace

StochasticBackend stochastic_on_cuda() { return {&forward, &backward}; }

}  // namespace nvrm
