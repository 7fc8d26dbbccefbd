// The pass after the matrix product, tile by tile, over lanes.
#pragma once

#include "../math/direction_noise.h"
#include "direction_plan.h"
#include "load_store.h"

namespace nvrm {
namespace {

template <class L, bool by_neuron>
NVRM_INLINE typename L::F parameter(const float* values, int64_t neuron) {
  typename L::F x;
  if constexpr (by_neuron) {
    L::load(values + neuron, x);
  } else {
    x = L::broadcast(values[neuron]);
  }
  return x;
}

template <class L, class Law, bool by_neuron>
NVRM_INLINE Neuron<L, Law> load_neuron(const DirectionPlan& plan, int64_t neuron) {
  Neuron<L, Law> n;
  n.scale = parameter<L, by_neuron>(plan.scale, neuron);
  n.magnitude_mean = parameter<L, by_neuron>(plan.magnitude_mean, neuron);
  n.magnitude_std = parameter<L, by_neuron>(plan.magnitude_std, neuron);
  n.bias = parameter<L, by_neuron>(plan.bias, neuron);
  for (int k = 0; k < Law::rows; ++k) n.constant[k] = parameter<L, by_neuron>(plan.constants + k * plan.padded, neuron);
  return n;
}

// One neuron's parameters for both of a pair.
template <class L, class Law>
NVRM_INLINE Neuron<Pair<L>, Law> twice(const Neuron<L, Law>& n) {
  Neuron<Pair<L>, Law> both;
  both.scale = {n.scale, n.scale};
  both.magnitude_mean = {n.magnitude_mean, n.magnitude_mean};
  both.magnitude_std = {n.magnitude_std, n.magnitude_std};
  both.bias = {n.bias, n.bias};
  for (int k = 0; k < Law::rows; ++k) both.constant[k] = {n.constant[k], n.constant[k]};
  return both;
}

// One vector of activations. sq_norm: |x|^2 in the lanes (unused if the tangent part is given or nothing is turned);
// square_sum: adds to the sum for it.
template <class L, class Law, bool backward>
NVRM_INLINE void step(const DirectionPlan& plan, const Neuron<L, Law>& neuron, int64_t index, int count,
                      typename L::F sq_norm, typename L::F* sums, typename L::F* sq_norm_sum) {
  using F = typename L::F;
  const Magnitude magnitude = static_cast<Magnitude>(plan.magnitude);
  const Blocks<L> blocks{&plan.key, static_cast<uint64_t>(plan.offset + index)};
  const F s = load_lanes<L>(plan.s, index, plan.storage, count);
  if (Law::rows > 0 && plan.tangent_given) sq_norm = load_lanes<L>(plan.sq_norm, index, ScalarKind::float32, count);
  if constexpr (!backward) {
    const auto a =
        activate<L, Law, false>(blocks, s, sq_norm, neuron, magnitude, plan.tangent_given, *plan.scalars, false);
    store_lanes<L>(plan.out, index, plan.storage, count, L::fma(a.factor, a.d, neuron.bias));
  } else {
    const F grad = load_lanes<L>(plan.grad, index, plan.storage, count);
    const auto a =
        activate<L, Law, true>(blocks, s, sq_norm, neuron, magnitude, plan.tangent_given, *plan.scalars, plan.slopes);
    F tangent = L::broadcast(0.0f), parts[neuron_sums];
    const F ds = differentiate<L, Law>(a, s, grad, neuron, plan.tangent_given, parts, &tangent);
    for (int k = 0; k < used_sums<Law>; ++k) sums[k] = sums[k] + parts[k];
    store_lanes<L>(plan.out, index, plan.storage, count, ds);
    if constexpr (Law::rows > 0) {
      if (plan.tangent_given) {
        store_lanes<L>(plan.tangent, index, ScalarKind::float32, count, tangent);
      } else {
        *sq_norm_sum = *sq_norm_sum + tangent;
      }
    }
  }
}

// Two vectors of one neuron's activations side by side, at two indices; sums grow in the order of two steps.
template <class L, class Law, bool backward>
NVRM_INLINE void step_two(const DirectionPlan& plan, const Neuron<Pair<L>, Law>& neuron, int64_t index_a,
                          int64_t index_b, int count, Two<typename L::F> sq_norm, typename L::F* sums,
                          typename L::F* sq_norm_sum_a, typename L::F* sq_norm_sum_b) {
  using F = Two<typename L::F>;
  const auto load = [&](const void* data, ScalarKind storage) __attribute__((always_inline)) {
    return F{load_lanes<L>(data, index_a, storage, count), load_lanes<L>(data, index_b, storage, count)};
  };
  const auto store = [&](void* data, ScalarKind storage, const F& x) __attribute__((always_inline)) {
    store_lanes<L>(data, index_a, storage, count, x.a);
    store_lanes<L>(data, index_b, storage, count, x.b);
  };
  const Magnitude magnitude = static_cast<Magnitude>(plan.magnitude);
  const Blocks<Pair<L>> blocks{&plan.key, static_cast<uint64_t>(plan.offset + index_a),
                               static_cast<uint64_t>(plan.offset + index_b)};
  const F s = load(plan.s, plan.storage);
  if (Law::rows > 0 && plan.tangent_given) sq_norm = load(plan.sq_norm, ScalarKind::float32);
  if constexpr (!backward) {
    const auto a =
        activate<Pair<L>, Law, false>(blocks, s, sq_norm, neuron, magnitude, plan.tangent_given, *plan.scalars, false);
    store(plan.out, plan.storage, Pair<L>::fma(a.factor, a.d, neuron.bias));
  } else {
    const F grad = load(plan.grad, plan.storage);
    const auto a = activate<Pair<L>, Law, true>(blocks, s, sq_norm, neuron, magnitude, plan.tangent_given,
                                                *plan.scalars, plan.slopes);
    F tangent = Pair<L>::broadcast(0.0f), parts[neuron_sums];
    const F ds = differentiate<Pair<L>, Law>(a, s, grad, neuron, plan.tangent_given, parts, &tangent);
    for (int k = 0; k < used_sums<Law>; ++k) sums[k] = (sums[k] + parts[k].a) + parts[k].b;
    store(plan.out, plan.storage, ds);
    if constexpr (Law::rows > 0) {
      if (plan.tangent_given) {
        store(plan.tangent, ScalarKind::float32, tangent);
      } else {
        *sq_norm_sum_a = *sq_norm_sum_a + tangent.a;
        *sq_norm_sum_b = *sq_norm_sum_b + tangent.b;
      }
    }
  }
}

// A tile of rows and neurons: lanes are neurons, whose parameters and sums stay in registers down the rows.
template <class L, class Law, bool backward>
void tile_by_neuron(const DirectionPlan& plan, int64_t tile) {
  using F = typename L::F;
  const int64_t row_tile = tile / plan.neuron_tiles(), neuron_tile = tile % plan.neuron_tiles();
  const int64_t row = row_tile * DirectionPlan::tile_rows, first = neuron_tile * DirectionPlan::tile_neurons;
  const int64_t rows = plan.outer - row < DirectionPlan::tile_rows ? plan.outer - row : DirectionPlan::tile_rows;
  const int64_t last =
      first + DirectionPlan::tile_neurons < plan.neurons ? first + DirectionPlan::tile_neurons : plan.neurons;
  const bool with_sq_norm = Law::rows > 0 && !plan.tangent_given;
  F sq_norm_sum[DirectionPlan::tile_rows];
  for (int64_t i = 0; i < rows; ++i) sq_norm_sum[i] = L::broadcast(0.0f);

  for (int64_t j = first; j < last; j += L::width) {
    const int count = last - j < L::width ? static_cast<int>(last - j) : L::width;
    const Neuron<L, Law> neuron = load_neuron<L, Law, true>(plan, j);
    F sums[neuron_sums];
    for (int k = 0; k < neuron_sums; ++k) sums[k] = L::broadcast(0.0f);
    int64_t i = 0;
    if constexpr (L::width > 1) {
      const auto both = twice<L, Law>(neuron);
      for (; i + 2 <= rows; i += 2) {
        Two<F> sq_norm = Pair<L>::broadcast(0.0f);
        if (with_sq_norm) sq_norm = {L::broadcast(plan.sq_norm[row + i]), L::broadcast(plan.sq_norm[row + i + 1])};
        const int64_t index = (row + i) * plan.neurons + j;
        step_two<L, Law, backward>(plan, both, index, index + plan.neurons, count, sq_norm, sums, &sq_norm_sum[i],
                                   &sq_norm_sum[i + 1]);
      }
    }
    for (; i < rows; ++i) {
      const F sq_norm = with_sq_norm ? L::broadcast(plan.sq_norm[row + i]) : L::broadcast(0.0f);
      step<L, Law, backward>(plan, neuron, (row + i) * plan.neurons + j, count, sq_norm, sums, &sq_norm_sum[i]);
    }
    if constexpr (backward) {
      for (int k = 0; k < neuron_sums; ++k) {
        float* part = plan.neuron_part + (row_tile * neuron_sums + k) * plan.neurons;
        store_lanes<L>(part, j, ScalarKind::float32, count, sums[k]);
      }
    }
  }
  if (backward && with_sq_norm) {
    for (int64_t i = 0; i < rows; ++i)
      plan.sq_norm_part[neuron_tile * plan.outer + row + i] = sum_of_lanes<L>(sq_norm_sum[i]);
  }
}

// A block of one object's channels: lanes are positions.
template <class L, class Law, bool backward>
void tile_by_position(const DirectionPlan& plan, int64_t tile) {
  using F = typename L::F;
  const int64_t object = tile / plan.channel_blocks(), block = tile % plan.channel_blocks();
  const int64_t group = block / plan.group_blocks();
  const int64_t first = group * plan.group_channels() + block % plan.group_blocks() * DirectionPlan::block_channels;
  const int64_t end_of_group = (group + 1) * plan.group_channels();
  const int64_t last =
      first + DirectionPlan::block_channels < end_of_group ? first + DirectionPlan::block_channels : end_of_group;
  const bool with_sq_norm = Law::rows > 0 && !plan.tangent_given;
  float* const sq_norm_part =
      backward && with_sq_norm ? plan.sq_norm_part + (block * plan.outer + object) * plan.inner : nullptr;

  for (int64_t channel = first; channel < last; ++channel) {
    const Neuron<L, Law> neuron = load_neuron<L, Law, false>(plan, channel);
    F sums[neuron_sums];
    for (int k = 0; k < neuron_sums; ++k) sums[k] = L::broadcast(0.0f);
    int64_t i = 0;
    if constexpr (L::width > 1) {
      const auto both = twice<L, Law>(neuron);
      for (; i + 2 * L::width <= plan.inner; i += 2 * L::width) {
        Two<F> sq_norm = Pair<L>::broadcast(0.0f), sq_norm_sum = sq_norm;
        if (with_sq_norm) {
          const float* at = plan.sq_norm + (object * plan.groups + group) * plan.inner + i;
          L::load(at, sq_norm.a);
          L::load(at + L::width, sq_norm.b);
          if (backward && channel != first) {
            L::load(sq_norm_part + i, sq_norm_sum.a);
            L::load(sq_norm_part + i + L::width, sq_norm_sum.b);
          }
        }
        const int64_t index = (object * plan.neurons + channel) * plan.inner + i;
        step_two<L, Law, backward>(plan, both, index, index + L::width, L::width, sq_norm, sums, &sq_norm_sum.a,
                                   &sq_norm_sum.b);
        if (backward && with_sq_norm) {
          L::store(sq_norm_part + i, sq_norm_sum.a);
          L::store(sq_norm_part + i + L::width, sq_norm_sum.b);
        }
      }
    }
    for (; i < plan.inner; i += L::width) {
      const int count = plan.inner - i < L::width ? static_cast<int>(plan.inner - i) : L::width;
      F sq_norm = L::broadcast(0.0f), sq_norm_sum = L::broadcast(0.0f);
      if (with_sq_norm) {
        sq_norm =
            load_lanes<L>(plan.sq_norm, (object * plan.groups + group) * plan.inner + i, ScalarKind::float32, count);
        if (backward && channel != first) sq_norm_sum = load_lanes<L>(sq_norm_part, i, ScalarKind::float32, count);
      }
      const int64_t index = (object * plan.neurons + channel) * plan.inner + i;
      step<L, Law, backward>(plan, neuron, index, count, sq_norm, sums, &sq_norm_sum);
      if (backward && with_sq_norm) store_lanes<L>(sq_norm_part, i, ScalarKind::float32, count, sq_norm_sum);
    }
    if constexpr (backward) {
      for (int k = 0; k < neuron_sums; ++k) {
        plan.neuron_part[(object * neuron_sums + k) * plan.neurons + channel] = sum_of_lanes<L>(sums[k]);
      }
    }
  }
}

template <class L, class Law, bool backward>
void tiles(const DirectionPlan& plan, int64_t begin, int64_t end) {
  for (int64_t tile = begin; tile < end; ++tile) {
    if (plan.by_neuron()) {
      tile_by_neuron<L, Law, backward>(plan, tile);
    } else {
      tile_by_position<L, Law, backward>(plan, tile);
    }
  }
}

template <class L, bool backward>
void direction_kernel(int law, const DirectionPlan& plan, int64_t begin, int64_t end) {
  switch (law) {
#define NVRM_CASE(code, Law)                   \
  case code:                                   \
    tiles<L, Law, backward>(plan, begin, end); \
    break;
    NVRM_FOR_EACH_LAW(NVRM_CASE)
#undef NVRM_CASE
  }
}

}  // namespace
}  // namespace nvrm
