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

// For numbers of which a rule has seen that roots and quotients of them are far from where float32 ends.
struct UsualLanes : CudaLanes {
  NVRM_INLINE static float sqrt(float x) { return sqrt_of_normal(x); }
  NVRM_INLINE static float divide(float a, float b) { return divide_normal(a, b); }
};

// Four neighbors as one access; float64 takes two.
template <class T>
struct alignas(sizeof(T) * 4 < 16 ? sizeof(T) * 4 : 16) Row {
  T value[4];
};

// Writes a row to global memory as one access. nvcc turns the assignment of a struct into a store for each element
// (and the load of one into a wide load), so the instruction is written out.
NVRM_INLINE void store_row(float* address, const Row<float>& row) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)), "f"(row.value[0]),
               "f"(row.value[1]), "f"(row.value[2]), "f"(row.value[3])
               : "memory");
#else
  *reinterpret_cast<Row<float>*>(address) = row;
#endif
}

NVRM_INLINE void store_row(double* address, const Row<double>& row) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "st.global.v2.f64 [%0], {%1, %2};\n\t"
      "st.global.v2.f64 [%0+16], {%3, %4};" ::"l"(__cvta_generic_to_global(address)),
      "d"(row.value[0]), "d"(row.value[1]), "d"(row.value[2]), "d"(row.value[3])
      : "memory");
#else
  *reinterpret_cast<Row<double>*>(address) = row;
#endif
}

// BFloat16 and Float16.
template <class T>
NVRM_INLINE void store_row(T* address, const Row<T>& row) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.global.v4.u16 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)),
               "h"(row.value[0].bits), "h"(row.value[1].bits), "h"(row.value[2].bits), "h"(row.value[3].bits)
               : "memory");
#else
  *reinterpret_cast<Row<T>*>(address) = row;
#endif
}

}  // namespace nvrm
