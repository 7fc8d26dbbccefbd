// Which thread of a launch works on which elements. Plain arithmetic, shared by the kernels and by the tests that go
// through a whole launch on the CPU.
//
// A thread owns 4 neighboring Philox blocks of a superblock. Each block gives one element to each of the 8 lanes, so
// the thread owns 8 rows of 4 neighboring elements: every access is one of 4 elements (16 bytes of float32), and no
// word changes threads. The 4 threads of a superblock read 64 consecutive bytes a row, two full sectors, and take two
// rows at a time, a full cache line.
#pragma once

#include "../math/philox.h"

namespace nvrm {

constexpr int row_elements = 4;
constexpr int rows = 8;
constexpr int threads_per_superblock = blocks_per_superblock / row_elements;
constexpr int threads_per_cta = 128;  // of a CUDA thread block, called a CTA here: "block" is Philox's
constexpr int superblocks_per_round = threads_per_cta / threads_per_superblock;
constexpr int most_rounds = 8;  // of a CTA
constexpr int64_t most_cta_elements = most_rounds * superblocks_per_round * superblock_size;

// A thread's part of one superblock.
struct Part {
  int64_t superblock;  // global: counted from element 0 of the unsharded tensor
  int first_block;     // of its 4 Philox blocks, within the superblock
};

// thread: within its CTA; round: a CTA works through its superblocks, superblocks_per_round at a time.
NVRM_INLINE Part part_of(int64_t first_superblock, int thread, int round) {
  return {first_superblock + static_cast<int64_t>(round) * superblocks_per_round + thread / threads_per_superblock,
          thread % threads_per_superblock * row_elements};
}

NVRM_INLINE uint64_t philox_block(const Part& part) {
  return static_cast<uint64_t>(part.superblock) * blocks_per_superblock + static_cast<uint64_t>(part.first_block);
}

// The tensor's own index of the first element of the part's first row; below 0 where a shard starts behind it. Rows
// are blocks_per_superblock apart.
NVRM_INLINE int64_t first_element(const Part& part, int64_t offset) {
  return part.superblock * superblock_size - offset + part.first_block;
}

// Whether all 8 rows lie within a tensor of numel elements.
NVRM_INLINE bool is_whole(int64_t first, int64_t numel) {
  return first >= 0 && first + (rows - 1) * blocks_per_superblock + row_elements <= numel;
}

}  // namespace nvrm
