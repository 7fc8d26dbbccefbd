// Stochastic activations as one thread does them: noise, activation and sums in one pass. Host code too, so that the
// tests run the very lines of the kernel on the CPU.
//
// Four threads work on the superblock of an object's activations as in element_map.h, so a Philox block serves eight of
// them; what of a superblock belongs to the next object is drawn there again. A CTA goes through its superblocks of
// several objects at a time, and takes several turns.
//
// Sums for each object: a thread adds its activations of one turn, in the order in which it comes to them; then one
// thread adds those of the object's threads in their order. Sums for each neuron: each thread adds its activations at
// one place over the turns, and leaves them as a part. The host adds the parts. So sums are the same in every run.
#pragma once

#include "../math/stochastic_activation.h"
#include "layer_launch.h"
#include "noise_thread.h"

namespace nvrm {

struct StochasticArguments {
  DeviceKey key;
  int64_t offset;
  int64_t outer, run, inner;  // run: activations of an object, inner: of a neuron
  bool relu;
  bool takes_rows;  // rows of 4 are aligned in every tensor
  float margin;

  ScalarKind storage;   // of z, grad, out
  const void* z;        // (outer, 2 run): means, then raw deviations
  const void* grad;     // backward: (outer, run)
  const float* weight;  // backward: the gradient for the sums
  void* out;            // (outer, run), or the gradient for z
  float* parts;         // forward: of neurons' sums (parts, run), of objects' (column_tiles, outer)

  int64_t columns;  // superblocks that one object may reach into
  int64_t column_tiles;
  int width;      // columns of a CTA
  int row_lanes;  // objects that it works on at a time
  int turns;
};

// Sums that objects have, not neurons.
template <Sums sums>
constexpr bool are_of_objects = sums != Sums::nothing && sums != Sums::neuron;

// What a CTA keeps in shared memory. A row more than 128 long, so that threads which add rows use different banks.
struct NoSums {};
struct ObjectSums {
  float of[most_turns][threads_per_cta + 1];
};
struct NeuronSums {
  Row<float> row[rows][threads_per_cta];
};
template <Sums sums, bool backward>
struct StochasticStore {
  WordStore words;
  std::conditional_t<backward || sums == Sums::nothing, NoSums,
                     std::conditional_t<sums == Sums::neuron, NeuronSums, ObjectSums>>
      sums_of;
};

// A thread's place in its CTA: the same in every turn.
struct StochasticPlace {
  int64_t first_row, column;  // row: object
  bool works;
  int row_lane;

  NVRM_INLINE StochasticPlace(const StochasticArguments& a, uint32_t cta, int thread) {
    const int group = thread / threads_per_superblock;
    const int64_t row_tile = cta / a.column_tiles;
    row_lane = group / a.width;
    first_row = row_tile * a.turns * a.row_lanes + row_lane;
    column = (cta - row_tile * a.column_tiles) * a.width + (group - row_lane * a.width);
    works = row_lane < a.row_lanes && column < a.columns;
  }
};

// The gradients for the sums of neurons at a row of 4 places.
template <bool whole>
NVRM_INLINE void load_weights(const StochasticArguments& a, int64_t i, const Range& there, float* out) {
  if (a.inner == 1) return load_row<whole>(a.weight, i, there, out);
  int64_t neuron = whole || i > 0 ? i / a.inner : 0;
  int64_t left = (neuron + 1) * a.inner - i;
  NVRM_UNROLL(4)
  for (int e = 0; e < row_elements; ++e, --left) {
    if (left == 0) {
      ++neuron;
      left = a.inner;
    }
    out[e] = whole || there.has(i + e) ? a.weight[neuron] : 0.0f;
  }
}

// Two rows of 4 activations of one object, of which the first is at place i. Returns what they add to its sum.
template <Sums sums, bool backward, bool whole>
NVRM_INLINE float stochastic_two_rows(const StochasticArguments& a, int64_t row, int64_t i, float (*eps)[4],
                                      float of_object, Row<float>* of_neurons) {
  const Range there{0, a.run};
  const int64_t at_mean = 2 * row * a.run, at_raw = at_mean + a.run, at_y = row * a.run;
  float mean[2][row_elements], raw[2][row_elements], grad[2][row_elements], second[2][row_elements];
  with_storage(a.storage, [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    const T* z = static_cast<const T*>(a.z);
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      const int64_t place = i + r * blocks_per_superblock;
      load_row<whole>(z + at_mean, place, there, mean[r]);
      load_row<whole>(z + at_raw, place, there, raw[r]);
      if constexpr (backward) load_row<whole>(static_cast<const T*>(a.grad) + at_y, place, there, grad[r]);
    }
  });
  float sum = 0.0f;
  NVRM_UNROLL(2)
  for (int r = 0; r < 2; ++r) {
    const int64_t place = i + r * blocks_per_superblock;
    float weight[row_elements] = {of_object, of_object, of_object, of_object};
    if constexpr (backward && sums == Sums::neuron) load_weights<whole>(a, place, there, weight);
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) {
      const auto activation = activate<CudaLanes>(mean[r][e], raw[r][e], eps[r][e], a.relu);
      if constexpr (backward) {
        float d_mean, d_raw;
        differentiate<CudaLanes, sums>(activation, mean[r][e], eps[r][e], grad[r][e], weight[e], a.relu, a.margin,
                                       &d_mean, &d_raw);
        mean[r][e] = d_mean;
        second[r][e] = d_raw;
      } else {
        const float added = added_to_sum<CudaLanes, sums>(activation, mean[r][e], a.margin);
        const bool counts = whole || there.has(place + e);
        mean[r][e] = activation.value;
        if constexpr (sums == Sums::neuron) of_neurons[r * threads_per_cta].value[e] += counts ? added : 0.0f;
        if constexpr (are_of_objects<sums>) sum = sum + (counts ? added : 0.0f);
      }
    }
  }
  with_storage(a.storage, [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    T* out = static_cast<T*>(a.out);
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      const int64_t place = i + r * blocks_per_superblock;
      write_row<whole>(out + (backward ? at_mean : at_y), place, there, mean[r]);
      if constexpr (backward) write_row<whole>(out + at_raw, place, there, second[r]);
    }
  });
  return sum;
}

