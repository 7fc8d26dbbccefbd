// What the arithmetic of the noise contract runs on: one element at a time here, 8 or 16 in csrc/cpu.
//
// Everything in csrc/math and csrc/math/update_rule.h is written once, over a "lanes" class L that names its vector
// types. `float` and a GCC vector of 16 floats share the operators + - * / >> << & | ^ and ?:, so the same lines
// compile for a scalar, for AVX2, for AVX-512 and (as scalars) for CUDA. What has no operator is a member function of
// L.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define NVRM_INLINE __host__ __device__ __forceinline__
#else
#define NVRM_INLINE inline __attribute__((always_inline))
#endif

// What is seldom run, or long: compiled once and not in every place that calls it. Not for CUDA, where a call costs a
// stack and the registers that it may change.
#if defined(__CUDACC__)
#define NVRM_NOINLINE NVRM_INLINE
#else
#define NVRM_NOINLINE __attribute__((noinline))
#endif

// NVRM_UNROLL(n) before a loop, in the words of the compiler at hand.
#define NVRM_PRAGMA(words) _Pragma(#words)
#if defined(__CUDACC__)
#define NVRM_UNROLL(n) NVRM_PRAGMA(unroll n)
#else
#define NVRM_UNROLL(n) NVRM_PRAGMA(GCC unroll n)
#endif

namespace nvrm {

struct ScalarLanes {
  using F = float;     // floating-point values
  using D = double;    // the same for float64 parameters
  using U = uint32_t;  // random words
  using I = int32_t;   // the same bits, signed
  using W = uint64_t;  // one 32-bit word in the low half of 64 bits, anything above it (see philox.h)
  using M = bool;      // of a comparison
  static constexpr int width = 1;

  NVRM_INLINE static float broadcast(float x) { return x; }
  NVRM_INLINE static bool all(bool mask) { return mask; }

  NVRM_INLINE static float fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return std::fma(a, b, c);
#endif
  }

  // x x + y for x whose square is exact: of at most 26 bits.
  NVRM_INLINE static double add_square(double x, double y) { return x * x + y; }

  NVRM_INLINE static float sqrt(float x) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#else
    return std::sqrt(x);
#endif
  }

  // The same for x in [2^-101, 2^128). CUDA: the very steps that __fsqrt_rn takes there (its machine code shows them),
  // without the question whether x lies there; a Newton step on the exact residual rounds correctly.
  NVRM_INLINE static float sqrt_of_normal(float x) {
#if defined(__CUDA_ARCH__)
    float inverse;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    const float root = x * inverse;
    return __fmaf_rn(__fmaf_rn(-root, root, x), inverse * 0.5f, root);
#else
    return sqrt(x);
#endif
  }

  NVRM_INLINE static double sqrt(double x) {
#if defined(__CUDA_ARCH__)
    return __dsqrt_rn(x);
#else
    return std::sqrt(x);
#endif
  }

  template <class T>
  NVRM_INLINE static T divide(T a, T b) {
    return a / b;
  }

  // The same where b is in [2^-126, 2^126) and neither the quotient nor any remainder on the way to it is smaller than
  // float32 has them at full precision. CUDA: the very steps that __fdiv_rn takes there (its machine code shows them),
  // without the question; the last one corrects by an exact remainder.
  NVRM_INLINE static float divide_normal(float a, float b) {
#if defined(__CUDA_ARCH__)
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
    inverse = __fmaf_rn(inverse, __fmaf_rn(-b, inverse, 1.0f), inverse);
    const float quotient = a * inverse;
    return __fmaf_rn(inverse, __fmaf_rn(-b, quotient, a), quotient);
#else
    return a / b;
#endif
  }

  NVRM_INLINE static float to_float(int32_t i) { return static_cast<float>(i); }

  NVRM_INLINE static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
  }

  NVRM_INLINE static float float_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
  }

  NVRM_INLINE static float select(bool mask, float a, float b) { return mask ? a : b; }

  NVRM_INLINE static uint64_t multiply_wide(uint64_t a, uint32_t b) {
    return static_cast<uint64_t>(static_cast<uint32_t>(a)) * b;
  }
};

}  // namespace nvrm
