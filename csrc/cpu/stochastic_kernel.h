// Stochastic activations, tile by tile, over lanes: noise, activation and sums in one pass.
#pragma once

#include "load_store.h"
#include "noise_kernel.h"
#include "stochastic_plan.h"

namespace nvrm {
namespace {

// The lanes from `count` on set to 0.
template <class L>
NVRM_INLINE typename L::F first_lanes(typename L::F x, int count) {
  if (count >= L::width) return x;
  alignas(64) float lanes[L::width];
  L::store(lanes, x);
  for (int i = count; i < L::width; ++i) lanes[i] = 0.0f;
  L::load(static_cast<const float*>(lanes), x);
  return x;
}

// The noise of 256 neighbors, drawn when it is first asked for: the generators of two superblocks run side by side.
template <class L>
struct NoiseWindow {
  static constexpr int64_t size = 2 * superblock_size;
  Draw draw;
  int64_t drawn = -1;
  alignas(64) float values[size + 16] = {};  // the last vector may reach beyond the end

  NVRM_INLINE const float* at(int64_t element) {
    const int64_t window = element / size;
    if (window != drawn) {
      const uint64_t superblock = 2 * static_cast<uint64_t>(window);
      fill_two<L, Gaussian>(draw, superblock, values, draw, superblock + 1, values + superblock_size);
      drawn = window;
    }
    return values + element % size;
  }
};

// One vector. weight: the gradient for this vector's sums; returns what it adds to the sums.
template <class L, Sums sums, bool backward>
NVRM_INLINE typename L::F stochastic_step(const StochasticPlan& plan, int64_t row, int64_t i, int count,
                                          typename L::F eps, typename L::F weight) {
  using F = typename L::F;
  const int64_t at_mean = 2 * row * plan.run() + i, at_raw = at_mean + plan.run(), at_y = row * plan.run() + i;
  const F mean = load_lanes<L>(plan.z, at_mean, plan.storage, count);
  const F raw = load_lanes<L>(plan.z, at_raw, plan.storage, count);
  const StochasticActivation<L> a = activate<L>(mean, raw, eps, plan.relu);
  if constexpr (!backward) {
    store_lanes<L>(plan.out, at_y, plan.storage, count, a.value);
    return added_to_sum<L, sums>(a, mean, plan.margin);
  } else {
    const F grad = load_lanes<L>(plan.grad, at_y, plan.storage, count);
    F d_mean, d_raw;
    differentiate<L, sums>(a, mean, eps, grad, weight, plan.relu, plan.margin, &d_mean, &d_raw);
    store_lanes<L>(plan.out, at_mean, plan.storage, count, d_mean);
    store_lanes<L>(plan.out, at_raw, plan.storage, count, d_raw);
    return L::broadcast(0.0f);
  }
}

template <class L, Sums sums, bool backward>
void stochastic_tile(const StochasticPlan& plan, int64_t tile) {
  using F = typename L::F;
  const int64_t run = plan.run(), first = tile * plan.tile_rows();
  const int64_t last = first + plan.tile_rows() < plan.outer ? first + plan.tile_rows() : plan.outer;
  const bool dense = plan.inner == 1;
  float* part = nullptr;
  if constexpr (sums == Sums::neuron && !backward) {
    part = plan.sums + tile * plan.neurons;
    memset(part, 0, static_cast<size_t>(plan.neurons) * sizeof(float));
  }
  NoiseWindow<L> noise{{plan.key, 0, 1.0f}};

  for (int64_t row = first; row < last; ++row) {
    F weight = L::broadcast(0.0f), sum = L::broadcast(0.0f);
    if (backward && sums != Sums::nothing && sums != Sums::neuron) weight = L::broadcast(plan.weight[row]);
    for (int64_t i = 0; i < run;) {
      const int64_t element = plan.offset + row * run + i;
      const float* eps_at = noise.at(element);
      int64_t stop = i + NoiseWindow<L>::size - element % NoiseWindow<L>::size;
      if (stop > run) stop = run;
      // A convolution's neurons are channels: no vector may reach into the next one where each has a sum.
      int64_t channel = 0;
      if (sums == Sums::neuron && !dense) {
        channel = i / plan.inner;
        if (stop > (channel + 1) * plan.inner) stop = (channel + 1) * plan.inner;
        sum = L::broadcast(0.0f);
        if (backward) weight = L::broadcast(plan.weight[channel]);
      }
      for (; i < stop; i += L::width, eps_at += L::width) {
        const int count = stop - i < L::width ? static_cast<int>(stop - i) : L::width;
        F eps;
        L::load(eps_at, eps);
        if (backward && sums == Sums::neuron && dense)
          weight = load_lanes<L>(plan.weight, i, ScalarKind::float32, count);
        const F added = stochastic_step<L, sums, backward>(plan, row, i, count, eps, weight);
        if constexpr (!backward && sums == Sums::neuron) {
          if (dense) {
            store_lanes<L>(part, i, ScalarKind::float32, count,
                           load_lanes<L>(part, i, ScalarKind::float32, count) + added);
            continue;
          }
        }
        if constexpr (!backward && sums != Sums::nothing) sum = sum + first_lanes<L>(added, count);
      }
      i = stop;
      if constexpr (sums == Sums::neuron && !backward) {
        if (!dense) part[channel] += sum_of_lanes<L>(sum);
      }
    }
    if (!backward && sums != Sums::nothing && sums != Sums::neuron) plan.sums[row] = sum_of_lanes<L>(sum);
  }
}

template <class L, bool backward>
void stochastic_kernel(Sums sums, const StochasticPlan& plan, int64_t begin, int64_t end) {
  for (int64_t tile = begin; tile < end; ++tile) {
    switch (sums) {
      case Sums::nothing:
        stochastic_tile<L, Sums::nothing, backward>(plan, tile);
        break;
      case Sums::neuron:
        stochastic_tile<L, Sums::neuron, backward>(plan, tile);
        break;
      case Sums::sample:
        stochastic_tile<L, Sums::sample, backward>(plan, tile);
        break;
      case Sums::element:
        stochastic_tile<L, Sums::element, backward>(plan, tile);
        break;
      case Sums::divergence:
        stochastic_tile<L, Sums::divergence, backward>(plan, tile);
        break;
    }
  }
}

}  // namespace
}  // namespace nvrm
