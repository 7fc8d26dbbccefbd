// 128 elements of noise at a time: 16 Philox blocks, whose words' two values each fill a row of 16 neighbors.
#pragma once

#include "../math/distribution.h"
#include "../math/philox_words.h"
#include "../math/turn.h"
#include "cpu_kernels.h"

namespace nvrm {
namespace {

// One kind of noise to draw: what PhiloxSchedule is to a key. A word's two values fill a row each, of two neighboring
// rows; a turn may exchange the two.
struct Draw {
  PhiloxSchedule key;
  int distribution;
  float first_scale;
  float second_scale;
  int first_row;  // where the first value's row begins, and the second's, of the 32 elements of both
  int second_row;

  int turn;

  Draw(const PhiloxSchedule& key, int distribution, float scale, int turn = 0)
      : key(key), distribution(distribution), turn(turn) {
    set_scale(scale);
  }

  void set_scale(float scale) {
    const TurnedScale turned = turned_scale(scale, turn);
    first_scale = turned.exchange ? turned.odd : turned.even;
    second_scale = turned.exchange ? turned.even : turned.odd;
    first_row = turned.exchange ? blocks_per_superblock : 0;
    second_row = blocks_per_superblock - first_row;
  }

  // Writes the values of the k-th word of L::width blocks, the j-th of the superblock first.
  template <class L>
  NVRM_INLINE void write(int k, int j, typename L::F first, typename L::F second, float* out) const {
    float* rows = out + 2 * k * blocks_per_superblock + j;
    L::store(rows + first_row, first * first_scale);
    L::store(rows + second_row, second * second_scale);
  }
};

// out[0..128) = scale * D(key, elements of the superblock).
template <class L, class D>
NVRM_INLINE void fill_superblock(const Draw& draw, uint64_t superblock, float* out) {
  const uint64_t block = superblock * blocks_per_superblock;
  for (int j = 0; j < blocks_per_superblock; j += L::width) {
    typename L::U words[4];
    philox_words<L>(static_cast<uint32_t>(block) + j, static_cast<uint32_t>(block >> 32), draw.key, words);
    NVRM_UNROLL(4)
    for (int k = 0; k < 4; ++k) {
      typename L::F first, second;
      D::template values<L>(words[k], &first, &second);
      draw.write<L>(k, j, first, second, out);
    }
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
      draw_a.write<L>(k, j, first.a, second.a, a);
      draw_b.write<L>(k, j, first.b, second.b, b);
    }
  }
}

// The same superblocks twice, by one draw's two turns: its values are made once.
template <class L, class D>
NVRM_INLINE void fill_turns(const Draw& draw, const Draw& turned, uint64_t superblock_a, float* a, float* turned_a,
                            uint64_t superblock_b, float* b, float* turned_b) {
  const uint64_t block_a = superblock_a * blocks_per_superblock;
  const uint64_t block_b = superblock_b * blocks_per_superblock;
  for (int j = 0; j < blocks_per_superblock; j += L::width) {
    typename L::U words_a[4], words_b[4];
    philox_words<L>(block_a + j, block_b + j, {draw.key, draw.key}, words_a, words_b);
    NVRM_UNROLL(4)
    for (int k = 0; k < 4; ++k) {
      Two<typename L::F> first, second;
      D::template values<SideBySide<L>>(Two<typename L::U>{words_a[k], words_b[k]}, &first, &second);
      draw.write<L>(k, j, first.a, second.a, a);
      turned.write<L>(k, j, first.a, second.a, turned_a);
      draw.write<L>(k, j, first.b, second.b, b);
      turned.write<L>(k, j, first.b, second.b, turned_b);
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
void fill_turns(const Draw& draw, const Draw& turned, uint64_t superblock_a, float* a, float* turned_a,
                uint64_t superblock_b, float* b, float* turned_b) {
  switch (draw.distribution) {
#define NVRM_CASE(code, D)                                                                \
  case code:                                                                              \
    fill_turns<L, D>(draw, turned, superblock_a, a, turned_a, superblock_b, b, turned_b); \
    break;
    NVRM_FOR_EACH_DISTRIBUTION(NVRM_CASE)
#undef NVRM_CASE
  }
}

template <class L>
void noise_kernel(const NoiseKey& key, int distribution, float scale, int64_t offset, float* out, int64_t count) {
  alignas(64) float buffer[superblock_size];
  const Draw draw(philox_schedule(key), distribution, scale);
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
