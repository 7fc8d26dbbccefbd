// The kernels for x86-64 processors with AVX-512 (F, BW, DQ, VL).
#if defined(__x86_64__)
// Standard headers come before the target is widened: their inline functions must stay fit for every processor.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
// GCC 12's own intrinsics read a register that they call undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#include "lanes_avx512.h"
#include "direction_kernel.h"
#include "step_kernel.h"
#include "stochastic_kernel.h"

namespace nvrm {

extern const CpuKernels avx512_kernels = {
    "avx512",
    noise_kernel<Avx512Lanes>,
    rule_kernel<Avx512Lanes>,
    reperturb_kernel<Avx512Lanes>,
    measure_kernel<Avx512Lanes>,
    direction_kernel<Avx512Lanes, false>,
    direction_kernel<Avx512Lanes, true>,
    stochastic_kernel<Avx512Lanes, false>,
    stochastic_kernel<Avx512Lanes, true>,
};

}  // namespace nvrm

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
