// Noise on direction and magnitude as one thread does it: the pass after the product, and its gradients. Host code too,
// so that the tests run the very lines of the kernel on the CPU.
//
// A tile is 4 rows of 128 columns. Columns are neighbors in memory: neurons where they are many and have one activation
// an object ("by neuron"; then rows are objects), else objects' positions (then rows are neurons). Threads read and
// write a tile as rows of 4, through shared memory; in between each has a column of its own: by neuron it reads what
// belongs to its neuron once. A CTA takes several turns down the rows.
//
// Sums over the rows stay in registers. Sums over the columns: a thread adds 4 of a row, 32 apart, and then one thread
// those 32. The host adds the parts that each CTA leaves. So sums are the same in every run.
#pragma once

#include "../math/direction_noise.h"
#include "layer_launch.h"

namespace nvrm {

constexpr int tile_columns = threads_per_cta;
constexpr int rows_per_turn = 4;
constexpr int row_threads = tile_columns / row_elements;  // that read a row of the tile
static_assert(row_threads * rows_per_turn == threads_per_cta, "each thread reads one row of 4");

struct DirectionArguments {
  DeviceKey key;
  int64_t offset;
  LayerScalars scalars;
  Magnitude magnitude;
  bool tangent_given, slopes;
  bool by_neuron;
  bool takes_rows;  // rows of 4 are aligned in every tensor

  int64_t outer, neurons, inner, groups;
  const float* scale;  // (neurons,), as the next three
  const float* magnitude_mean;
  const float* magnitude_std;  // or null
  const float* bias;           // or null
  const float* constants;      // rows of `neurons`

  ScalarKind storage;  // of s, out, grad
  const void* s;
  const void* grad;      // backward only
  void* out;             // y, or the gradient for s
  const float* sq_norm;  // (outer, groups, inner), or, if given, of s's shape
  float* tangent;        // backward, if given: the gradient for it
  float* neuron_part;    // backward: (parts, neuron_sums, neurons)
  float* sq_norm_part;   // backward, if not given: (parts, outer, inner), twice the gradient's parts

  int64_t columns, group_rows;  // group_rows: of a group of neurons, or all objects
  int64_t column_tiles, row_tiles;
  int turns;
};

// What a CTA keeps in shared memory.
struct ForwardTile {
  alignas(16) float x[rows_per_turn][tile_columns];  // in and out
  alignas(16) float tangent[rows_per_turn][tile_columns];
};
struct BackwardTile : ForwardTile {
  alignas(16) float grad[rows_per_turn][tile_columns];
  float parts[neuron_sums][rows_per_turn][tile_columns];
  float fourths[neuron_sums][rows_per_turn][row_threads + 1];  // 33 apart, for different banks
};
template <bool backward>
using DirectionTile = std::conditional_t<backward, BackwardTile, ForwardTile>;

template <class Law, bool backward>
struct DirectionThread {
  using L = CudaLanes;
  static constexpr bool directed = Law::rows > 0;

  const DirectionArguments& a;
  const PhiloxSchedule& key;
  DirectionTile<backward>& tile;
  int thread;
  int64_t column_tile, row_tile, group;
  int64_t first_row, last_row;
  int64_t stride;                                        // between rows
  int64_t column, start = 0;                             // its own column, and the index of that column's first row
  int64_t row_of_4, row_start = 0, left = row_elements;  // the same, and how many of the 4 are of the first object
  bool works, whole;
  float sq_norm = 0.0f, sq_norm_sum = 0.0f;
  float sums[neuron_sums] = {};
  Neuron<L, Law> neuron;

