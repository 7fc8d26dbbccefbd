// One lane in standard C++, for every processor that has no file of its own: see math/lanes.h.
#pragma once

#include "storage.h"

namespace nvrm {

NVRM_INLINE float float_from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero and subnormal numbers: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  // A quiet bit as the hardware sets it, for NaN.
  if (exponent == 31)
    return ScalarLanes::float_from_bits(sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u));
  return ScalarLanes::float_from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

NVRM_INLINE uint16_t half_from_float(float x) {
  const uint32_t bits = ScalarLanes::bits_of(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 lines the bits up with 2^-24 and lets the addition round to nearest even.
    const uint32_t lined_up = ScalarLanes::bits_of(ScalarLanes::float_from_bits(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (lined_up - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

struct PortableLanes : ScalarLanes {
  NVRM_INLINE static bool any(uint64_t word) { return word != 0; }
  NVRM_INLINE static void load(const float* p, float& x) { x = *p; }
  NVRM_INLINE static void load(const double* p, double& x) { x = *p; }
  NVRM_INLINE static void load(const float* p, double& x) { x = *p; }
  NVRM_INLINE static void load(const BFloat16* p, float& x) {
    x = float_from_bits(static_cast<uint32_t>(p->bits) << 16);
  }
  NVRM_INLINE static void load(const Float16* p, float& x) { x = float_from_half(p->bits); }
  NVRM_INLINE static void store(float* p, float x) { *p = x; }
  NVRM_INLINE static void store(double* p, double x) { *p = x; }
  NVRM_INLINE static void stream(float* p, float x) { *p = x; }
  NVRM_INLINE static void end_stream() {}
  NVRM_INLINE static void store(BFloat16* p, float x) {
    p->bits = static_cast<uint16_t>(bfloat16_bits<ScalarLanes>(x));
  }
  NVRM_INLINE static void store(Float16* p, float x) { p->bits = half_from_float(x); }
};

}  // namespace nvrm
