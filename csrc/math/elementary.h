// ln, sin and cos for the noise, from correctly rounded operations in a fixed order: the same bits on every device.
//
// They are as exact as the few random bits that they act on. All inputs were checked (tests/reference/
// test_elementary.py): the error stays below 0.041 of the distance to the next input's value, for ln and for the point
// (cos, sin). The coefficients are minimax fits in that measure, each rounded to float32 before the next was fitted; of
// sin and cos such that means, variances and fourth moments over all angles are those of the true functions to 1e-8.
// What needs ln, sin and cos to float32's last place has its own (csrc/math/functions.h).
#pragma once

#include "lanes.h"

namespace nvrm {

// What -ln m deviates by from the line through its values at the ends of [1, 2], for m = 1.5 + f, times factor.
template <class L, int bits, int factor>
NVRM_INLINE typename L::F ln_curve(typename L::F f) {
  static_assert(bits == 18 || bits == 15, "a fit for so many bits is to be added");
  using F = typename L::F;
  constexpr float scale = static_cast<float>(factor);
  if constexpr (bits == 18) {
    F q = L::broadcast(scale * -0x1.4610b6p-7f);
    q = L::fma(q, f, L::broadcast(scale * 0x1.1d1668p-6f));
    q = L::fma(q, f, L::broadcast(scale * -0x1.ab8a12p-6f));
    q = L::fma(q, f, L::broadcast(scale * 0x1.90de5ap-5f));
    q = L::fma(q, f, L::broadcast(scale * -0x1.94960ep-4f));
    q = L::fma(q, f, L::broadcast(scale * 0x1.c72858p-3f));
    q = L::fma(q, f, L::broadcast(scale * 0x1.b1db60p-6f));
    return L::fma(q, f, L::broadcast(scale * -0x1.e270d6p-5f));
  } else {
    F q = L::broadcast(scale * 0x1.153734p-6f);
    q = L::fma(q, f, L::broadcast(scale * -0x1.f27e92p-6f));
    q = L::fma(q, f, L::broadcast(scale * 0x1.9255fcp-5f));
    q = L::fma(q, f, L::broadcast(scale * -0x1.9262d4p-4f));
    q = L::fma(q, f, L::broadcast(scale * 0x1.c71fa0p-3f));
    q = L::fma(q, f, L::broadcast(scale * 0x1.b195dep-6f));
    return L::fma(q, f, L::broadcast(scale * -0x1.e2705cp-5f));
  }
}

// factor * -ln(n / 2^(bits + 1)) for an odd integer n below 2^(bits + 1), given as n or with 0x4b000000 for the
// exponent of 2^23 in front; factor is a power of two, so it costs no rounding.
//
// n / 2^(bits + 1) = 2^e m with m in [1, 2). As an integer, its representation less that of 1 is 2^23 (e + m - 1), so
// one conversion gives e and the linear part of ln m at once, and the rest is a short polynomial.
template <class L, int bits, int factor>
NVRM_INLINE typename L::F negative_ln_of_bits(typename L::U n) {
  using F = typename L::F;
  using I = typename L::I;
  // An integer below 2^23 with this exponent in front is a float already; taking 2^23 off normalises it.
  const auto representation = L::bits_of(L::float_from_bits(n | 0x4b000000u) - 0x1p23f);
  const F linear = L::to_float((I)(representation - (static_cast<uint32_t>(128 + bits) << 23)));
  const F f = L::float_from_bits((representation & 0x7fffffu) | 0x3f800000u) - 1.5f;
  constexpr float slope = static_cast<float>(factor) * -0x1.62e430p-1f * 0x1p-23f;
  return L::fma(linear, L::broadcast(slope), ln_curve<L, bits, factor>(f));
}

// cos and sin of pi t / 8192, for t in (-8192, 8192), by those of half the angle, times sqrt(2):
// cos 2a = 1 - 2 sin^2 a, sin 2a = 2 sin a cos a. Powers of two cost nothing and spare a multiplication.
template <class L>
NVRM_INLINE void cosine_sine_of_half_turns(typename L::F t, typename L::F* cosine, typename L::F* sine) {
  using F = typename L::F;
  const F z = t * t;
  F p = L::fma(L::broadcast(-0x1.91c50ep-8f * 0x1p-91f), z, L::broadcast(0x1.cc2442p-4f * 0x1p-65f));
  p = L::fma(p, z, L::broadcast(-0x1.d3ad28p-1f * 0x1p-39f));
  p = L::fma(p, z, L::broadcast(0x1.1c57f2p+1f * 0x1p-13f));
  p = p * t;
  F q = L::fma(L::broadcast(-0x1.bbf534p-6f * 0x1p-78f), z, L::broadcast(0x1.6df1ecp-2f * 0x1p-52f));
  q = L::fma(q, z, L::broadcast(-0x1.be9754p+0f * 0x1p-26f));
  q = L::fma(q, z, L::broadcast(0x1.6a09fcp+0f));
  *cosine = L::fma(-p, p, L::broadcast(1.0f));
  *sine = p * q;
}

}  // namespace nvrm
