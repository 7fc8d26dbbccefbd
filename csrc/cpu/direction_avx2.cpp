// The layers' kernels for x86-64 processors with AVX2, FMA and F16C.
#if defined(__x86_64__)
// Standard headers come before the target is widened: their inline functions must stay fit for every processor.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "lanes_avx2.h"
#include "direction_kernel.h"

namespace nvrm {
namespace {

struct Avx2Masks : Avx2Lanes {
  using M = I;
  NVRM_INLINE static bool all(I mask) { return _mm256_movemask_ps((__m256)mask) == 0xff; }
};

}  // namespace

extern const LayerKernels avx2_layers = {
    "avx2",
    local_kernel<Avx2Masks, false>,
    local_kernel<Avx2Masks, true>,
};

}  // namespace nvrm

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
