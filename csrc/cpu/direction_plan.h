// One pass of a layer with noise on the direction of its weights, as plain data: what follows the matrix product.
#pragma once

#include "../math/philox.h"
#include "../math/storage.h"

namespace nvrm {

struct LayerScalars;

// One pass over activations (outer, neurons, inner); all pointers to contiguous tensors, parameters padded.
//
// The work is cut into tiles whose size depends on the shape alone, and each tile leaves sums of its own: sums do not
// depend on the number of threads. With inner 1 lanes are neurons ("by neuron"), else positions.
struct DirectionPlan {
  PhiloxSchedule key;
  int64_t offset;
  const LayerScalars* scalars;
  int magnitude;
  bool tangent_given, slopes;

  int64_t outer, neurons, inner, groups;
  int64_t padded;  // length of a row of parameters: neurons and then the last one again, to whole vectors
  const float* scale;
  const float* magnitude_mean;
  const float* magnitude_std;
  const float* bias;
  const float* constants;  // rows of `padded`

  ScalarKind storage;  // of s, out, grad
  const void* s;
  const void* grad;      // backward only
  void* out;             // y, or the gradient for s
  const float* sq_norm;  // (outer, groups, inner), or, if given, of s's shape
  float* tangent;        // backward, if given: the gradient for it
  float* neuron_part;    // backward: (parts, neuron_sums, neurons)
  float* sq_norm_part;   // backward, if not given: (parts, outer, inner), twice the gradient's parts

  bool by_neuron() const { return inner == 1 && groups <= 1; }
  static constexpr int64_t tile_rows = 64;
  static constexpr int64_t tile_neurons = 256;
  static constexpr int64_t block_channels = 32;

  int64_t row_tiles() const { return (outer + tile_rows - 1) / tile_rows; }
  int64_t neuron_tiles() const { return (neurons + tile_neurons - 1) / tile_neurons; }
  int64_t group_channels() const { return groups > 0 ? neurons / groups : neurons; }
  int64_t group_blocks() const { return (group_channels() + block_channels - 1) / block_channels; }
  int64_t channel_blocks() const { return group_blocks() * (groups > 0 ? groups : 1); }
  int64_t tiles() const { return by_neuron() ? row_tiles() * neuron_tiles() : outer * channel_blocks(); }
  // How many parts the two kinds of sums have.
  int64_t neuron_parts() const { return by_neuron() ? row_tiles() : outer; }
  int64_t sq_norm_parts() const { return by_neuron() ? neuron_tiles() : channel_blocks(); }
};

}  // namespace nvrm
