// The stochastic layers' operators on the CPU.
#include "../cpu/select.h"
#include "parallel.h"
#include "stochastic.h"

namespace nvrm {
namespace {

StochasticPlan plan_of(const StochasticInputs& in) {
  StochasticPlan plan = {};
  plan.key = philox_schedule(noise_key(*in.key.data<int64_t>(), in.at.stream, in.at.step));
  plan.offset = in.at.offset;
  plan.outer = in.outer();
  plan.neurons = in.neurons();
  plan.inner = in.inner();
  plan.relu = in.at.activation == 1;
  plan.margin = static_cast<float>(in.at.margin);
  plan.storage = scalar_kind(in.z.type(), "z");
  plan.z = in.z.data();
  return plan;
}

using Kernel = void (*)(Sums, const StochasticPlan&, int64_t, int64_t);

void run(Kernel kernel, Sums sums, const StochasticPlan& plan) {
  const pybind11::gil_scoped_release no_gil;
  parallel_for(0, plan.tiles(), 1, [&](int64_t begin, int64_t end) { kernel(sums, plan, begin, end); });
}

Parts forward(const StochasticInputs& in, const Tensor& y, const pybind11::object& like) {
  StochasticPlan plan = plan_of(in);
  plan.out = y.data();
  const Sums kind = in.at.kind();
  Parts parts;
  if (kind == Sums::neuron) parts = Parts(like, {plan.tiles(), plan.neurons});
  if (kind != Sums::neuron && kind != Sums::nothing) parts = Parts(like, {plan.outer});
  plan.sums = parts.tensor.data<float>();
  run(cpu_kernels().stochastic_forward, kind, plan);
  return parts;
}

void backward(const StochasticInputs& in, const StochasticGradients& out) {
  StochasticPlan plan = plan_of(in);
  plan.grad = out.grad.data();
  plan.weight = out.weight.data<float>();
  plan.out = out.dz.data();
  run(cpu_kernels().stochastic_backward, in.at.kind(), plan);
}

}  // namespace

StochasticBackend stochastic_on_cpu() { return {&forward, &backward}; }

}  // namespace nvrm
