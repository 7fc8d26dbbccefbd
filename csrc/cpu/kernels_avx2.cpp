// The kernels for x86-64 processors with AVX2, FMA and F16C.
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
#include "step_kernel.h"
#include "stochastic_kernel.h"

namespace nvrm {

extern const CpuKernels avx2_kernels = {
    "avx2",
    noise_kernel<Avx2Lanes>,
    rule_kernel<Avx2Lanes>,
    reperturb_kernel<Avx2Lanes>,
    measure_kernel<Avx2Lanes>,
    direction_kernel<Avx2Lanes, false>,
    direction_kernel<Avx2Lanes, true>,
    stochastic_kernel<Avx2Lanes, false>,
    stochastic_kernel<Avx2Lanes, true>,
};

}  // namespace nvrm

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
