// One activation of L::width neighbors: the law of cosines for a neuron's direction, its noisy copy and the input.
// nvrm_fast/reference/direction_noise.py has the formulas and their source; the order of operations is the same.
#pragma once

#include "angle_law.h"

namespace nvrm {

namespace {

// A neuron's parameters, in every lane or one neuron a lane.
template <class L, class Law>
struct Neuron {
  typename L::F scale, magnitude_mean, magnitude_std, bias;
  typename L::F constant[Law::rows + 1];
};

template <class L>
struct Activation {
  typename L::F unit, across, u_over_rho, d, factor, xi;
  Angle<L> angle;
};

// sq_norm: |x|^2, or, if given, the tangent part itself.
template <class L, class Law, bool backward>
NVRM_INLINE Activation<L> activate(const Blocks<L>& blocks, typename L::F s, typename L::F sq_norm,
                                   const Neuron<L, Law>& neuron, Magnitude magnitude, bool tangent_given,
                                   const LayerScalars& at, bool slopes) {
  using F = typename L::F;
  constexpr bool directed = Law::rows > 0;
  typename L::U words[4];
  if (directed || magnitude == Magnitude::normal) blocks.words(0, words);

  Activation<L> a;
  a.factor = neuron.magnitude_mean;
  a.xi = L::broadcast(0.0f);
  if (magnitude == Magnitude::normal) {
    F unused;
    Gaussian::values<L>(words[1], &a.xi, &unused);
    a.factor = L::fma(neuron.magnitude_std, a.xi, neuron.magnitude_mean);
  } else if (magnitude == Magnitude::gamma) {
    a.xi = gamma_magnitude<L>(blocks, at);
    a.factor = L::fma(neuron.magnitude_std, a.xi, neuron.magnitude_mean);
  }

  a.unit = s * neuron.scale;
  a.d = a.unit;
  a.u_over_rho = L::broadcast(0.0f);
  if constexpr (directed) {
    a.angle = Law::template turn<L>(blocks, words, neuron.constant, at, slopes);
    if (tangent_given) {
      a.across = sq_norm;
    } else {
      const F u = sphere_coordinate<L>(words[0], at.fan_in - 1, at.tangent_rate);
      F rest = L::fma(-a.unit, a.unit, sq_norm);
      rest = L::select(rest > 0.0f, rest, L::broadcast(0.0f));
      const F rho = L::sqrt(rest);
      a.across = rho * u;
      // No more than rounding error where x is parallel to the direction: rho has no gradient there.
      if (backward) a.u_over_rho = L::select(rest > sq_norm * 0x1p-22f, u / rho, L::broadcast(0.0f));
    }
    a.d = L::fma(a.angle.cosine, a.unit, a.angle.sine * a.across);
  }
  return a;
}

// Which of the sums a law has a part in.
template <class Law>
constexpr int used_sums = sum_law_param_0 + Law::parameters;

// One activation's parts of the sums; returns the gradient for s. tangent: for |x|^2, twice over, or for what is given.
template <class L, class Law>
NVRM_INLINE typename L::F differentiate(const Activation<L>& a, typename L::F s, typename L::F grad,
                                        const Neuron<L, Law>& neuron, bool tangent_given, typename L::F* parts,
                                        typename L::F* tangent) {
  using F = typename L::F;
  const F dd = grad * a.factor;
  const F moved = grad * a.d;
  parts[sum_magnitude_mean] = moved;
  parts[sum_magnitude_std] = moved * a.xi;
  parts[sum_bias] = grad;
  F d_unit = dd;
  if constexpr (Law::rows > 0) {
    const F cosine = a.angle.cosine, sine = a.angle.sine;
    const F h = sine * a.u_over_rho;
    d_unit = dd * L::fma(-a.unit, h, cosine);
    *tangent = tangent_given ? dd * sine : dd * h;
    if constexpr (Law::parameters > 0) {
      const F turning = dd * L::fma(cosine, a.across, -(sine * a.unit));
      parts[sum_law_param_0] = turning * a.angle.slope[0];
      if constexpr (Law::parameters > 1) parts[sum_law_param_1] = turning * a.angle.slope[1];
    }
  }
  parts[sum_scale] = d_unit * s;
  return d_unit * neuron.scale;
}

}  // namespace
}  // namespace nvrm
