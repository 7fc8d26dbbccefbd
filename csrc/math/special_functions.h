// ln, exp, sin, cos and the normal quantile from correctly rounded operations in a fixed order: the same bits on every
// device, and the same steps and coefficients as nvrm_fast/reference/special_functions.py.
//
// ln and the pair (cos, sin) stand in two precisions. For the noise they are as exact as the few random bits that they
// act on. All inputs were checked (tests/reference/test_special_functions.py): the error stays below 0.041 of the
// distance to the next input's value, for ln and for the point (cos, sin). The coefficients are minimax fits in that
// measure, each rounded to float32 before the next was fitted; of sin and cos such that means, variances and fourth
// moments over all angles are those of the true functions to 1e-8.
//
// Laws that need more than Box-Muller take those to a few units of float32's last place, in the second half. The
// reference says how their coefficients were found.
#pragma once

#include "lanes.h"

namespace nvrm {

// For the noise.

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
  // An integer below 2^23 with this exponent in front is a float already; taking 2^23 off normalizes it.
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

// To float32's last places.

// factor * -ln(1 + f) / f for f in [-1/3, 1/3]; factor is a power of two, so it costs no rounding.
template <class L, int factor = 1>
NVRM_INLINE typename L::F negative_ln_ratio(typename L::F f) {
  using F = typename L::F;
  constexpr float scale = static_cast<float>(factor);
  F q = L::broadcast(scale * -0x1.1f243cp-3f);
  q = L::fma(q, f, L::broadcast(scale * 0x1.3b0e5cp-3f));
  q = L::fma(q, f, L::broadcast(scale * -0x1.1ea94cp-3f));
  q = L::fma(q, f, L::broadcast(scale * 0x1.503884p-3f));
  q = L::fma(q, f, L::broadcast(scale * -0x1.99d3a8p-3f));
  q = L::fma(q, f, L::broadcast(scale * 0x1.001450p-2f));
  q = L::fma(q, f, L::broadcast(scale * -0x1.5554fcp-2f));
  q = L::fma(q, f, L::broadcast(scale * 0x1.ffffd6p-2f));
  q = L::fma(q, f, L::broadcast(scale * -1.0f));
  return q;
}

// factor * -ln(n / 2^shift) for an odd integer n < 2^shift; factor is a power of two.
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
  return L::fma(e, L::broadcast(scale * -0x1.62e430p-1f), negative_ln_ratio<L, factor>(f) * f);
}

// -ln(x) for positive normal x.
template <class L>
NVRM_INLINE typename L::F negative_ln_of(typename L::F x) {
  using F = typename L::F;
  using U = typename L::U;
  using I = typename L::I;
  constexpr uint32_t two_thirds = 0x3f2aaaabu;
  const U bits = L::bits_of(x) - two_thirds;
  const F e = L::to_float((I)bits >> 23);
  const F f = L::float_from_bits((bits & 0x7fffffu) + two_thirds) - 1.0f;
  return L::fma(e, L::broadcast(-0x1.62e430p-1f), negative_ln_ratio<L>(f) * f);
}

// exp(-y) and 1 - exp(-y), each to its own relative precision for y >= 0; y is cut to [-80, 80].
template <class L>
NVRM_INLINE void exponential(typename L::F y, typename L::F* grown, typename L::F* rest) {
  using F = typename L::F;
  using U = typename L::U;
  y = L::select(y < 80.0f, y, L::broadcast(80.0f));
  y = L::select(y > -80.0f, y, L::broadcast(-80.0f));
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
  const F shifted = L::fma(L::broadcast(0x1.715476p+0f), y, L::broadcast(12582912.0f));
  const F k = shifted - 12582912.0f;
  const F r = L::fma(L::broadcast(-0x1.7f7d1cp-20f), k, L::fma(L::broadcast(-0x1.62e4p-1f), k, y));
  F q = L::broadcast(-0x1.6b96f4p-10f);
  q = L::fma(q, r, L::broadcast(0x1.1226d8p-7f));
  q = L::fma(q, r, L::broadcast(-0x1.5556f8p-5f));
  q = L::fma(q, r, L::broadcast(0x1.5554b2p-3f));
  q = L::fma(q, r, L::broadcast(-0x1.fffffep-2f));
  q = L::fma(q, r, L::broadcast(1.0f));
  const F e = q * r;
  const U integer = L::bits_of(shifted) - 0x4b400000u;
  const F power = L::float_from_bits((127u - integer) << 23);
  *grown = L::fma(-power, e, power);
  *rest = L::fma(power, e, 1.0f - power);
}

// The x with P(|N(0, 1)| < |x|) = |e| and e's sign; tails = 1 - e^2.
template <class L>
NVRM_INLINE typename L::F normal_quantile(typename L::F e, typename L::F tails) {
  using F = typename L::F;
  F w = negative_ln_of<L>(tails);
  w = L::select(w > 0.0f, w, L::broadcast(0.0f));
  const F c = w - 2.5f;
  F p = L::broadcast(0x1.61ee96p-25f);
  p = L::fma(p, c, L::broadcast(0x1.080822p-21f));
  p = L::fma(p, c, L::broadcast(-0x1.4fae5cp-18f));
  p = L::fma(p, c, L::broadcast(-0x1.a5eb72p-18f));
  p = L::fma(p, c, L::broadcast(0x1.443990p-12f));
  p = L::fma(p, c, L::broadcast(-0x1.d0b796p-10f));
  p = L::fma(p, c, L::broadcast(-0x1.833496p-8f));
  p = L::fma(p, c, L::broadcast(0x1.652c74p-2f));
  p = L::fma(p, c, L::broadcast(0x1.0fc8bep+1f));
  const F t = L::sqrt(w) - 3.0f;
  F q = L::broadcast(0x1.da6d18p-14f);
  q = L::fma(q, t, L::broadcast(-0x1.7986a2p-12f));
  q = L::fma(q, t, L::broadcast(-0x1.15c464p-15f));
  q = L::fma(q, t, L::broadcast(0x1.05e970p-9f));
  q = L::fma(q, t, L::broadcast(-0x1.4ded56p-8f));
  q = L::fma(q, t, L::broadcast(0x1.08f9c8p-7f));
  q = L::fma(q, t, L::broadcast(-0x1.61ffaap-7f));
  q = L::fma(q, t, L::broadcast(0x1.b57c76p-7f));
  q = L::fma(q, t, L::broadcast(0x1.6aa52cp+0f));
  q = L::fma(q, t, L::broadcast(0x1.00696cp+2f));
  return L::select(w < 5.0f, p, q) * e;
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

// sin and cos of (pi / 2) s for s in [-1, 1], by the double angle.
template <class L>
NVRM_INLINE void sine_cosine_of_quarter_turns(typename L::F s, typename L::F* sine, typename L::F* cosine) {
  typename L::F half_sine, half_cosine;
  sine_cosine_of_eighth_turns<L>(s * 2048.0f, &half_sine, &half_cosine);
  *sine = (half_sine + half_sine) * half_cosine;
  *cosine = (half_cosine - half_sine) * (half_cosine + half_sine);
}

}  // namespace nvrm