// All that a thread does but what it does for others.
template <Sums sums, bool backward>
NVRM_INLINE void stochastic_thread(const StochasticArguments& a, uint32_t cta, int thread,
                                   StochasticStore<sums, backward>& store) {
  constexpr bool of_neurons = !backward && sums == Sums::neuron, of_objects = !backward && are_of_objects<sums>;
  const StochasticPlace place(a, cta, thread);
  const NoiseKey key = a.key.read();
  int64_t i = 0;
  if constexpr (of_neurons) {
    NVRM_UNROLL(8)
    for (int r = 0; r < rows; ++r) store.sums_of.row[r][thread] = {};
  }

  NVRM_UNROLL(1)
  for (int turn = 0; turn < a.turns; ++turn) {
    const int64_t row = place.first_row + static_cast<int64_t>(turn) * a.row_lanes;
    const int64_t start = a.offset + row * a.run;
    const Part part{start / superblock_size + place.column, thread % threads_per_superblock * row_elements};
    i = first_element(part, start);
    float sum = 0.0f;
    // The last superblock may be the next object's alone, and the first end before this object starts.
    if (place.works && row < a.outer && i < a.run && i + (rows - 1) * blocks_per_superblock + row_elements > 0) {
      const bool whole = a.takes_rows && is_whole(i, a.run);
      float of_object = 0.0f;
      if constexpr (backward && are_of_objects<sums>) of_object = a.weight[row];
      draw_words(part, key, thread, store.words);
      NVRM_UNROLL(1)
      for (int k = 0; k < 4; ++k) {
        float eps[2][row_elements];
        two_rows<Gaussian>(store.words.row[k][thread], eps);
        const int64_t at = i + 2 * k * blocks_per_superblock;
        Row<float>* neurons = nullptr;
        if constexpr (of_neurons) neurons = &store.sums_of.row[2 * k][thread];
        sum += whole ? stochastic_two_rows<sums, backward, true>(a, row, at, eps, of_object, neurons)
                     : stochastic_two_rows<sums, backward, false>(a, row, at, eps, of_object, neurons);
      }
    }
    if constexpr (of_objects) store.sums_of.of[turn][thread] = sum;
  }

  if constexpr (of_neurons) {
    // Places are the same in every turn: such launches have whole superblocks.
    if (!place.works) return;
    const int64_t row_tile = place.first_row / (static_cast<int64_t>(a.turns) * a.row_lanes);
    float* part = a.parts + (row_tile * a.row_lanes + place.row_lane) * a.run;
    const bool whole = a.takes_rows && is_whole(i, a.run);
    NVRM_UNROLL(1)
    for (int r = 0; r < rows; ++r) {
      const int64_t at = i + r * blocks_per_superblock;
      if (whole) {
        write_row<true>(part, at, {0, a.run}, store.sums_of.row[r][thread].value);
      } else {
        write_row<false>(part, at, {0, a.run}, store.sums_of.row[r][thread].value);
      }
    }
  }
}

// After all threads of the CTA: the sums of the objects that this thread adds up.
template <Sums sums>
NVRM_INLINE void add_objects(const StochasticArguments& a, uint32_t cta, int thread,
                             const StochasticStore<sums, false>& store) {
  const int64_t row_tile = cta / a.column_tiles, column_tile = cta - row_tile * a.column_tiles;
  const int threads = a.width * threads_per_superblock;
  NVRM_UNROLL(1)
  for (int at = thread; at < a.turns * a.row_lanes; at += threads_per_cta) {
    const int turn = at / a.row_lanes, lane = at - turn * a.row_lanes;
    const int64_t row = row_tile * a.turns * a.row_lanes + at;
    if (row >= a.outer) return;
    float sum = 0.0f;
    NVRM_UNROLL(4)
    for (int t = 0; t < threads; ++t) sum += store.sums_of.of[turn][lane * threads + t];
    a.parts[column_tile * a.outer + row] = sum;
  }
}

// Where superblocks are not whole, a launch of its own adds the neurons' logarithms: a thread goes down `turns` objects
// at one place, which a CTA's threads have next to each other.
NVRM_INLINE void add_neurons(const StochasticArguments& a, uint32_t cta, int thread) {
  const int64_t tile = cta / a.column_tiles;
  const int64_t place = (cta - tile * a.column_tiles) * threads_per_cta + thread;
  if (place >= a.run) return;
  const int64_t first = tile * a.turns, last = first + a.turns < a.outer ? first + a.turns : a.outer;
  float sum = 0.0f;
  with_storage(a.storage, [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    const T* raw = static_cast<const T*>(a.z) + a.run + place;
    NVRM_UNROLL(1)
    for (int64_t row = first; row < last; ++row) {
      sum += deviation<CudaLanes>(CudaLanes::widen(raw[2 * row * a.run])).log;
    }
  });
  a.parts[tile * a.run + place] = sum;
}

}  // namespace nvrm