  NVRM_INLINE DirectionThread(const DirectionArguments& arguments, const PhiloxSchedule& schedule,
                              DirectionTile<backward>& shared, uint32_t cta, int number)
      : a(arguments), key(schedule), tile(shared), thread(number) {
    const int64_t rest = cta / a.column_tiles;
    column_tile = cta - rest * a.column_tiles;
    group = rest / a.row_tiles;
    row_tile = rest - group * a.row_tiles;
    last_row = (group + 1) * a.group_rows;
    first_row = group * a.group_rows + row_tile * a.turns * rows_per_turn;
    stride = a.by_neuron ? a.neurons : a.inner;
    column = column_tile * tile_columns + thread;
    row_of_4 = column_tile * tile_columns + thread % row_threads * row_elements;
    works = column < a.columns;
    whole = a.takes_rows && row_of_4 + row_elements <= a.columns;
    if (row_of_4 < a.columns) {
      row_start = start_of(row_of_4);
      if (!a.by_neuron) left = (row_of_4 / a.inner + 1) * a.inner - row_of_4;
    }
    if (!works) return;
    start = start_of(column);
    if (a.by_neuron) {
      load_neuron(column);
    } else if (directed && !a.tangent_given) {
      const int64_t object = column / a.inner;
      sq_norm = a.sq_norm[column + (object * (a.groups - 1) + group) * a.inner];
    }
  }

  NVRM_INLINE int64_t start_of(int64_t at) const {
    return a.by_neuron ? at : at + at / a.inner * (a.neurons - 1) * a.inner;
  }

  NVRM_INLINE void load_neuron(int64_t n) {
    neuron.scale = a.scale[n];
    neuron.magnitude_mean = a.magnitude_mean[n];
    neuron.magnitude_std = a.magnitude_std != nullptr ? a.magnitude_std[n] : 0.0f;
    neuron.bias = a.bias != nullptr ? a.bias[n] : 0.0f;
    NVRM_UNROLL(9)
    for (int k = 0; k < Law::rows; ++k) neuron.constant[k] = a.constants[k * a.neurons + n];
  }

  NVRM_INLINE int64_t row_at(int turn) const { return first_row + turn * rows_per_turn; }
  NVRM_INLINE bool has_turn(int turn) const { return turn < a.turns && row_at(turn) < last_row; }
  // Of the row of 4 that this thread reads and writes.
  NVRM_INLINE int64_t row_of(int turn) const { return row_at(turn) + thread / row_threads; }

  // Calls visit(e, index) for those of the 4 elements in a row that are there; index: of their column's first row.
  template <class Visit>
  NVRM_INLINE void for_each_element(const Visit& visit) const {
    int64_t index = row_start, until = left;
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) {
      if (e == until) {
        index += (a.neurons - 1) * a.inner;
        until += a.inner;
      }
      if (row_of_4 + e < a.columns) visit(e, index + e);
    }
  }

