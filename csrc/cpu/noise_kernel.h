// 128 elements of noise at a time: 16 Philox blocks, whose words' two values each fill a row of 16 neighbors.
#pragma once

#include "../math/distribution.h"
#include "../math/philox_words.h"
#include "cpu_kernels.h"

namespace nvrm {
namespace {

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
