// From one random word to two noise values of unit scale. One struct a distribution; add yours here, in the list at
// the end of this file, and in nvrm_fast/reference/distribution.py (the tests take both from the table there).
#pragma once

#include "elementary.h"

namespace nvrm {

constexpr uint32_t sign_bit = 0x80000000u;

template <class L>
NVRM_INLINE typename L::F flip_sign(typename L::F x, typename L::U word) {
  return L::float_from_bits(L::bits_of(x) ^ (word & sign_bit));
}

// N(0, 1) by Box-Muller. The top 18 bits give the radius; the low 14 the angle, whose two top bits are the quadrant
// and whose other twelve are an angle in (-pi/4, pi/4), so that no range reduction is needed.
struct Gaussian {
  template <class L>
  NVRM_INLINE static void values(typename L::U word, typename L::F* first, typename L::F* second) {
    using F = typename L::F;
    using I = typename L::I;
    const F radius = L::sqrt(negative_ln<L, 19, 2>((word >> 13) | 1u));
    const F t = L::to_float((I)(word & 0xfffu)) - 2047.5f;
    F sine, cosine;
    sine_cosine_of_eighth_turns<L>(t, &sine, &cosine);
    const auto odd_quadrant = (word & 0x1000u) != 0u;
    const F x = L::select(odd_quadrant, sine, cosine);
    const F y = L::select(odd_quadrant, cosine, sine);
    *first = radius * flip_sign<L>(x, (word << 18) ^ (word << 19));
    *second = radius * flip_sign<L>(y, word << 18);
  }
};

// Uniform on (-1, 1), from 16 bits each; 0 and the ends never occur.
struct Uniform {
  template <class L>
  NVRM_INLINE static void values(typename L::U word, typename L::F* first, typename L::F* second) {
    *first = from_half<L>(word >> 16);
    *second = from_half<L>(word & 0xffffu);
  }
  template <class L>
  NVRM_INLINE static typename L::F from_half(typename L::U half) {
    return L::fma(L::to_float((typename L::I)half), L::broadcast(0x1p-15f), L::broadcast(0x1p-16f - 1.0f));
  }
};

// Laplace(0, 1): an exponential magnitude from 15 bits, the sign from the sixteenth.
struct Laplace {
  template <class L>
  NVRM_INLINE static void values(typename L::U word, typename L::F* first, typename L::F* second) {
    *first = flip_sign<L>(negative_ln<L, 16, 1>(((word >> 15) & 0xfffeu) | 1u), word);
    *second = flip_sign<L>(negative_ln<L, 16, 1>(((word << 1) & 0xfffeu) | 1u), word << 16);
  }
};

// Code of each distribution in operator arguments and checkpoints: never renumber.
// clang-format off
#define NVRM_FOR_EACH_DISTRIBUTION(visit) \
  visit(0, Gaussian)                      \
  visit(1, Uniform)                       \
  visit(2, Laplace)
// clang-format on

constexpr int distribution_count = 3;

}  // namespace nvrm
