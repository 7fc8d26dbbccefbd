// Philox's words in the order of elements, L::width consecutive blocks at a time.
#pragma once

#include "side_by_side.h"

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

}  // namespace
}  // namespace nvrm
