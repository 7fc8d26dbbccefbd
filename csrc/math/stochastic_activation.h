// One activation with a predicted mean and standard deviation, and its part of the regularizer's sums.
// nvrm_fast/reference/stochastic.py has the formulas and their source; the order of operations is the same.
#pragma once

#include "distribution.h"

namespace nvrm {

// Which regularizer is summed. Codes in operator arguments: never renumber.
enum class Sums { nothing, neuron, sample, element, divergence };
constexpr int64_t sums_count = 5;

namespace {

template <class L>
struct Deviation {
  typename L::F sigma, log, slope, log_slope;
};

// softplus, its logarithm and both slopes: `deviation` of the reference, step by step.
template <class L>
NVRM_INLINE Deviation<L> deviation(typename L::F raw) {
  using F = typename L::F;
  F grown, rest;
  exponential<L>(L::float_from_bits(L::bits_of(raw) & 0x7fffffffu), &grown, &rest);
  // ln(1 + t) = ln(1 + f) for small t; beyond, ln 2 + ln(1 + f) with f = (t - 1) / 2.
  const auto small = grown < 0x1.555554p-2f;
  const F f = small ? grown : (grown - 1.0f) * 0.5f;
  const F zero = L::broadcast(0.0f);
  const auto negative = raw < 0.0f;
  Deviation<L> d;
  // Not a maximum: NaN stays NaN.
  d.sigma = (negative ? zero : raw) + ((small ? zero : L::broadcast(0x1.62e430p-1f)) - negative_ln_ratio<L>(f) * f);
  d.log = raw > -40.0f ? -negative_ln_of<L>(d.sigma) : raw;
  d.slope = (negative ? grown : L::broadcast(1.0f)) / (1.0f + grown);
  d.log_slope = d.slope / d.sigma;
  return d;
}

template <class L>
struct StochasticActivation {
  Deviation<L> deviation;
  typename L::F value;
};

// mean + sigma eps, and ReLU of it if so.
template <class L>
NVRM_INLINE StochasticActivation<L> activate(typename L::F mean, typename L::F raw, typename L::F eps, bool relu) {
  StochasticActivation<L> a;
  a.deviation = deviation<L>(raw);
  a.value = L::fma(a.deviation.sigma, eps, mean);
  // Not a maximum: NaN stays NaN.
  if (relu) a.value = a.value < 0.0f ? L::broadcast(0.0f) : a.value;
  return a;
}

// What the activation adds to the regularizer's sum.
template <class L, Sums sums>
NVRM_INLINE typename L::F added_to_sum(const StochasticActivation<L>& a, typename L::F mean, float margin) {
  const Deviation<L>& d = a.deviation;
  if constexpr (sums == Sums::neuron || sums == Sums::sample) {
    return d.log;
  } else if constexpr (sums == Sums::element) {
    const typename L::F missing = margin - d.log;
    return missing < 0.0f ? L::broadcast(0.0f) : missing;
  } else if constexpr (sums == Sums::divergence) {
    return (mean * mean + d.sigma * d.sigma - 1.0f) * 0.5f - d.log;
  } else {
    return L::broadcast(0.0f);
  }
}

// Gradients for mean and raw deviation; grad: for the value, weight: for the sum.
template <class L, Sums sums>
NVRM_INLINE void differentiate(const StochasticActivation<L>& a, typename L::F mean, typename L::F eps,
                               typename L::F grad, typename L::F weight, bool relu, float margin, typename L::F* d_mean,
                               typename L::F* d_raw) {
  const Deviation<L>& d = a.deviation;
  if (relu) grad = a.value > 0.0f ? grad : L::broadcast(0.0f);
  *d_mean = grad;
  *d_raw = (grad * eps) * d.slope;
  if constexpr (sums == Sums::neuron || sums == Sums::sample) *d_raw = L::fma(weight, d.log_slope, *d_raw);
  if constexpr (sums == Sums::element) {
    *d_raw = d.log < margin ? L::fma(-weight, d.log_slope, *d_raw) : *d_raw;
  }
  if constexpr (sums == Sums::divergence) {
    *d_mean = L::fma(weight, mean, *d_mean);
    *d_raw = L::fma(weight, L::fma(d.sigma, d.slope, -d.log_slope), *d_raw);
  }
}

}  // namespace
}  // namespace nvrm
