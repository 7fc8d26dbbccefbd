// One lane with the storage types, on the device (and, for tests, on the host): see math/lanes.h.
#pragma once

#include <type_traits>

#include "../math/lanes_portable.h"

namespace nvrm {

struct CudaLanes : ScalarLanes {
  NVRM_INLINE static float widen(float x) { return x; }
  NVRM_INLINE static double widen(double x) { return x; }
  NVRM_INLINE static float widen(BFloat16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }
  NVRM_INLINE static float widen(Float16 x) {
#if defined(__CUDA_ARCH__)
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    return float_from_half(x.bits);
#endif
  }

  NVRM_INLINE static void narrow(float x, float& stored) { stored = x; }
  NVRM_INLINE static void narrow(double x, double& stored) { stored = x; }
  NVRM_INLINE static void narrow(float x, BFloat16& stored) {
    stored.bits = static_cast<uint16_t>(bfloat16_bits<ScalarLanes>(x));
  }
  NVRM_INLINE static void narrow(float x, Float16& stored) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(stored.bits) : "f"(x));
#else
    stored.bits = half_from_float(x);
#endif
  }
};

// Four neighbours as one access; float64 takes two.
template <class T>
struct alignas(sizeof(T) * 4 < 16 ? sizeof(T) * 4 : 16) Row {
  T value[4];
};

}  // namespace nvrm
