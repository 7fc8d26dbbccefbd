// Stochastic activations: what follows the product of doubled width that predicts means and standard deviations.
// nvrm_fast/reference/stochastic.py has the formulas and their source.
#pragma once

#include "../math/philox.h"
#include "../math/stochastic_activation.h"

namespace nvrm {

// One pass over activations (outer, neurons, inner); all pointers to contiguous tensors. In z each object's means come
// before its raw deviations, so neither half needs to know what is a neuron and what a position.
//
// The work is cut into tiles of whole examples whose number depends on the shape alone: sums do not depend on threads.
struct StochasticPlan {
  PhiloxSchedule key;
  int64_t offset;
  int64_t outer, neurons, inner;
  bool relu;
  float margin;

  ScalarKind storage;   // of z, grad, out
  const void* z;        // (outer, 2 neurons, inner)
  const void* grad;     // backward: of the activations' shape
  const float* weight;  // backward: the gradient for the sums
  void* out;            // the activations, or the gradient for z
  float* sums;          // forward: (tiles, neurons) for Sums::neuron, else (outer,)

  int64_t run() const { return neurons * inner; }
  int64_t tile_rows() const {
    constexpr int64_t elements = 8192, most = 64;
    const int64_t rows = elements / (run() > 0 ? run() : 1);
    return rows < 1 ? 1 : rows < most ? rows : most;
  }
  int64_t tiles() const { return (outer + tile_rows() - 1) / tile_rows(); }
};

}  // namespace nvrm
