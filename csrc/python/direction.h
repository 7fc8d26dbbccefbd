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

// Raises ValueError or TypeError that names the argument. tangent_given: sq_norm is the tangent part itself.
inline void check(const Tensor& s, const Tensor& sq_norm, const Tensor& key, const DirectionSettings& at) {
  NVRM_CHECK_VALUE(s.dim() == 3, "s must have shape (outer, neurons, inner), got ", s.sizes());
  NVRM_CHECK_TYPE(s.is_floating_point(), "s must be a floating-point tensor, got ", s.type());
  check_key(key, s);
  check_stream(at.stream);
  NVRM_CHECK_VALUE(at.direction >= 0 && at.direction < law_count, "law must be a code in [0, ", law_count - 1,
                   "], got ", at.direction);
  NVRM_CHECK_VALUE(at.magnitude >= 0 && at.magnitude <= 2, "magnitude must be a code in [0, 2], got ", at.magnitude);
  NVRM_CHECK_VALUE(at.offset >= 0 && at.offset + s.numel() <= (int64_t{1} << 56),
                   "offset must be in [0, 2^56 - activations], got ", at.offset);
  if (at.direction == 0) return;
  NVRM_CHECK_VALUE(at.fan_in >= 2,
                   "a weight vector of one element has no direction to turn: fan_in must be at least 2");
  NVRM_CHECK_VALUE(at.fan_in <= (int64_t{1} << 30), "fan_in must be at most 2^30, got ", at.fan_in);
  if (at.tangent_given) {
    NVRM_CHECK_VALUE(sq_norm.sizes() == s.sizes(), "a given tangent part must have s's shape ", s.sizes(), ", got ",
                     sq_norm.sizes());
    return;
  }
  NVRM_CHECK_VALUE(sq_norm.dim() == 3 && sq_norm.size(0) == s.size(0) && sq_norm.size(2) == s.size(2),
                   "sq_norm must have shape (", s.size(0), ", groups, ", s.size(2), "), got ", sq_norm.sizes());
  NVRM_CHECK_VALUE(sq_norm.size(1) > 0 && s.size(1) % sq_norm.size(1) == 0,
                   "sq_norm must have a number of groups that divides ", s.size(1), ", got ", sq_norm.size(1));
}

// A pass's tensors, checked: all but the key contiguous, parameters float32. Those that the settings have no use for
// are not there.
struct DirectionInputs {
  DirectionSettings at;
  Tensor s, sq_norm, scale, magnitude_mean, magnitude_std, bias, constants, key;
  int64_t groups;

  // The next fields: ten tensors and the settings, in the schema's order.
  explicit DirectionInputs(Fields& f) {
    s = f.tensor("s");
    const Tensor given_sq_norm = f.tensor("sq_norm");
    scale = f.tensor("scale");
    magnitude_mean = f.tensor("magnitude_mean");
    const Tensor given_std = f.tensor_or_none("magnitude_std");
    bias = f.tensor_or_none("bias");
    f.skip(2);  // the law's parameters: kernels read its constants
    constants = f.tensor("constants");
    key = f.tensor("key");
    at = {f.integer(), f.integer(), f.integer(), f.integer(), f.integer(),
          f.integer(), f.number(),  f.number(),  f.number(),  f.flag()};
    check(s, given_sq_norm, key, at);
    check_contiguous(s, "s");
    groups = at.direction == 0 || at.tangent_given ? 1 : given_sq_norm.size(1);
    const int64_t neurons = s.size(1);
    check_parameter(scale, neurons, s, "scale");
    check_parameter(magnitude_mean, neurons, s, "magnitude_mean");
    if (at.magnitude != 0) {
      NVRM_CHECK_VALUE(given_std.is_there(), "magnitude noise needs magnitude_std");
      magnitude_std = given_std;
      check_parameter(magnitude_std, neurons, s, "magnitude_std");
    }
    if (bias.is_there()) check_parameter(bias, neurons, s, "bias");
    check_parameter(constants, law_sizes[at.direction].rows * neurons, s, "constants");
    if (at.direction != 0) {
      sq_norm = given_sq_norm;
      check_parameter(sq_norm, sq_norm.numel(), s, "sq_norm");
    }
  }
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