  template <class T>
  NVRM_INLINE void read(const T* data, int64_t row, float (*to)[tile_columns]) const {
    float values[row_elements] = {};
    if (whole) {
      load_row<true>(data, row_start + row * stride, {}, values);
    } else {
      for_each_element([&](int e, int64_t index) { values[e] = L::widen(data[index + row * stride]); });
    }
    float* shared = &to[thread / row_threads][thread % row_threads * row_elements];
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) shared[e] = values[e];
  }

  template <class T>
  NVRM_INLINE void write(T* data, int64_t row, float (*from)[tile_columns]) const {
    const float* shared = &from[thread / row_threads][thread % row_threads * row_elements];
    if (whole) {
      write_row<true>(data, row_start + row * stride, {}, shared);
    } else {
      for_each_element([&](int e, int64_t index) { L::narrow(shared[e], data[index + row * stride]); });
    }
  }

  // Then all threads wait.
  NVRM_INLINE void read_tile(int turn) const {
    const int64_t row = row_of(turn);
    if (row >= last_row) return;
    with_storage(a.storage, [&](auto* typed) {
      using T = std::remove_pointer_t<decltype(typed)>;
      read(static_cast<const T*>(a.s), row, tile.x);
      if constexpr (backward) read(static_cast<const T*>(a.grad), row, tile.grad);
    });
    if (directed && a.tangent_given) read(a.sq_norm, row, tile.tangent);
  }

  // Then all threads wait again.
  NVRM_INLINE void compute(int turn) {
    NVRM_UNROLL(1)
    for (int r = 0; r < rows_per_turn; ++r) {
      const int64_t row = row_at(turn) + r;
      float parts[neuron_sums] = {}, tangent = 0.0f;
      if (works && row < last_row) {
        if (!a.by_neuron) load_neuron(row);
        if (directed && a.tangent_given) {
          sq_norm = tile.tangent[r][thread];
        } else if (directed && a.by_neuron) {
          sq_norm = a.sq_norm[row];
        }
        const Blocks<L> blocks{&key, static_cast<uint64_t>(a.offset + start + row * stride)};
        const float s = tile.x[r][thread];
        const auto activation = activate<L, Law, backward>(blocks, s, sq_norm, neuron, a.magnitude, a.tangent_given,
                                                           a.scalars, backward && a.slopes);
        if constexpr (backward) {
          tile.x[r][thread] =
              differentiate<L, Law>(activation, s, tile.grad[r][thread], neuron, a.tangent_given, parts, &tangent);
        } else {
          tile.x[r][thread] = L::fma(activation.factor, activation.d, neuron.bias);
        }
      }
      if constexpr (backward) {
        NVRM_UNROLL(6)
        for (int k = 0; k < used_sums<Law>; ++k) {
          sums[k] = sums[k] + parts[k];
          if (!a.by_neuron) tile.parts[k][r][thread] = parts[k];
        }
        sq_norm_sum = sq_norm_sum + tangent;
        if (directed) tile.tangent[r][thread] = tangent;
      }
    }
  }

  // Whether rows have sums over columns: then all threads wait between the next two, else the second has nothing to do.
  NVRM_INLINE bool adds_columns() const { return backward && (!a.by_neuron || (directed && !a.tangent_given)); }

  NVRM_INLINE void write_tile(int turn) const {
    const int64_t row = row_of(turn);
    if constexpr (backward) {
      const int r = thread / row_threads, at = thread % row_threads;
      const auto fourth = [&](const float* of) {
        return ((of[at] + of[at + row_threads]) + of[at + 2 * row_threads]) + of[at + 3 * row_threads];
      };
      if (!a.by_neuron) {
        NVRM_UNROLL(6)
        for (int k = 0; k < used_sums<Law>; ++k) tile.fourths[k][r][at] = fourth(tile.parts[k][r]);
      } else if (directed && !a.tangent_given) {
        tile.fourths[0][r][at] = fourth(tile.tangent[r]);
      }
    }
    if (row >= last_row) return;
    with_storage(a.storage, [&](auto* typed) {
      using T = std::remove_pointer_t<decltype(typed)>;
      write(static_cast<T*>(a.out), row, tile.x);
    });
    if (backward && directed && a.tangent_given) write(a.tangent, row, tile.tangent);
  }

  NVRM_INLINE void add_columns(int turn) const {
    if constexpr (backward) {
      const int k = thread / rows_per_turn, r = thread % rows_per_turn;
      const int64_t row = row_at(turn) + r;
      if (k >= (a.by_neuron ? 1 : neuron_sums) || row >= last_row) return;
      float sum = 0.0f;
      if (k < used_sums<Law>) {
        NVRM_UNROLL(4)
        for (int i = 0; i < row_threads; ++i) sum += tile.fourths[k][r][i];
      }
      if (a.by_neuron) {
        a.sq_norm_part[column_tile * a.outer + row] = sum;
      } else {
        a.neuron_part[(column_tile * neuron_sums + k) * a.neurons + row] = sum;
      }
    }
  }

  // After the last turn.
  NVRM_INLINE void write_sums() const {
    if (!backward || !works) return;
    if (a.by_neuron) {
      NVRM_UNROLL(6)
      for (int k = 0; k < neuron_sums; ++k) a.neuron_part[(row_tile * neuron_sums + k) * a.neurons + column] = sums[k];
    } else if (directed && !a.tangent_given) {
      a.sq_norm_part[(group * a.row_tiles + row_tile) * a.columns + column] = sq_norm_sum;
    }
  }
};

}  // namespace nvrm
