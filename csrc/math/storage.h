// The 16-bit storage types, as bits: no torch header may be compiled with AVX-512 switched on (inline functions of
// the standard library would then be shared with code that runs on older processors).
#pragma once

#include "lanes.h"

namespace nvrm {

// How a tensor's elements are stored.
enum class ScalarKind { float32, float64, bfloat16, float16 };

inline int bytes_of(ScalarKind kind) { return kind == ScalarKind::float64 ? 8 : kind == ScalarKind::float32 ? 4 : 2; }

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

// bfloat16 bits of x in the low half of each lane: to nearest even, every NaN to 0x7fc0 as torch does.
template <class L>
NVRM_INLINE typename L::U bfloat16_bits(typename L::F x) {
  using U = typename L::U;
  const U bits = L::bits_of(x);
  const U rounded = (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;
  const auto is_number = x == x;
  return is_number ? rounded : (U{} + 0x7fc0u);
}

}  // namespace nvrm
