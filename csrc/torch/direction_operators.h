// nvrm_fast::direction_noise and its backward as every device has them; nvrm_fast/ops/direction.py has the schemas. A
// backend makes the pass: forward(inputs, settings, y), and backward, which returns parts of the sums.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <cmath>

#include "../math/angle_law.h"
#include "../math/layer_scalars.h"
#include "layer_arguments.h"

namespace nvrm {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct GammaConstants {
  double d, c, sure;
  explicit GammaConstants(double shape)
      : d((shape >= 1 ? shape : shape + 1) - 1.0 / 3), c(1 / std::sqrt(9 * d)), sure(d >= 12 ? 1 / (54 * d) : 0) {}
  GammaScalars scalars() const { return {static_cast<float>(d), static_cast<float>(c), static_cast<float>(sure)}; }
};

inline float rate(int64_t dimension_less_two) {
  return dimension_less_two > 0 ? static_cast<float>(1.0 / static_cast<double>(dimension_less_two)) : 0.0f;
}

inline LayerScalars layer_scalars(int64_t fan_in, double alpha, double low, double high) {
  const double freedom = static_cast<double>(fan_in - 1);
  const GammaConstants chi(freedom > 0 ? freedom / 2 : 1);
  const GammaConstants gamma(alpha > 0 ? 1 / alpha : 1);
  LayerScalars at;
  at.fan_in = static_cast<int>(fan_in);
  at.tangent_rate = rate(fan_in - 3);
  at.sphere_rate = rate(fan_in - 2);
  at.fan_in_less_one = static_cast<float>(freedom);
  at.chi = chi.scalars();
  at.chi_two_d = static_cast<float>(2 * chi.d);
  at.gamma = gamma.scalars();
  at.gamma_scale = static_cast<float>(alpha * gamma.d);
  at.gamma_alpha = static_cast<float>(alpha);
  at.gamma_boost = alpha > 1;
  at.low = static_cast<float>(low);
  at.high = static_cast<float>(high);
  return at;
}

// The operators' arguments besides tensors, in the schema's order.
struct DirectionSettings {
  int64_t stream, step, offset, direction, magnitude, fan_in;
  double alpha, low, high;
  bool tangent_given;
};

inline void check(const Tensor& s, const Tensor& sq_norm, const Tensor& key, const DirectionSettings& at) {
  TORCH_CHECK_VALUE(s.dim() == 3, "s must have shape (outer, neurons, inner), got ", s.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(s.scalar_type()), "s must be a floating-point tensor, got ", s.scalar_type());
  check_key(key, s);
  check_stream(at.stream);
  TORCH_CHECK_VALUE(at.direction >= 0 && at.direction < law_count, "law must be a code in [0, ", law_count - 1,
                    "], got ", at.direction);
  TORCH_CHECK_VALUE(at.magnitude >= 0 && at.magnitude <= 2, "magnitude must be a code in [0, 2], got ", at.magnitude);
  TORCH_CHECK_VALUE(at.offset >= 0 && at.offset + s.numel() <= (int64_t{1} << 56),
                    "offset must be in [0, 2^56 - activations], got ", at.offset);
  if (at.direction == 0) return;
  TORCH_CHECK_VALUE(at.fan_in >= 2,
                    "a weight vector of one element has no direction to turn: fan_in must be at least 2");
  TORCH_CHECK_VALUE(at.fan_in <= (int64_t{1} << 30), "fan_in must be at most 2^30, got ", at.fan_in);
  if (at.tangent_given) {
    TORCH_CHECK_VALUE(sq_norm.sizes() == s.sizes(), "a given tangent part must have s's shape ", s.sizes(), ", got ",
                      sq_norm.sizes());
    return;
  }
  TORCH_CHECK_VALUE(sq_norm.dim() == 3 && sq_norm.size(0) == s.size(0) && sq_norm.size(2) == s.size(2),
                    "sq_norm must have shape (", s.size(0), ", groups, ", s.size(2), "), got ", sq_norm.sizes());
  TORCH_CHECK_VALUE(sq_norm.size(1) > 0 && s.size(1) % sq_norm.size(1) == 0,
                    "sq_norm must have a number of groups that divides ", s.size(1), ", got ", sq_norm.size(1));
}

// A pass's tensors, checked and contiguous. Those that the settings have no use for are not there.
struct DirectionInputs {
  Tensor s, sq_norm, scale, magnitude_mean, magnitude_std, bias, constants, key;
  int64_t groups;

