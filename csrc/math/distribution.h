// From one random word to two noise values of unit scale. One struct a distribution; add yours here and in the list at
// the end of this file, with the code of nvrm_fast/reference/distribution.py (the tests take theirs from there).
#pragma once

#include "special_functions.h"

namespace nvrm {

constexpr uint32_t sign_bit = 0x80000000u;

template <class L>
NVRM_INLINE typename L::F flip_sign(typename L::F x, typename L::U word) {
  return L::float_from_bits(L::bits_of(x) ^ (word & sign_bit));
}

// N(0, 1) by Box-Muller: the top 18 bits give the radius, the low 14 the angle.
struct Gaussian {
  template <class L>
  NVRM_INLINE static void values(typename L::U word, typename L::F* first, typename L::F* second) {
    using F = typename L::F;
    const F radius = L::sqrt_of_normal(negative_ln_of_bits<L, 18, 2>((word >> 13) | 1u));
    F cosine, sine;
    cosine_sine_of_half_turns<L>(L::to_float((typename L::I)(word & 0x3fffu)) - 8191.5f, &cosine, &sine);
    *first = radius * cosine;
    *second = radius * sine;
  }
};

// Uniform on (-1, 1), from 16 bits each; 0 and the ends never occur.
struct Uniform {
  template <class L>
  NVRM_INLINE static void values(typename L::U word, typename L::F* first, typename L::F* second) {
    using F = typename L::F;
    // 2^23 + 2 h + 1 without a conversion, by the exponent in front.
    const F odd = L::float_from_bits((word >> 15) | 0x4b000001u);
    *first = L::fma(odd, L::broadcast(0x1p-16f), L::broadcast(-129.0f));
    const F half = L::to_float((typename L::I)(word & 0xffffu));
    *second = L::fma(half, L::broadcast(0x1p-15f), L::broadcast(0x1p-16f - 1.0f));
  }
};

// Laplace(0, 1): an exponential magnitude from 15 bits, the sign from the sixteenth.
struct Laplace {
  template <class L>
  NVRM_INLINE static void values(typename L::U word, typename L::F* first, typename L::F* second) {
    *first = flip_sign<L>(negative_ln_of_bits<L, 15, 1>(((word >> 15) & 0xfffeu) | 1u), word);
    *second = flip_sign<L>(negative_ln_of_bits<L, 15, 1>(((word << 1) & 0xfffeu) | 1u), word << 16);
  }
};

// 1 or -1 with probability 1/2 each: the sign bits of Laplace's halves.
struct Rademacher {
  template <class L>
  NVRM_INLINE static void values(typename L::U word, typename L::F* first, typename L::F* second) {
    const typename L::F one = L::broadcast(1.0f);
    *first = flip_sign<L>(one, word);
    *second = flip_sign<L>(one, word << 16);
  }
};

// Code of each distribution in operator arguments and checkpoints: never renumber.
// clang-format off
#define NVRM_FOR_EACH_DISTRIBUTION(visit) \
  visit(0, Gaussian)                      \
  visit(1, Uniform)                       \
  visit(2, Laplace)                       \
  visit(3, Rademacher)
// clang-format on

#define NVRM_COUNT(code, name) +1
constexpr int distribution_count = NVRM_FOR_EACH_DISTRIBUTION(NVRM_COUNT);
#undef NVRM_COUNT

}  // namespace nvrm
