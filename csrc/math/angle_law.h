// Laws of the angle by which a noise turns a direction: nvrm_fast/reference/angles.py in lanes. A new law: a struct
// here, and a line in the list at the end of this file, with the code of nvrm_fast/contract/laws.py.
#pragma once

#include "variates.h"

namespace nvrm {
namespace {

template <class L>
struct Angle {
  typename L::F cosine, sine, slope[2];
};

// Of each law: rows of constants for each neuron, and parameters that have gradients.
struct NoDirection {
  static constexpr int rows = 0, parameters = 0;
};

// The square root of chi^2 with fan_in - 1 degrees of freedom; words: the element's first block.
template <class L>
NVRM_INLINE typename L::F chi(const Blocks<L>& blocks, const typename L::U* words, const LayerScalars& at) {
  using F = typename L::F;
  if (at.fan_in == 2) {
    F x, unused;
    Gaussian::values<L>(words[2], &x, &unused);
    return L::select(x < 0.0f, -x, x);
  }
  typename L::M accepted;
  const F first = gamma_proposal<L>(words[2], words[3], at.chi, &accepted);
  const F v = first_accepted<L>(first, accepted, [&](uint32_t trial, typename L::M* now) {
    typename L::U further[4];
    blocks.further_words(trial, further);
    return gamma_proposal<L>(further[2], further[3], at.chi, now);
  });
  return L::sqrt(v * at.chi_two_d);
}

struct Projected {
  static constexpr int rows = 1, parameters = 1;

  template <class L>
  NVRM_INLINE static Angle<L> turn(const Blocks<L>& blocks, const typename L::U* words, const typename L::F* constant,
                                   const LayerScalars& at, bool) {
    using F = typename L::F;
    F unused, along;
    Gaussian::values<L>(words[1], &unused, &along);
    const F length = chi<L>(blocks, words, at);
    const F across = constant[0] * length;
    const F forward = L::fma(constant[0], along, L::broadcast(1.0f));
    const F inverse = 1.0f / L::sqrt(L::fma(forward, forward, across * across));
    return {forward * inverse, across * inverse, {length * (inverse * inverse), F{}}};
  }
};

struct Tangent {
  static constexpr int rows = 1, parameters = 1;

  template <class L>
  NVRM_INLINE static Angle<L> turn(const Blocks<L>& blocks, const typename L::U* words, const typename L::F* constant,
                                   const LayerScalars& at, bool) {
    using F = typename L::F;
    const F length = chi<L>(blocks, words, at);
    const F across = constant[0] * length;
    const F inverse = 1.0f / L::sqrt(L::fma(across, across, L::broadcast(1.0f)));
    return {inverse, across * inverse, {length * (inverse * inverse), F{}}};
  }
};

struct Rotation {
  static constexpr int rows = 9, parameters = 2;

  template <class L>
  NVRM_INLINE static Angle<L> turn(const Blocks<L>&, const typename L::U* words, const typename L::F* constant,
                                   const LayerScalars& at, bool slopes) {
    using F = typename L::F;
    const F mean = constant[0], deviation = constant[1], e_low = constant[2], e_high = constant[3];
    const F mass = constant[4], above = constant[5], below = constant[6], a = constant[7], b = constant[8];
    const F n = L::to_float((typename L::I)odd_24<L>(words[2]));
    const F gamma = n * 0x1p-24f;
    const F rest = (0x1p24f - n) * 0x1p-24f;
    const F e = L::fma(e_high, gamma, e_low * rest);
    const F tails = L::fma(mass, rest, above) * L::fma(mass, gamma, below);
    const F x = normal_quantile<L>(e, tails);
    F angle = L::fma(deviation, x, mean);
    angle = L::select(angle > at.low, angle, L::broadcast(at.low));
    angle = L::select(angle < at.high, angle, L::broadcast(at.high));
    Angle<L> turned = {};
    sine_cosine_of_quarter_turns<L>(angle * 0x1.45f306p-1f, &turned.sine, &turned.cosine);
    if (slopes) {
      F low_density, high_density, unused;
      exponential<L>(((a - x) * (a + x)) * 0.5f, &low_density, &unused);
      exponential<L>(((b - x) * (b + x)) * 0.5f, &high_density, &unused);
      const F at_low = rest * low_density;
      const F at_high = gamma * high_density;
      turned.slope[0] = 1.0f - (at_low + at_high);
      turned.slope[1] = x - L::fma(a, at_low, b * at_high);
    }
    return turned;
  }
};

struct BetaRotation {
  static constexpr int rows = 1, parameters = 1;