  DirectionInputs(const Tensor& s_, const Tensor& sq_norm_, const Tensor& scale_, const Tensor& magnitude_mean_,
                  const OptionalTensor& magnitude_std_, const OptionalTensor& bias_, const Tensor& constants_,
                  const Tensor& key_, const DirectionSettings& at)
      : s(s_.contiguous()), key(key_), groups(at.direction == 0 || at.tangent_given ? 1 : sq_norm_.size(1)) {
    const int64_t neurons = s.size(1);
    scale = checked_parameter(scale_, neurons, s, "scale");
    magnitude_mean = checked_parameter(magnitude_mean_, neurons, s, "magnitude_mean");
    if (at.magnitude != 0) {
      TORCH_CHECK_VALUE(magnitude_std_.has_value(), "magnitude noise needs magnitude_std");
      magnitude_std = checked_parameter(*magnitude_std_, neurons, s, "magnitude_std");
    }
    if (bias_.has_value()) bias = checked_parameter(*bias_, neurons, s, "bias");
    constants = checked_parameter(constants_, law_sizes[at.direction].rows * neurons, s, "constants");
    if (at.direction != 0) sq_norm = checked_parameter(sq_norm_, sq_norm_.numel(), s, "sq_norm");
  }
};

// What a backward pass leaves to be added up: neurons (parts, neuron_sums, neurons), and, unless the tangent part is
// given, sq_norm (parts, outer, inner), ordered by groups: twice the gradient for |x|^2.
struct DirectionParts {
  Tensor neurons, sq_norm;
};

// float64 goes on to the reference, whose formulas are torch's functions.
template <class Backend>
Tensor direction_noise(const Tensor& s, const Tensor& sq_norm, const Tensor& scale, const Tensor& magnitude_mean,
                       const OptionalTensor& magnitude_std, const OptionalTensor& bias,
                       const OptionalTensor& law_param_0, const OptionalTensor& law_param_1, const Tensor& constants,
                       const Tensor& key, int64_t stream, int64_t step, int64_t offset, int64_t direction,
                       int64_t magnitude, int64_t fan_in, double alpha, double low, double high, bool tangent_given) {
  const DirectionSettings at{stream, step, offset, direction, magnitude, fan_in, alpha, low, high, tangent_given};
  check(s, sq_norm, key, at);
  if (s.scalar_type() == at::kDouble) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("nvrm_fast::direction_noise", "reference")
                               .typed<decltype(direction_noise<Backend>)>();
    return op.call(s, sq_norm, scale, magnitude_mean, magnitude_std, bias, law_param_0, law_param_1, constants, key,
                   stream, step, offset, direction, magnitude, fan_in, alpha, low, high, tangent_given);
  }
  const DirectionInputs in(s, sq_norm, scale, magnitude_mean, magnitude_std, bias, constants, key, at);
  Tensor y = in.s.new_empty(in.s.sizes());
  if (y.numel() > 0) Backend::forward(in, at, y);
  return y;
}

using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Backend>
Eight direction_noise_backward(const Tensor& grad, const Tensor& s, const Tensor& sq_norm, const Tensor& scale,
                               const Tensor& magnitude_mean, const OptionalTensor& magnitude_std,
                               const OptionalTensor& bias, const OptionalTensor& law_param_0,
                               const OptionalTensor& law_param_1, const Tensor& constants, const Tensor& key,
                               int64_t stream, int64_t step, int64_t offset, int64_t direction, int64_t magnitude,
                               int64_t fan_in, double alpha, double low, double high, bool tangent_given, bool slopes) {
  const DirectionSettings at{stream, step, offset, direction, magnitude, fan_in, alpha, low, high, tangent_given};
  check(s, sq_norm, key, at);
  TORCH_CHECK_VALUE(grad.sizes() == s.sizes(), "grad must have s's shape ", s.sizes(), ", got ", grad.sizes());
  if (s.scalar_type() == at::kDouble) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("nvrm_fast::direction_noise_backward", "reference")
                               .typed<decltype(direction_noise_backward<Backend>)>();
    return op.call(grad, s, sq_norm, scale, magnitude_mean, magnitude_std, bias, law_param_0, law_param_1, constants,
                   key, stream, step, offset, direction, magnitude, fan_in, alpha, low, high, tangent_given, slopes);
  }
  const DirectionInputs in(s, sq_norm, scale, magnitude_mean, magnitude_std, bias, constants, key, at);
  const Tensor dy = grad.to(s.scalar_type()).contiguous();
  Tensor ds = in.s.new_empty(in.s.sizes());
  const Tensor nothing = scale.new_empty({0});
  Tensor d_sq_norm = nothing.clone(), sum;
  if (s.numel() == 0) {
    sum = scale.new_zeros({neuron_sums, s.size(1)});
    if (direction != 0) d_sq_norm = in.sq_norm.new_zeros(in.sq_norm.sizes());
  } else {
    if (direction != 0 && tangent_given) d_sq_norm = in.sq_norm.new_empty(in.sq_norm.sizes());
    const DirectionParts parts = Backend::backward(in, at, dy, slopes, ds, d_sq_norm);
    sum = parts.neurons.sum(0);
    if (direction != 0 && !tangent_given) {
      // Parts of one group are neighbors: (groups, blocks, outer, inner) to (outer, groups, inner).
      d_sq_norm =
          parts.sq_norm.reshape({in.groups, -1, s.size(0), s.size(2)}).sum(1).mul_(0.5).transpose(0, 1).contiguous();
    }
  }
  const auto of = [&](int64_t k, bool wanted) { return wanted ? sum.select(0, k).clone() : nothing.clone(); };
  const int64_t count = slopes ? law_sizes[direction].parameters : 0;
  return {ds,
          d_sq_norm,
          of(sum_scale, true),
          of(sum_magnitude_mean, true),
          of(sum_magnitude_std, magnitude != 0),
          of(sum_bias, bias.has_value()),
          of(sum_law_param_0, count > 0 && law_param_0.has_value()),
          of(sum_law_param_1, count > 1 && law_param_1.has_value())};
}

}  // namespace nvrm
