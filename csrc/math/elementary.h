// ln, sin and cos from correctly rounded operations in a fixed order: the same bits on every device.
//
// The arguments come from a few random bits, so every input was checked: -ln is within 1.8 ulp, sin and cos within
// 1.5 ulp of the truth (tests/test_elementary.py goes through all of them). The coefficients are minimax fits
// (weighted least squares iterated to equal ripple) with each coefficient rounded to float32 before the next is fitted.
#pragma once

#include "lanes.h"

namespace nvrm {

// factor * -ln(n / 2^shift) for an odd integer n < 2^shift; factor is a power of two, so it costs no rounding.
//
// n / 2^shift = 2^e m with m in [2/3, 4/3): e = 0 next to 1, where -ln is small and must keep its relative precision.
template <class L, int shift, int factor>
NVRM_INLINE typename L::F negative_ln(typename L::U n) {
  using F = typename L::F;
  using U = typename L::U;
  using I = typename L::I;
  constexpr uint32_t two_thirds = 0x3f2aaaabu;
  constexpr float scale = static_cast<float>(factor);
  const U offset_bits = L::bits_of(L::to_float((I)n)) - (two_thirds + (static_cast<uint32_t>(shift) << 23));
  const F e = L::to_float((I)offset_bits >> 23);
  const F f = L::float_from_bits((offset_bits & 0x7fffffu) + two_thirds) - 1.0f;

  // -ln(1 + f) / f
  F q = L::broadcast(scale * -0x1.1f243cp-3f);
  q = L::fma(q, f, L::broadcast(scale * 0x1.3b0e5cp-3f));
  q = L::fma(q, f, L::broadcast(scale * -0x1.1ea94cp-3f));
  q = L::fma(q, f, L::broadcast(scale * 0x1.503884p-3f));
  q = L::fma(q, f, L::broadcast(scale * -0x1.99d3a8p-3f));
  q = L::fma(q, f, L::broadcast(scale * 0x1.001450p-2f));
  q = L::fma(q, f, L::broadcast(scale * -0x1.5554fcp-2f));
  q = L::fma(q, f, L::broadcast(scale * 0x1.ffffd6p-2f));
  q = L::fma(q, f, L::broadcast(scale * -1.0f));
  return L::fma(e, L::broadcast(scale * -0x1.62e430p-1f), q * f);
}

// sin and cos of (pi / 4) t / 2048, for t in (-2048, 2048): powers of two cost nothing and spare a multiplication.
template <class L>
NVRM_INLINE void sine_cosine_of_eighth_turns(typename L::F t, typename L::F* sine, typename L::F* cosine) {
  using F = typename L::F;
  const F z = t * t;
  F p = L::fma(L::broadcast(-0x1.331990p-15f * 0x1p-77f), z, L::broadcast(0x1.4680a4p-9f * 0x1p-55f));
  p = L::fma(p, z, L::broadcast(-0x1.4abc24p-4f * 0x1p-33f));
  p = L::fma(p, z, L::broadcast(0x1.921fb6p-1f * 0x1p-11f));
  *sine = p * t;
  F q = L::fma(L::broadcast(-0x1.4cfc44p-12f * 0x1p-66f), z, L::broadcast(0x1.03a78cp-6f * 0x1p-44f));
  q = L::fma(q, z, L::broadcast(-0x1.3bd366p-2f * 0x1p-22f));
  *cosine = L::fma(q, z, L::broadcast(0x1.fffffep-1f));
}

}  // namespace nvrm
