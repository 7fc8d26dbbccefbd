// 128 elements of noise at a time: 16 Philox blocks, whose words' two values each fill a row of 16 neighbours.
#pragma once

#include "../noise/distribution.h"
#include "../noise/side_by_side.h"
#include "kernels.h"

namespace nvrm {
namespace {

// Counters of a vector of consecutive blocks: the even ones and the odd ones apart, each in a vector of its own.
template <class L>
NVRM_INLINE Two<typename L::W> even_and_odd(uint32_t block_low) {
  const typename L::W even = L::even_blocks() + uint64_t{block_low};
  return {even, even + uint64_t{1}};
}

// The four words of L::width consecutive blocks.
template <class L>
NVRM_INLINE void philox_words(uint32_t block_low, uint32_t block_high, const PhiloxSchedule& key,
                              typename L::U* words) {
  using W = typename L::W;
  if constexpr (L::width == 1) {
    W wide[4];
    philox4x32<L>(W{block_low}, block_high, key, wide);
    for (int k = 0; k < 4; ++k) words[k] = static_cast<uint32_t>(wide[k]);
  } else {
    Two<W> wide[4];
    philox4x32<SideBySide<L>>(even_and_odd<L>(block_low), block_high, key, wide);
    for (int k = 0; k < 4; ++k) words[k] = L::interleave(wide[k].a, wide[k].b);
  }
}

// The same for two draws, their generators side by side.
template <class L>
NVRM_INLINE void philox_words(uint64_t block_a, uint64_t block_b, const TwoSchedules& keys, typename L::U* words_a,
                              typename L::U* words_b) {
  using W = typename L::W;
  const uint32_t low_a = static_cast<uint32_t>(block_a), low_b = static_cast<uint32_t>(block_b);
  const Two<uint64_t> high{block_a >> 32, block_b >> 32};
  if constexpr (L::width == 1) {
    Two<W> wide[4];
    philox4x32<SideBySide<L>>(Two<W>{low_a, low_b}, high, keys, wide);
    for (int k = 0; k < 4; ++k) {
      words_a[k] = static_cast<uint32_t>(wide[k].a);
      words_b[k] = static_cast<uint32_t>(wide[k].b);
    }
  } else {
    Two<Two<W>> wide[4];
    philox4x32<SideBySide<SideBySide<L>>>(Two<Two<W>>{even_and_odd<L>(low_a), even_and_odd<L>(low_b)}, high, keys,
                                          wide);
    for (int k = 0; k < 4; ++k) {
      words_a[k] = L::interleave(wide[k].a.a, wide[k].a.b);
      words_b[k] = L::interleave(wide[k].b.a, wide[k].b.b);
    }
  }
}

// One kind of noise to draw: what PhiloxSchedule is to a key.
struct Draw {
  PhiloxSchedule key;
  int distribution;
  float scale;
};

// Rows of 16 values from the words of L::width blocks, the j-th of the superblock first.
template <class L, class D>
NVRM_INLINE void write_rows(const typename L::U* words, int j, float scale, float* out) {
  NVRM_UNROLL(4)
  for (int k = 0; k < 4; ++k) {
    typename L::F first, second;
    D::template values<L>(words[k], &first, &second);
    L::store(out + (2 * k) * blocks_per_superblock + j, first * scale);
    L::store(out + (2 * k + 1) * blocks_per_superblock + j, second * scale);
  }
}

// out[0..128) = scale * D(key, elements of the superblock).
template <class L, class D>
NVRM_INLINE void fill_superblock(const Draw& draw, uint64_t superblock, float* out) {
  const uint64_t block = superblock * blocks_per_superblock;
  for (int j = 0; j < blocks_per_superblock; j += L::width) {
    typename L::U words[4];
    philox_words<L>(static_cast<uint32_t>(block) + j, static_cast<uint32_t>(block >> 32), draw.key, words);
    write_rows<L, D>(words, j, draw.scale, out);
  }
}

// Two superblocks of noise, side by side from the generator to the last product.
template <class L, class D>
NVRM_INLINE void fill_two(const Draw& draw_a, uint64_t superblock_a, float* a, const Draw& draw_b,
                          uint64_t superblock_b, float* b) {
  const uint64_t block_a = superblock_a * blocks_per_superblock;
  const uint64_t block_b = superblock_b * blocks_per_superblock;
  for (int j = 0; j < blocks_per_superblock; j += L::width) {
    typename L::U words_a[4], words_b[4];
    philox_words<L>(block_a + j, block_b + j, {draw_a.key, draw_b.key}, words_a, words_b);
    NVRM_UNROLL(4)
    for (int k = 0; k < 4; ++k) {
      Two<typename L::F> first, second;
      D::template values<SideBySide<L>>(Two<typename L::U>{words_a[k], words_b[k]}, &first, &second);
      const int row = 2 * k * blocks_per_superblock + j;
      L::store(a + row, first.a * draw_a.scale);
      L::store(a + row + blocks_per_superblock, second.a * draw_a.scale);
      L::store(b + row, first.b * draw_b.scale);
      L::store(b + row + blocks_per_superblock, second.b * draw_b.scale);
    }
  }
}

template <class L>
void fill_superblock(const Draw& draw, uint64_t superblock, float* out) {
  switch (draw.distribution) {
#define NVRM_CASE(code, D)                        \
  case code:                                      \
    fill_superblock<L, D>(draw, superblock, out); \
    break;
    NVRM_FOR_EACH_DISTRIBUTION(NVRM_CASE)
#undef NVRM_CASE
  }
}

template <class L>
void fill_two(const Draw& draw_a, uint64_t superblock_a, float* a, const Draw& draw_b, uint64_t superblock_b,
              float* b) {
  if (draw_a.distribution != draw_b.distribution) {
    fill_superblock<L>(draw_a, superblock_a, a);
    fill_superblock<L>(draw_b, superblock_b, b);
    return;
  }
  switch (draw_a.distribution) {
#define NVRM_CASE(code, D)                                            \
  case code:                                                          \
    fill_two<L, D>(draw_a, superblock_a, a, draw_b, superblock_b, b); \
    break;
    NVRM_FOR_EACH_DISTRIBUTION(NVRM_CASE)
#undef NVRM_CASE
  }
}

template <class L>
void noise_kernel(const NoiseKey& key, int distribution, float scale, int64_t offset, float* out, int64_t count) {
  alignas(64) float buffer[superblock_size];
  const Draw draw{philox_schedule(key), distribution, scale};
  const int64_t end = offset + count;
  for (int64_t i = offset; i < end;) {
    const int64_t superblock = i / superblock_size;
    const int64_t superblock_end = (superblock + 1) * superblock_size;
    const int64_t skip = i % superblock_size;
    if (skip == 0 && superblock_end + superblock_size <= end) {
      float* at = out + (i - offset);
      fill_two<L>(draw, superblock, at, draw, superblock + 1, at + superblock_size);
      i = superblock_end + superblock_size;
    } else if (skip == 0 && superblock_end <= end) {
      fill_superblock<L>(draw, superblock, out + (i - offset));
      i = superblock_end;
    } else {
      const int64_t stop = superblock_end < end ? superblock_end : end;
      fill_superblock<L>(draw, superblock, buffer);
      memcpy(out + (i - offset), buffer + skip, static_cast<size_t>(stop - i) * sizeof(float));
      i = stop;
    }
  }
}

}  // namespace
}  // namespace nvrm
