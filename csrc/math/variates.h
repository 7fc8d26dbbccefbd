// Random numbers of L::width neighboring activations, a Philox block for each: which word is for what is said in
// nvrm_fast/reference/activation.py.
#pragma once

#include "distribution.h"
#include "layer_scalars.h"
#include "philox_words.h"

namespace nvrm {

constexpr uint32_t trials = 64;
constexpr uint32_t gamma_trials = 128;

namespace {

template <class L>
struct Blocks {
  const PhiloxSchedule* key;
  uint64_t element;

  // The four words of each lane's block: element + lane + trial * 2^56.
  NVRM_INLINE void words(uint32_t trial, typename L::U* out) const {
    const uint32_t low = static_cast<uint32_t>(element);
    if (low > ~static_cast<uint32_t>(L::width - 1)) return words_across(trial, out);
    philox_words<L>(low, static_cast<uint32_t>(element >> 32) | trial << 24, *key, out);
  }

  // The same, where speed matters less than the size of the code.
  NVRM_NOINLINE void further_words(uint32_t trial, typename L::U* out) const { words(trial, out); }

  // Some lanes are past a multiple of 2^32.
  NVRM_NOINLINE void words_across(uint32_t trial, typename L::U* out) const {
    if constexpr (L::width > 1) {
      const uint32_t low = static_cast<uint32_t>(element);
      typename L::U beyond[4];
      philox_words<L>(low, static_cast<uint32_t>(element >> 32) | trial << 24, *key, out);
      philox_words<L>(low, static_cast<uint32_t>((element + L::width) >> 32) | trial << 24, *key, beyond);
      const typename L::U lane = low + L::interleave(L::even_blocks(), L::even_blocks() + uint64_t{1});
      for (int k = 0; k < 4; ++k) out[k] = lane < low ? beyond[k] : out[k];
    }
  }
};

// Two vectors of activations side by side (side_by_side.h).
template <class L>
struct Pair : SideBySide<L> {
  using M = Two<typename L::M>;
  NVRM_INLINE static bool all(const M& mask) { return L::all(mask.a) && L::all(mask.b); }
};

template <class L>
struct Blocks<Pair<L>> {
  const PhiloxSchedule* key;
  uint64_t element_a, element_b;

  NVRM_INLINE void words(uint32_t trial, Two<typename L::U>* out) const {
    constexpr uint32_t last_whole = ~static_cast<uint32_t>(L::width - 1);
    if (static_cast<uint32_t>(element_a) > last_whole || static_cast<uint32_t>(element_b) > last_whole)
      return words_across(trial, out);
    const uint64_t beyond = static_cast<uint64_t>(trial) << 56;
    typename L::U a[4], b[4];
    philox_words<L>(element_a + beyond, element_b + beyond, {*key, *key}, a, b);
    for (int k = 0; k < 4; ++k) out[k] = {a[k], b[k]};
  }

  NVRM_NOINLINE void further_words(uint32_t trial, Two<typename L::U>* out) const { words(trial, out); }

  NVRM_NOINLINE void words_across(uint32_t trial, Two<typename L::U>* out) const {
    typename L::U a[4], b[4];
    Blocks<L>{key, element_a}.further_words(trial, a);
    Blocks<L>{key, element_b}.further_words(trial, b);
    for (int k = 0; k < 4; ++k) out[k] = {a[k], b[k]};
  }
};

template <class L>
NVRM_INLINE typename L::U odd_24(typename L::U word) {
  return (word >> 8) | 1u;
}

template <class L>
NVRM_INLINE typename L::F cosine_of_turns(typename L::U word) {
  using F = typename L::F;
  F sine, cosine;
  sine_cosine_of_eighth_turns<L>(L::to_float((typename L::I)(word & 0xfffu)) - 2047.5f, &sine, &cosine);
  const F x = L::select((word & 0x1000u) != 0u, sine, cosine);
  return flip_sign<L>(x, (word << 18) ^ (word << 19));
}

// One coordinate of a uniform point on the unit sphere in `dimension` dimensions; rate = 1 / (dimension - 2).
template <class L>
NVRM_INLINE typename L::F sphere_coordinate(typename L::U word, int dimension, float rate) {
  using F = typename L::F;
  const F cosine = cosine_of_turns<L>(word);
  if (dimension == 1) return L::select(cosine < 0.0f, L::broadcast(-1.0f), L::broadcast(1.0f));
  if (dimension == 2) return cosine;
  F grown, square;
  exponential<L>(negative_ln<L, 19, 2>((word >> 13) | 1u) * rate, &grown, &square);
  return L::sqrt(square) * cosine;
}

template <class L, class Propose>
NVRM_NOINLINE typename L::F further_trials(typename L::F value, typename L::M accepted, const Propose& propose) {
  for (uint32_t trial = 1; trial < trials && !L::all(accepted); ++trial) {
    typename L::M now;
    const typename L::F again = propose(trial, &now);
    value = L::select(accepted, value, again);
    accepted = accepted | now;
  }
  return value;
}

// value: the first trial's, and which lanes accepted it; propose(trial, &accepted) gives further ones. Each lane keeps
// its first accepted one.
template <class L, class Propose>
NVRM_INLINE typename L::F first_accepted(typename L::F value, typename L::M accepted, const Propose& propose) {
  return L::all(accepted) ? value : further_trials<L>(value, accepted, propose);
}

// v of one trial of Marsaglia and Tsang, and whether it is accepted.
template <class L>
NVRM_INLINE typename L::F gamma_proposal(typename L::U normal_word, typename L::U uniform_word, const GammaScalars& at,
                                         typename L::M* accepted) {
  using F = typename L::F;
  using U = typename L::U;
  F x, unused;
  Gaussian::values<L>(normal_word, &x, &unused);
  F root = L::fma(L::broadcast(at.c), x, L::broadcast(1.0f));
  const typename L::M positive = root > 0.0f;
  root = L::select(positive, root, L::broadcast(1.0f));
  const F v = (root * root) * root;
  const F square = x * x;
  const U n = odd_24<L>(uniform_word);
  const F rest = (0x1p24f - L::to_float((typename L::I)n)) * 0x1p-24f;
  const typename L::M sure = at.sure > 0.0f ? rest > square * square * at.sure : rest > 1.0f;
  if (L::all(sure)) {
    *accepted = sure;
    return v;
  }
  const F slack = L::fma(L::broadcast(at.d), (1.0f - v) - negative_ln_of<L>(v), square * 0.5f);
  *accepted = sure | (positive & (negative_ln<L, 24, 1>(n) + slack > 0.0f));
  return v;
}

template <class L>
NVRM_NOINLINE typename L::F gamma_magnitude(const Blocks<L>& blocks, const LayerScalars& at) {
  using F = typename L::F;
  typename L::U first[4];
  blocks.words(gamma_trials, first);
  typename L::M accepted;
  const F proposed = gamma_proposal<L>(first[0], first[1], at.gamma, &accepted);
  const F v = first_accepted<L>(proposed, accepted, [&](uint32_t trial, typename L::M* now) {
    typename L::U words[4];
    blocks.further_words(gamma_trials + trial, words);
    return gamma_proposal<L>(words[0], words[1], at.gamma, now);
  });
  const F value = v * at.gamma_scale;
  if (!at.gamma_boost) return value;
  F grown, rest;
  exponential<L>(negative_ln<L, 24, 1>(odd_24<L>(first[2])) * at.gamma_alpha, &grown, &rest);
  return value * grown;
}

}  // namespace
}  // namespace nvrm
