// nvrm_fast::stochastic_activation and its backward on the CPU; nvrm_fast/ops/stochastic.py has the schemas.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "../cpu/select.h"
#include "noise_arguments.h"
#include "parallel.h"
#include "scalar_kind.h"

namespace nvrm {
namespace {

using at::Tensor;

// The operators' arguments besides tensors, in the schema's order.
struct Settings {
  int64_t stream, step, offset, activation, sums;
  double margin;
};

void check(const Tensor& z, const Tensor& key, const Settings& at) {
  TORCH_CHECK_VALUE(z.dim() == 3 && z.size(1) % 2 == 0, "z must have shape (outer, 2 * neurons, inner), got ",
                    z.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(z.scalar_type()), "z must be a floating-point tensor, got ", z.scalar_type());
  TORCH_CHECK_TYPE(key.scalar_type() == at::kLong && key.numel() == 1, "key must be an int64 tensor with one element");
  TORCH_CHECK_VALUE(at.stream >= 0 && at.stream <= 0xffffffffLL, "stream must be in [0, 2^32), got ", at.stream);
  TORCH_CHECK_VALUE(at.offset >= 0, "offset must not be negative, got ", at.offset);
  TORCH_CHECK_VALUE(at.activation == 0 || at.activation == 1, "activation must be a code in [0, 2), got ",
                    at.activation);
  TORCH_CHECK_VALUE(at.sums >= 0 && at.sums < sums_count, "sums must be a code in [0, ", sums_count, "), got ",
                    at.sums);
}

StochasticPlan plan_of(const Tensor& z, const Tensor& key, const Settings& at) {
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

void run(Kernel kernel, Sums sums, const StochasticPlan& plan) {
  parallel_for(0, plan.tiles(), 1, [&](int64_t begin, int64_t end) { kernel(sums, plan, begin, end); });
}

// float64 goes on to the reference, whose formulas are torch's functions.
std::tuple<Tensor, Tensor> stochastic_activation(const Tensor& z_, const Tensor& key, int64_t stream, int64_t step,
                                                 int64_t offset, int64_t activation, int64_t sums, double margin) {
  const Settings at{stream, step, offset, activation, sums, margin};
  check(z_, key, at);
  if (z_.scalar_type() == at::kDouble) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("nvrm_fast::stochastic_activation", "reference")
                               .typed<decltype(stochastic_activation)>();
    return op.call(z_, key, stream, step, offset, activation, sums, margin);
  }
  const Tensor z = z_.contiguous();
  StochasticPlan plan = plan_of(z, key, at);
  Tensor y = z.new_empty({plan.outer, plan.neurons, plan.inner});
  plan.out = y.mutable_data_ptr();
  const Sums kind = static_cast<Sums>(sums);
  Tensor sum = z.new_empty({kind == Sums::nothing ? 0 : plan.outer}, at::kFloat);
  if (kind == Sums::neuron) sum = z.new_empty({plan.tiles(), plan.neurons}, at::kFloat);
  if (y.numel() == 0) {
    sum.zero_();
  } else {
    plan.sums = sum.mutable_data_ptr<float>();
    run(cpu_kernels().stochastic_forward, kind, plan);
  }
  return {y, kind == Sums::neuron ? sum.sum(0) : sum};
}

Tensor stochastic_activation_backward(const Tensor& grad, const Tensor& grad_sums, const Tensor& z_, const Tensor& key,
                                      int64_t stream, int64_t step, int64_t offset, int64_t activation, int64_t sums,
                                      double margin) {
  const Settings at{stream, step, offset, activation, sums, margin};
  check(z_, key, at);
  if (z_.scalar_type() == at::kDouble) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("nvrm_fast::stochastic_activation_backward", "reference")
                               .typed<decltype(stochastic_activation_backward)>();
    return op.call(grad, grad_sums, z_, key, stream, step, offset, activation, sums, margin);
  }
  const Tensor z = z_.contiguous();
  StochasticPlan plan = plan_of(z, key, at);
  TORCH_CHECK_VALUE(
      grad.dim() == 3 && grad.size(0) == plan.outer && grad.size(1) == plan.neurons && grad.size(2) == plan.inner,
      "grad must have the activations' shape, got ", grad.sizes());
  const Sums kind = static_cast<Sums>(sums);
  const int64_t expected = kind == Sums::nothing ? 0 : kind == Sums::neuron ? plan.neurons : plan.outer;
  TORCH_CHECK_VALUE(kind == Sums::nothing || grad_sums.numel() == expected, "grad_sums must have ", expected,
                    " elements, got ", grad_sums.numel());
  const Tensor dy = grad.to(z.scalar_type()).contiguous();
  const Tensor weight = grad_sums.to(at::kFloat).contiguous();
  Tensor dz = z.new_empty(z.sizes());
  if (dz.numel() == 0) return dz;
  plan.grad = dy.const_data_ptr();
  plan.weight = weight.const_data_ptr<float>();
  plan.out = dz.mutable_data_ptr();
  run(cpu_kernels().stochastic_backward, kind, plan);
  return dz;
}

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CPU, m) {
  m.impl("stochastic_activation.native", &stochastic_activation);
  m.impl("stochastic_activation_backward.native", &stochastic_activation_backward);
}

}  // namespace nvrm