  template <class L>
  NVRM_INLINE static Angle<L> turn(const Blocks<L>&, const typename L::U* words, const typename L::F* constant,
                                   const LayerScalars&, bool slopes) {
    using F = typename L::F;
    const F ln = negative_ln<L, 19, 1>((words[2] >> 13) | 1u);
    const F c = cosine_of_turns<L>(words[2]);
    const F inverse = constant[0];
    F v, m;
    exponential<L>(ln * inverse, &v, &m);
    const F d = L::fma(m * c, c, v);
    Angle<L> turned = {};
    sine_cosine_of_quarter_turns<L>(c * L::sqrt(m / d), &turned.sine, &turned.cosine);
    if (slopes) {
      const F moved = (v * ln) * (inverse * inverse) / (d * d);
      turned.slope[0] = (c * -0x1.921fb6p-1f) * (L::sqrt(d / m) * moved);
    }
    return turned;
  }
};

struct VonMisesFisher {
  static constexpr int rows = 2, parameters = 0;

  template <class L>
  NVRM_INLINE static typename L::F propose(const typename L::U* words, typename L::F x0, const LayerScalars& at,
                                           typename L::M* accepted) {
    using F = typename L::F;
    const F proposed = sphere_coordinate<L>(words[2], at.fan_in, at.sphere_rate);
    const F p = x0 * proposed;
    const F o = 1.0f + p;
    const F slack = (p / o + negative_ln_of<L>(o)) * at.fan_in_less_one;
    *accepted = negative_ln<L, 24, 1>(odd_24<L>(words[3])) + slack > 0.0f;
    return proposed;
  }

  template <class L>
  NVRM_INLINE static Angle<L> turn(const Blocks<L>& blocks, const typename L::U* words, const typename L::F* constant,
                                   const LayerScalars& at, bool) {
    using F = typename L::F;
    const F x0 = constant[0];
    typename L::M accepted;
    const F first = propose<L>(words, x0, at, &accepted);
    const F x = first_accepted<L>(first, accepted, [&](uint32_t trial, typename L::M* now) {
      typename L::U further[4];
      blocks.further_words(trial, further);
      return propose<L>(further, x0, at, now);
    });
    const F o = 1.0f + x0 * x;
    F across = L::fma(-x, x, L::broadcast(1.0f));
    across = L::select(across > 0.0f, across, L::broadcast(0.0f));
    return {(x0 + x) / o, constant[1] * L::sqrt(across) / o, {F{}, F{}}};
  }
};

// Code of each law in operator arguments: never renumber.
// clang-format off
#define NVRM_FOR_EACH_LAW(visit) \
  visit(0, NoDirection)          \
  visit(1, Projected)            \
  visit(2, Tangent)              \
  visit(3, Rotation)             \
  visit(4, BetaRotation)         \
  visit(5, VonMisesFisher)
// clang-format on

// What the host asks about them.
struct LawSize {
  int code, rows, parameters;
};

constexpr LawSize law_sizes[] = {
#define NVRM_SIZE(code, Law) {code, Law::rows, Law::parameters},
    NVRM_FOR_EACH_LAW(NVRM_SIZE)
#undef NVRM_SIZE
};
constexpr int law_count = sizeof(law_sizes) / sizeof(law_sizes[0]);

constexpr bool codes_count_up() {
  for (int i = 0; i < law_count; ++i) {
    if (law_sizes[i].code != i) return false;
  }
  return true;
}
static_assert(codes_count_up(), "the laws are listed in the order of their codes, from 0");

}  // namespace

}  // namespace nvrm
