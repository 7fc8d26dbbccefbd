// Eight lanes: see math/lanes.h. Include only where the compiler may use AVX2, FMA and F16C (kernels_avx2.cpp).
#pragma once

#include <immintrin.h>

#include "../math/storage.h"

namespace nvrm {

struct Avx2Lanes {
  typedef float F __attribute__((vector_size(32)));
  typedef double D __attribute__((vector_size(32)));
  typedef uint32_t U __attribute__((vector_size(32)));
  typedef int32_t I __attribute__((vector_size(32)));
  typedef uint64_t W __attribute__((vector_size(32)));
  // Of a comparison: on Windows clang makes it of long, which is int32_t there, but another type.
  using M = decltype(F{} > F{});
  static constexpr int width = 8;

  NVRM_INLINE static F broadcast(float x) { return (F)_mm256_set1_ps(x); }
  NVRM_INLINE static F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
  NVRM_INLINE static D add_square(D x, D y) { return (D)_mm256_fmadd_pd((__m256d)x, (__m256d)x, (__m256d)y); }
  NVRM_INLINE static F sqrt(F x) { return (F)_mm256_sqrt_ps((__m256)x); }
  NVRM_INLINE static F sqrt_of_normal(F x) { return sqrt(x); }
  NVRM_INLINE static D sqrt(D x) { return (D)_mm256_sqrt_pd((__m256d)x); }
  NVRM_INLINE static F divide(F a, F b) { return a / b; }
  NVRM_INLINE static D divide(D a, D b) { return a / b; }
  NVRM_INLINE static F to_float(I i) { return (F)_mm256_cvtepi32_ps((__m256i)i); }
  NVRM_INLINE static U bits_of(F x) { return (U)x; }
  NVRM_INLINE static F float_from_bits(U bits) { return (F)bits; }
  NVRM_INLINE static F select(M mask, F a, F b) { return mask ? a : b; }
  NVRM_INLINE static bool all(M mask) { return _mm256_movemask_ps((__m256)mask) == 0xff; }
  NVRM_INLINE static bool any(W words) { return _mm256_testz_si256((__m256i)words, (__m256i)words) == 0; }
  NVRM_INLINE static W multiply_wide(W a, uint32_t b) { return (W)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b)); }

  // Philox runs on even and odd blocks apart; these are the even ones of 8 neighbors, and the way back to order.
  NVRM_INLINE static W even_blocks() { return W{0, 2, 4, 6}; }
  NVRM_INLINE static U interleave(W even, W odd) {
    return (U)_mm256_blend_epi32((__m256i)even, _mm256_slli_epi64((__m256i)odd, 32), 0xaa);
  }

  // Storage types to lanes and back; stores round to nearest even.
  NVRM_INLINE static void load(const float* p, F& x) { x = (F)_mm256_loadu_ps(p); }
  NVRM_INLINE static void load(const double* p, D& x) { x = (D)_mm256_loadu_pd(p); }
  NVRM_INLINE static void load(const float* p, D& x) { x = (D)_mm256_cvtps_pd(_mm_loadu_ps(p)); }
  NVRM_INLINE static void load(const BFloat16* p, F& x) {
    x = (F)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16);
  }
  NVRM_INLINE static void load(const Float16* p, F& x) {
    x = (F)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  NVRM_INLINE static void store(float* p, F x) { _mm256_storeu_ps(p, (__m256)x); }
  NVRM_INLINE static void store(double* p, D x) { _mm256_storeu_pd(p, (__m256d)x); }
  // Past the caches, for what is written and not read again soon; p must be aligned to 32 bytes.
  NVRM_INLINE static void stream(float* p, F x) { _mm256_stream_ps(p, (__m256)x); }
  // To be called before another thread may read what was streamed.
  NVRM_INLINE static void end_stream() { _mm_sfence(); }
  NVRM_INLINE static void store(BFloat16* p, F x) {
    const __m256i rounded = (__m256i)bfloat16_bits<Avx2Lanes>(x);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  NVRM_INLINE static void store(Float16* p, F x) {
    const __m128i half = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
  }
};

}  // namespace nvrm
