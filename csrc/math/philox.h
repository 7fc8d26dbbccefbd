// Philox4x32-7 (Salmon et al., SC 2011; Random123), for counters of which only word 0 varies between lanes.
#pragma once

#include "lanes.h"

namespace nvrm {

// Which stretch of noise: everything but the element index (see the README, "The noise contract").
struct NoiseKey {
  uint32_t seed_low;
  uint32_t seed_high;
  uint32_t stream;
  uint32_t step;
};

// Elements are laid out in superblocks: 16 Philox blocks, each of which gives 8 elements that lie 16 apart.
constexpr int64_t superblock_size = 128;
constexpr int blocks_per_superblock = 16;

// The fewest rounds with which Philox4x32 passes BigCrush, by its authors' tests; in the orders in which this project
// uses counters release/noise_battery.py tests it, and compiles fewer to see that its tests can fail.
#ifndef NVRM_PHILOX_ROUNDS
#define NVRM_PHILOX_ROUNDS 7
#endif
constexpr int philox_rounds = NVRM_PHILOX_ROUNDS;

constexpr uint32_t philox_multiplier_0 = 0xD2511F53u;
constexpr uint32_t philox_multiplier_1 = 0xCD9E8D57u;
constexpr uint32_t philox_weyl_0 = 0x9E3779B9u;
constexpr uint32_t philox_weyl_1 = 0xBB67AE85u;

// A key with what its rounds need, worked out once for many blocks: kept in memory, each word is broadcast by the
// instruction that uses it. 64-bit, because that is what an operand of L::W is.
struct PhiloxSchedule {
  uint64_t stream;
  uint64_t step;
  uint64_t round_key_0[philox_rounds];
  uint64_t round_key_1[philox_rounds];
};

NVRM_INLINE PhiloxSchedule philox_schedule(const NoiseKey& key) {
  PhiloxSchedule schedule;
  schedule.stream = key.stream;
  schedule.step = key.step;
  uint32_t k0 = key.seed_low, k1 = key.seed_high;
  for (int round = 0; round < philox_rounds; ++round) {
    schedule.round_key_0[round] = k0;
    schedule.round_key_1[round] = k1;
    k0 += philox_weyl_0;
    k1 += philox_weyl_1;
  }
  return schedule;
}

// How the generator reads a key, so that it may also be a pair of keys (side_by_side.h).
NVRM_INLINE uint64_t stream_of(const PhiloxSchedule& key) { return key.stream; }
NVRM_INLINE uint64_t step_of(const PhiloxSchedule& key) { return key.step; }
NVRM_INLINE uint64_t round_key_0(const PhiloxSchedule& key, int round) { return key.round_key_0[round]; }
NVRM_INLINE uint64_t round_key_1(const PhiloxSchedule& key, int round) { return key.round_key_1[round]; }
NVRM_INLINE uint64_t wide_product(uint64_t x, uint32_t y) { return ScalarLanes::multiply_wide(x, y); }

// words[0..3]: the block with counter (block_low, block_high, stream, step).
//
// L::W holds a 32-bit word in the low half of each 64-bit lane and anything in the high half: then a round is two
// widening products, two shifts and two three-way xors, with no shuffle in between.
//
// Counter words 1 to 3 are the same in every lane. Their products stay scalar through the first two rounds, which
// saves a tenth of the vector work; the function computed is plain Philox.
template <class L, class High, class Schedule>
NVRM_INLINE void philox4x32(typename L::W block_low, High block_high, const Schedule& key, typename L::W* words) {
  using W = typename L::W;

  // Round 1: only the product of block_low is a vector.
  W product_0 = L::multiply_wide(block_low, philox_multiplier_0);
  auto uniform_product = wide_product(stream_of(key), philox_multiplier_1);
  const auto uniform_0 = (uniform_product >> 32) ^ block_high ^ round_key_0(key, 0);
  const auto uniform_1 = uniform_product;
  W c2 = (product_0 >> 32) ^ (step_of(key) ^ round_key_1(key, 0));
  W c3 = product_0;

  // Round 2: the other way round.
  uniform_product = wide_product(uniform_0, philox_multiplier_0);
  W product_1 = L::multiply_wide(c2, philox_multiplier_1);
  W c0 = (product_1 >> 32) ^ (uniform_1 ^ round_key_0(key, 1));
  W c1 = product_1;
  c2 = c3 ^ ((uniform_product >> 32) ^ round_key_1(key, 1));
  const auto uniform_3 = uniform_product;

  // Round 3: word 3 is still uniform.
  product_0 = L::multiply_wide(c0, philox_multiplier_0);
  product_1 = L::multiply_wide(c2, philox_multiplier_1);
  c0 = (product_1 >> 32) ^ c1 ^ round_key_0(key, 2);
  c1 = product_1;
  c2 = (product_0 >> 32) ^ (uniform_3 ^ round_key_1(key, 2));
  c3 = product_0;

  NVRM_UNROLL(7)
  for (int round = 3; round < philox_rounds; ++round) {
    product_0 = L::multiply_wide(c0, philox_multiplier_0);
    product_1 = L::multiply_wide(c2, philox_multiplier_1);
    c0 = (product_1 >> 32) ^ c1 ^ round_key_0(key, round);
    c1 = product_1;
    c2 = (product_0 >> 32) ^ c3 ^ round_key_1(key, round);
    c3 = product_0;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

}  // namespace nvrm
