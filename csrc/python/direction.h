// direction_noise and its backward as every device has them; nvrm_fast/ops/direction.py has the schemas, and
// nvrm_fast/ops/native.py calls this. A backend makes the pass: forward, and backward, which returns parts of the sums.
#pragma once

#include <cmath>

#include "../math/angle_law.h"
#include "../math/layer_scalars.h"
#include "fields.h"
#include "layer_arguments.h"

namespace nvrm {

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

// A pass's tensors, checked: all but the key contiguous, parameters float32. Those that the settings have no use for
// are not there.
struct DirectionInputs {
  DirectionSettings at;
  Tensor s, sq_norm, scale, magnitude_mean, magnitude_std, bias, constants, key;
  int64_t groups;

  // The next fields: ten tensors and the settings, in the schema's order. Raises ValueError or TypeError that names the
  // argument.
  explicit DirectionInputs(Fields& f);

  // Whether a backward pass leaves parts of the gradient for |x|^2.
  bool has_sq_norm_parts() const { return at.direction != 0 && !at.tangent_given; }
};

// Of a backward pass: the gradient that comes, and where those of s and, of a given tangent part, of that go.
struct DirectionGradients {
  Tensor grad, ds, d_tangent;
  bool slopes;
};

// What a backward pass leaves to be added up: neurons (parts, neuron_sums, neurons), and, unless the tangent part is
// given, sq_norm (parts, outer, inner), ordered by groups: twice the gradient for |x|^2.
struct DirectionParts {
  Parts neurons, sq_norm;
};

struct DirectionBackend {
  void (*forward)(const DirectionInputs& in, const Tensor& y);
  // like: the object of s, which makes the parts.
  DirectionParts (*backward)(const DirectionInputs& in, const DirectionGradients& out, const pybind11::object& like);
};

DirectionBackend direction_on_cpu();
DirectionBackend direction_on_cuda();

// What Python calls. call: the schema's arguments, without float64; the results are made before. Nothing is written
// where there is nothing to compute. backward returns the parts, and None for those that are not there.
void direction_noise_from_python(const pybind11::tuple& call, const pybind11::object& y);
pybind11::tuple direction_noise_backward_from_python(const pybind11::tuple& call, const pybind11::object& ds,
                                                     const pybind11::object& d_tangent);

}  // namespace nvrm
