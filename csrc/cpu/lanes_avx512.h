// Sixteen lanes: see math/lanes.h. Include only where the compiler may use AVX-512 (kernels_avx512.cpp).
#pragma once

#include <immintrin.h>

#include "../math/storage.h"

namespace nvrm {

struct Avx512Lanes {
  typedef float F __attribute__((vector_size(64)));
  typedef double D __attribute__((vector_size(64)));
  typedef uint32_t U __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
  typedef uint64_t W __attribute__((vector_size(64)));
  // Of a comparison: on Windows clang makes it of long, which is int32_t there, but another type.
  using M = decltype(F{} > F{});
  static constexpr int width = 16;

  NVRM_INLINE static F broadcast(float x) { return (F)_mm512_set1_ps(x); }
  NVRM_INLINE static F fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
  NVRM_INLINE static D add_square(D x, D y) { return (D)_mm512_fmadd_pd((__m512d)x, (__m512d)x, (__m512d)y); }
  NVRM_INLINE static F sqrt(F x) { return (F)_mm512_sqrt_ps((__m512)x); }
  NVRM_INLINE static F sqrt_of_normal(F x) { return sqrt(x); }
  NVRM_INLINE static D sqrt(D x) { return (D)_mm512_sqrt_pd((__m512d)x); }
  NVRM_INLINE static F divide(F a, F b) { return a / b; }
  NVRM_INLINE static D divide(D a, D b) { return a / b; }
  NVRM_INLINE static F to_float(I i) { return (F)_mm512_cvtepi32_ps((__m512i)i); }
  NVRM_INLINE static U bits_of(F x) { return (U)x; }
  NVRM_INLINE static F float_from_bits(U bits) { return (F)bits; }
  NVRM_INLINE static F select(M mask, F a, F b) { return mask ? a : b; }
  NVRM_INLINE static bool all(M mask) { return _mm512_movepi32_mask((__m512i)mask) == 0xffff; }
  NVRM_INLINE static bool any(W words) { return _mm512_test_epi64_mask((__m512i)words, (__m512i)words) != 0; }
  NVRM_INLINE static W multiply_wide(W a, uint32_t b) { return (W)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b)); }

  // Philox runs on even and odd blocks apart; these are the even ones of 16 neighbors, and the way back to order.
  NVRM_INLINE static W even_blocks() { return W{0, 2, 4, 6, 8, 10, 12, 14}; }
  NVRM_INLINE static U interleave(W even, W odd) {
    return (U)_mm512_mask_shuffle_epi32((__m512i)even, 0xaaaa, (__m512i)odd, _MM_PERM_CCAA);
  }

  // Storage types to lanes and back; stores round to nearest even.
  NVRM_INLINE static void load(const float* p, F& x) { x = (F)_mm512_loadu_ps(p); }
  NVRM_INLINE static void load(const double* p, D& x) { x = (D)_mm512_loadu_pd(p); }
  NVRM_INLINE static void load(const float* p, D& x) { x = (D)_mm512_cvtps_pd(_mm256_loadu_ps(p)); }
  NVRM_INLINE static void load(const BFloat16* p, F& x) {
    x = (F)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16);
  }
  NVRM_INLINE static void load(const Float16* p, F& x) {
    x = (F)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  NVRM_INLINE static void store(float* p, F x) { _mm512_storeu_ps(p, (__m512)x); }
  NVRM_INLINE static void store(double* p, D x) { _mm512_storeu_pd(p, (__m512d)x); }
  // Past the caches, for what is written and not read again soon; p must be aligned to 64 bytes.
  NVRM_INLINE static void stream(float* p, F x) { _mm512_stream_ps(p, (__m512)x); }
  // To be called before another thread may read what was streamed.
  NVRM_INLINE static void end_stream() { _mm_sfence(); }
  NVRM_INLINE static void store(BFloat16* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)bfloat16_bits<Avx512Lanes>(x)));
  }
  NVRM_INLINE static void store(Float16* p, F x) {
    const __m256i half = _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
  }
};

}  // namespace nvrm
