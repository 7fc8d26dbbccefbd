// The noise of one thread's part: its 4 Philox blocks, and what their words become.
#pragma once

#include "../math/distribution.h"
#include "element_map.h"
#include "lanes_cuda.h"

namespace nvrm {

// A thread keeps its words in shared memory: 4 Philox blocks of two draws are 32 registers otherwise, and a loop over
// them would have to move them. Word k of the thread's 4 blocks is one row; the rows of neighboring threads are
// neighbors, so no two threads meet in a memory bank. No thread reads another's.
using WordRow = Row<uint32_t>;
struct WordStore {
  WordRow row[4][threads_per_cta];
};

// A key serves as its own schedule: a step's comes from device memory, and adding a constant to a word costs less than
// keeping the words of every round (philox.h).
NVRM_INLINE uint64_t stream_of(const NoiseKey& key) { return key.stream; }
NVRM_INLINE uint64_t step_of(const NoiseKey& key) { return key.step; }
NVRM_INLINE uint64_t round_key_0(const NoiseKey& key, int round) {
  return key.seed_low + static_cast<uint32_t>(round) * philox_weyl_0;
}
NVRM_INLINE uint64_t round_key_1(const NoiseKey& key, int round) {
  return key.seed_high + static_cast<uint32_t>(round) * philox_weyl_1;
}

template <class Key>
NVRM_INLINE void draw_words(const Part& part, const Key& key, int thread, WordStore& words) {
  // 16 blocks of a superblock share the high word.
  const uint64_t block = philox_block(part);
  const uint32_t low = static_cast<uint32_t>(block), high = static_cast<uint32_t>(block >> 32);
  WordRow drawn[4];
  NVRM_UNROLL(4)
  for (int b = 0; b < row_elements; ++b) {
    uint64_t wide[4];
    philox4x32<CudaLanes>(uint64_t{low + static_cast<uint32_t>(b)}, high, key, wide);
    NVRM_UNROLL(4)
    for (int k = 0; k < 4; ++k) drawn[k].value[b] = static_cast<uint32_t>(wide[k]);
  }
  NVRM_UNROLL(4)
  for (int k = 0; k < 4; ++k) words.row[k][thread] = drawn[k];
}

// The two rows of elements that come from one row of words, of unit scale.
template <class D>
NVRM_INLINE void two_rows(const WordRow& words, float (*out)[row_elements]) {
  NVRM_UNROLL(4)
  for (int b = 0; b < row_elements; ++b) D::template values<CudaLanes>(words.value[b], &out[0][b], &out[1][b]);
}

// The same; the distribution is known when it runs. All threads of a CTA agree on it, so the branch costs nothing.
NVRM_INLINE void two_rows(int distribution, const WordRow& words, float (*out)[row_elements]) {
  switch (distribution) {
#define NVRM_CASE(code, D)   \
  case code:                 \
    two_rows<D>(words, out); \
    break;
    NVRM_FOR_EACH_DISTRIBUTION(NVRM_CASE)
#undef NVRM_CASE
  }
}

struct FillArguments {
  PhiloxSchedule key;
  float* out;
  int64_t offset;
  int64_t count;
  float scale;
  int distribution;
  bool takes_rows;
};

// out[0..count) = elements [offset, offset + count) of scale * distribution(key): this thread's share.
NVRM_INLINE void noise_thread(const FillArguments& a, uint32_t cta, int thread, WordStore& words) {
  const Part part = part_of(a.offset / superblock_size + static_cast<int64_t>(cta) * superblocks_per_round, thread, 0);
  int64_t i = first_element(part, a.offset);
  if (i >= a.count) return;
  const bool whole = a.takes_rows && is_whole(i, a.count);
  draw_words(part, a.key, thread, words);
  NVRM_UNROLL(1)
  for (int k = 0; k < 4; ++k) {
    float noise[2][row_elements];
    two_rows(a.distribution, words.row[k][thread], noise);
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      if (whole) {
        Row<float> row;
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) row.value[e] = noise[r][e] * a.scale;
        store_row(a.out + i, row);
      } else {
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) {
          if (i + e >= 0 && i + e < a.count) a.out[i + e] = noise[r][e] * a.scale;
        }
      }
      i += blocks_per_superblock;
    }
  }
}

}  // namespace nvrm
