// Where the elements of a permuted tensor lie, such as one in channels_last: a row of 4 by two divisions, by
// multiplication, that serve all operands. With math/tensor_table.h's Layout each element of each operand takes a
// 64-bit division a dimension.
#pragma once

#include "../math/tensor_table.h"
#include "element_map.h"

namespace nvrm {

// Divides numbers below 2^31 by one that the host knows.
struct Divisor {
  uint32_t value;
  uint32_t multiplier;  // 2^(32 + shift) / value, rounded up
  int shift;

  NVRM_INLINE uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>(uint64_t{n} * multiplier >> 32) >> shift;
  }
};

// value: 2 to 2^31. With 2^shift < value <= 2^(shift + 1) the multiplier fits 32 bits, and by rounding it up the
// product gains less than n * value / 2^(32 + shift) < 1 of a quotient's distance to the next.
inline Divisor divisor_of(uint32_t value) {
  int shift = 0;
  while (uint64_t{2} << shift < value) ++shift;
  return {value, static_cast<uint32_t>(((uint64_t{1} << (32 + shift)) + value - 1) / value), shift};
}

// A layout of two or three dimensions that is the same in all operands. All positions are below 2^31.
struct Walk {
  Divisor inner;   // size of the last dimension; at least 3, so that a row of 4 lies in two stretches of it at most
  Divisor middle;  // of the one before
  uint32_t strides[3];  // from the outermost; 0 where there are two dimensions
  // From behind the end of a stretch to the start of the next: within the middle dimension, and at its end.
  uint32_t next_stretch;
  uint32_t next_outer;
  bool row_major_gradient;  // which is then in row-major order, unlike the others

  NVRM_INLINE uint32_t position(uint32_t i) const {
    const uint32_t above = inner.quotient(i), outer = middle.quotient(above);
    return outer * strides[0] + (above - outer * middle.value) * strides[1] + (i - above * inner.value) * strides[2];
  }

  // Of the row of 4 from element i on, all of which are there.
  NVRM_INLINE void row_positions(uint32_t i, uint32_t* at) const {
    const uint32_t above = inner.quotient(i), outer = middle.quotient(above);
    const uint32_t place = i - above * inner.value, stretch = above - outer * middle.value;
    const uint32_t first = outer * strides[0] + stretch * strides[1] + place * strides[2];
    const uint32_t next = stretch + 1 == middle.value ? next_outer : next_stretch;
    NVRM_UNROLL(4)
    for (uint32_t e = 0; e < row_elements; ++e) {
      at[e] = first + e * strides[2] + (place + e >= inner.value ? next : 0);
    }
  }
};

// Fills `walk` and returns true where the layout is one. has_operand(o): whether the tensor has that operand.
template <class Has>
bool find_walk(const Layout& layout, int64_t numel, Has has_operand, Walk& walk) {
  constexpr int64_t limit = int64_t{1} << 31;
  if (layout.dims != 2 && layout.dims != 3) return false;
  const int inner = layout.dims - 1, middle = layout.dims - 2;
  if (layout.sizes[inner] < 3 || layout.sizes[middle] < 2 || numel >= limit) return false;
  const auto& strides = layout.strides[parameter_operand];
  int64_t last = 0;
  for (int d = 0; d < layout.dims; ++d) {
    if (strides[d] < 0) return false;
    if (layout.sizes[d] >= limit || strides[d] >= limit) return false;
    last += (layout.sizes[d] - 1) * strides[d];
  }
  if (last >= limit) return false;
  walk = Walk{};
  for (int o = 0; o < operand_count; ++o) {
    if (!has_operand(o)) continue;
    bool is_row_major = true;
    int64_t below = 1;
    for (int d = inner; d >= 0; --d) {
      is_row_major = is_row_major && layout.strides[o][d] == below;
      below *= layout.sizes[d];
    }
    bool is_same = true;
    for (int d = 0; d < layout.dims; ++d) is_same = is_same && layout.strides[o][d] == strides[d];
    if (is_same) continue;
    if (o != gradient_operand || !is_row_major) return false;
    walk.row_major_gradient = true;
  }
  walk.inner = divisor_of(static_cast<uint32_t>(layout.sizes[inner]));
  walk.middle = divisor_of(static_cast<uint32_t>(layout.sizes[middle]));
  for (int d = 0; d < layout.dims; ++d) walk.strides[3 - layout.dims + d] = static_cast<uint32_t>(strides[d]);
  // Modulo 2^32, as all of a row's positions.
  const uint32_t stretch = walk.inner.value * walk.strides[2];
  walk.next_stretch = walk.strides[1] - stretch;
  walk.next_outer = walk.strides[0] - (walk.middle.value - 1) * walk.strides[1] - stretch;
  return true;
}

}  // namespace nvrm
