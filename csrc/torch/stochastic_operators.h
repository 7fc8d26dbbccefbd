// nvrm_fast::stochastic_activation and its backward as every device has them; nvrm_fast/ops/stochastic.py has the
// schemas. A backend makes the pass: forward(z, key, settings, y) returns the sums, backward writes the gradient for z.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include "../math/stochastic_activation.h"
#include "layer_arguments.h"

namespace nvrm {

using at::Tensor;

// The operators' arguments besides tensors, in the schema's order.
struct StochasticSettings {
  int64_t stream, step, offset, activation, sums;
  double margin;

  Sums kind() const { return static_cast<Sums>(sums); }
};

inline void check(const Tensor& z, const Tensor& key, const StochasticSettings& at) {
  TORCH_CHECK_VALUE(z.dim() == 3 && z.size(1) % 2 == 0, "z must have shape (outer, 2 * neurons, inner), got ",
                    z.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(z.scalar_type()), "z must be a floating-point tensor, got ", z.scalar_type());
  check_key(key, z);
  check_stream(at.stream);
  TORCH_CHECK_VALUE(at.offset >= 0, "offset must not be negative, got ", at.offset);
  TORCH_CHECK_VALUE(at.activation == 0 || at.activation == 1, "activation must be a code in [0, 2), got ",
                    at.activation);
  TORCH_CHECK_VALUE(at.sums >= 0 && at.sums < sums_count, "sums must be a code in [0, ", sums_count, "), got ",
                    at.sums);
}

// float64 goes on to the reference, whose formulas are torch's functions.
template <class Backend>
std::tuple<Tensor, Tensor> stochastic_activation(const Tensor& z_, const Tensor& key, int64_t stream, int64_t step,
                                                 int64_t offset, int64_t activation, int64_t sums, double margin) {
  const StochasticSettings at{stream, step, offset, activation, sums, margin};
  check(z_, key, at);
  if (z_.scalar_type() == at::kDouble) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("nvrm_fast::stochastic_activation", "reference")
                               .typed<decltype(stochastic_activation<Backend>)>();
    return op.call(z_, key, stream, step, offset, activation, sums, margin);
  }
  const Tensor z = z_.contiguous();
  const int64_t outer = z.size(0), neurons = z.size(1) / 2;
  Tensor y = z.new_empty({outer, neurons, z.size(2)});
  if (y.numel() == 0) {
    const int64_t count = at.kind() == Sums::nothing ? 0 : at.kind() == Sums::neuron ? neurons : outer;
    return {y, z.new_zeros({count}, at::kFloat)};
  }
  const Tensor sum = Backend::forward(z, key, at, y);
  return {y, sum};
}

template <class Backend>
Tensor stochastic_activation_backward(const Tensor& grad, const Tensor& grad_sums, const Tensor& z_, const Tensor& key,
                                      int64_t stream, int64_t step, int64_t offset, int64_t activation, int64_t sums,
                                      double margin) {
  const StochasticSettings at{stream, step, offset, activation, sums, margin};
  check(z_, key, at);
  if (z_.scalar_type() == at::kDouble) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("nvrm_fast::stochastic_activation_backward", "reference")
                               .typed<decltype(stochastic_activation_backward<Backend>)>();
    return op.call(grad, grad_sums, z_, key, stream, step, offset, activation, sums, margin);
  }
  const Tensor z = z_.contiguous();
  const int64_t outer = z.size(0), neurons = z.size(1) / 2;
  TORCH_CHECK_VALUE(grad.dim() == 3 && grad.size(0) == outer && grad.size(1) == neurons && grad.size(2) == z.size(2),
                    "grad must have the activations' shape, got ", grad.sizes());
  const int64_t expected = at.kind() == Sums::nothing ? 0 : at.kind() == Sums::neuron ? neurons : outer;
  TORCH_CHECK_VALUE(at.kind() == Sums::nothing || grad_sums.numel() == expected, "grad_sums must have ", expected,
                    " elements, got ", grad_sums.numel());
  Tensor dz = z.new_empty(z.sizes());
  if (dz.numel() == 0) return dz;
  Backend::backward(grad.to(z.scalar_type()).contiguous(), grad_sums.to(at::kFloat).contiguous(), z, key, at, dz);
  return dz;
}

}  // namespace nvrm
