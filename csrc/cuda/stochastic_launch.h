// How the launches of a stochastic layer's pass are cut up. Host only, plain C++.
#pragma once

#include <initializer_list>

#include "stochastic_thread.h"

namespace nvrm {

struct StochasticLaunch {
  StochasticArguments arguments;
  int64_t ctas;
  int64_t parts;  // how many each sum has
};

// Whether the pass itself adds the neurons' sums: every object starts at the same place of a superblock.
inline bool adds_neurons(const StochasticArguments& a) { return a.run % superblock_size == 0; }

// The pass, forward or backward; a: all but how it is cut up.
inline StochasticLaunch cut_pass(StochasticArguments a, Sums sums) {
  const int64_t bytes = bytes_of(a.storage);
  a.takes_rows = a.offset % row_elements == 0 && a.run % row_elements == 0;
  for (const void* data : {a.z, a.grad, static_cast<const void*>(a.out)}) {
    a.takes_rows = a.takes_rows && takes_rows(data, static_cast<int>(bytes));
  }
  for (const float* data : {a.weight, static_cast<const float*>(a.parts)}) {
    a.takes_rows = a.takes_rows && takes_rows(data, sizeof(float));
  }
  // Objects start at multiples of `step` after the first one.
  const int64_t step = a.run % superblock_size == 0 ? superblock_size : a.run & -a.run;
  const int64_t latest_start = superblock_size - step + a.offset % step;
  a.columns = ceil_div(latest_start + a.run, superblock_size);
  a.column_tiles = ceil_div(a.columns, superblocks_per_round);
  a.width = static_cast<int>(ceil_div(a.columns, a.column_tiles));
  a.row_lanes = superblocks_per_round / a.width;
  a.turns = turns_for(ceil_div(a.outer, a.row_lanes) * a.column_tiles);
  const int64_t row_tiles = ceil_div(a.outer, static_cast<int64_t>(a.row_lanes) * a.turns);
  const bool of_neurons = sums == Sums::neuron;
  return {a, row_tiles * a.column_tiles, of_neurons ? row_tiles * a.row_lanes : a.column_tiles};
}

// The launch that adds the neurons' sums where the pass does not.
inline StochasticLaunch cut_neuron_sums(StochasticArguments a) {
  a.turns = most_turns;
  a.column_tiles = ceil_div(a.run, threads_per_cta);
  const int64_t tiles = ceil_div(a.outer, a.turns);
  return {a, tiles * a.column_tiles, tiles};
}

}  // namespace nvrm
