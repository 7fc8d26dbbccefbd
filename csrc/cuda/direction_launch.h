// How the launch of a pass with noise on directions is cut up. Host only, plain C++.
#pragma once

#include <initializer_list>

#include "direction_thread.h"

namespace nvrm {

struct DirectionLaunch {
  DirectionArguments arguments;
  int64_t ctas;
  // How many parts the two kinds of sums have; the second by groups.
  int64_t neuron_parts, sq_norm_parts;
};

// Forward or backward; a: all but how it is cut up.
inline DirectionLaunch cut_pass(DirectionArguments a, bool is_directed) {
  // Fewer neurons would leave most threads of a tile idle.
  a.by_neuron = a.inner == 1 && a.groups == 1 && a.neurons >= tile_columns / 2;
  a.takes_rows = (a.by_neuron ? a.neurons : a.inner) % row_elements == 0;
  for (const void* data : {a.s, a.grad, static_cast<const void*>(a.out)}) {
    a.takes_rows = a.takes_rows && takes_rows(data, bytes_of(a.storage));
  }
  if (is_directed && a.tangent_given) {
    for (const float* data : {a.sq_norm, static_cast<const float*>(a.tangent)}) {
      a.takes_rows = a.takes_rows && takes_rows(data, sizeof(float));
    }
  }
  a.columns = a.by_neuron ? a.neurons : a.outer * a.inner;
  a.group_rows = a.by_neuron ? a.outer : a.neurons / a.groups;
  a.column_tiles = ceil_div(a.columns, tile_columns);
  a.turns = turns_for(ceil_div(a.group_rows, rows_per_turn) * a.groups * a.column_tiles);
  a.row_tiles = ceil_div(a.group_rows, static_cast<int64_t>(a.turns) * rows_per_turn);
  const int64_t row_tiles = a.groups * a.row_tiles;
  return {a, row_tiles * a.column_tiles, a.by_neuron ? row_tiles : a.column_tiles,
          a.by_neuron ? a.column_tiles : row_tiles};
}

}  // namespace nvrm
