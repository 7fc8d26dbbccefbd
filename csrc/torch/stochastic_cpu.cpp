// The stochastic layers' operators on the CPU.
#include <torch/library.h>

#include "../cpu/select.h"
#include "parallel.h"
#include "stochastic_operators.h"

namespace nvrm {
namespace {

struct Cpu {
  static StochasticPlan plan_of(const Tensor& z, const Tensor& key, const StochasticSettings& at) {
    StochasticPlan plan = {};
    plan.key = philox_schedule(noise_key(key.item<int64_t>(), at.stream, at.step));
    plan.offset = at.offset;
    plan.outer = z.size(0);
    plan.neurons = z.size(1) / 2;
    plan.inner = z.size(2);
    plan.relu = at.activation == 1;
    plan.margin = static_cast<float>(at.margin);
    plan.storage = scalar_kind(z.scalar_type(), "z");
    plan.z = z.const_data_ptr();
    return plan;
  }

  using Kernel = void (*)(Sums, const StochasticPlan&, int64_t, int64_t);

  static void run(Kernel kernel, Sums sums, const StochasticPlan& plan) {
    parallel_for(0, plan.tiles(), 1, [&](int64_t begin, int64_t end) { kernel(sums, plan, begin, end); });
  }

  static Tensor forward(const Tensor& z, const Tensor& key, const StochasticSettings& at, Tensor& y) {
    StochasticPlan plan = plan_of(z, key, at);
    plan.out = y.mutable_data_ptr();
    const Sums kind = at.kind();
    Tensor sum = z.new_empty({kind == Sums::nothing ? 0 : plan.outer}, at::kFloat);
    if (kind == Sums::neuron) sum = z.new_empty({plan.tiles(), plan.neurons}, at::kFloat);
    plan.sums = sum.mutable_data_ptr<float>();
    run(cpu_kernels().stochastic_forward, kind, plan);
    return kind == Sums::neuron ? sum.sum(0) : sum;
  }

  static void backward(const Tensor& grad, const Tensor& weight, const Tensor& z, const Tensor& key,
                       const StochasticSettings& at, Tensor& dz) {
    StochasticPlan plan = plan_of(z, key, at);
    plan.grad = grad.const_data_ptr();
    plan.weight = weight.const_data_ptr<float>();
    plan.out = dz.mutable_data_ptr();
    run(cpu_kernels().stochastic_backward, at.kind(), plan);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CPU, m) {
  m.impl("stochastic_activation.native", &stochastic_activation<Cpu>);
  m.impl("stochastic_activation_backward.native", &stochastic_activation_backward<Cpu>);
}

}  // namespace nvrm
