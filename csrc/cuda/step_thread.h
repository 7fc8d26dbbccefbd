// The fused step as one thread does it: coat off, rule, coat on. Host code too, so that the tests run the very lines
// of the kernel on the CPU.
#pragma once

#include "../optim/rule.h"
#include "launch_table.h"
#include "noise_thread.h"

namespace nvrm {

// Where element i of an operand lies, in elements.
NVRM_INLINE int64_t position(const Layout& layout, int operand, int64_t i) {
  int64_t at = 0;
  NVRM_UNROLL(1)
  for (int d = layout.dims - 1; d > 0; --d) {
    const int64_t above = i / layout.sizes[d];
    at += (i - above * layout.sizes[d]) * layout.strides[operand][d];
    i = above;
  }
  return at + i * layout.strides[operand][0];
}

// One tensor as this thread sees it.
struct View {
  const CudaTensor& tensor;
  const LaunchTable& table;

  NVRM_INLINE bool has(int64_t i) const { return i >= 0 && i < tensor.numel; }
  NVRM_INLINE int64_t at(int operand, int64_t i) const {
    return tensor.layout < 0 ? i : position(table.layout(tensor.layout), operand, i);
  }

  // The two rows of 4 from element i on. whole: they are all there and aligned; else those not there read as 0.
  template <bool whole, class T, class Math>
  NVRM_INLINE void load(int operand, int64_t i, Math (*out)[row_elements]) const {
    const T* data = static_cast<const T*>(tensor.data[operand]);
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r, i += blocks_per_superblock) {
      if constexpr (whole) {
        const Row<T> row = *reinterpret_cast<const Row<T>*>(data + i);
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) out[r][e] = CudaLanes::widen(row.value[e]);
      } else {
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) {
          out[r][e] = has(i + e) ? CudaLanes::widen(data[at(operand, i + e)]) : Math(0);
        }
      }
    }
  }

  template <bool whole, class T, class Math>
  NVRM_INLINE void store(int operand, int64_t i, const Math (*in)[row_elements]) const {
    T* data = static_cast<T*>(tensor.data[operand]);
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r, i += blocks_per_superblock) {
      if constexpr (whole) {
        Row<T> row;
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) CudaLanes::narrow(in[r][e], row.value[e]);
        store_row(data + i, row);
      } else {
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) {
          if (has(i + e)) CudaLanes::narrow(in[r][e], data[at(operand, i + e)]);
        }
      }
    }
  }
};

// What an instance of the step keeps of two rows.
template <class Rule, class Param, class Math, bool master>
struct TwoRows {
  using State = std::conditional_t<master, Math, Param>;
  Math x[2][row_elements];
  Math g[2][row_elements];
  Math s[Rule::states + 1][2][row_elements];

  template <bool whole>
  NVRM_INLINE void load(const View& view, int64_t i) {
    view.load<whole, State>(master ? master_operand : parameter_operand, i, x);
    if constexpr (Rule::reads_gradient) view.load<whole, Param>(gradient_operand, i, g);
    NVRM_UNROLL(3)
    for (int n = 0; n < Rule::states; ++n) view.load<whole, State>(state_operand + n, i, s[n]);
  }

  // States, and the clean weights where they are kept.
  template <bool whole>
  NVRM_INLINE void store_clean(const View& view, int64_t i, bool keep_noise) const {
    NVRM_UNROLL(3)
    for (int n = 0; n < Rule::states; ++n) view.store<whole, State>(state_operand + n, i, s[n]);
    if (master && Rule::reads_gradient && !keep_noise) view.store<whole, State>(master_operand, i, x);
  }

  template <bool whole>
  NVRM_INLINE void store_noisy(const View& view, int64_t i, bool keep_noise) const {
    if (master && keep_noise) view.store<whole, State>(master_operand, i, x);
    view.store<whole, Param>(parameter_operand, i, x);
  }
};

struct CoatWords {
  WordStore off;
  WordStore on;
};

// One part of one superblock. step: what the counter shows.
template <class Rule, class Param, class Math, bool master>
NVRM_INLINE void step_part(const View& view, const typename Rule::template Hyper<Math>& hyper, const Part& part,
                           int64_t step, Math step_size, Math root_scale, int thread, CoatWords& words) {
  const CudaTensor& tensor = view.tensor;
  const LaunchHeader& header = view.table.header;
  int64_t i = first_element(part, tensor.offset);
  if (i >= tensor.numel) return;
  const bool whole = tensor.takes_rows && is_whole(i, tensor.numel);
  const bool wears = tensor.scale_off != 0, will_wear = tensor.scale_on != 0;
  const float* grad_scale = header.grad_scale;

  if (wears) {
    PhiloxSchedule key = header.coat_off.key;
    key.stream = tensor.stream;
    key.step = static_cast<uint32_t>(step);
    draw_words(part, key, thread, words.off);
  }
  if (will_wear) {
    PhiloxSchedule key = header.coat_on.key;
    key.stream = tensor.stream;
    key.step = static_cast<uint32_t>(step + (header.draws_next ? 1 : 0));
    draw_words(part, key, thread, words.on);
  }

  // Two rows at a time. Rolled: unrolled it would be four times the code, for three distributions and two coats.
  NVRM_UNROLL(1)
  for (int k = 0; k < 4; ++k) {
    TwoRows<Rule, Param, Math, master> two;
    if (whole) {
      two.template load<true>(view, i);
    } else {
      two.template load<false>(view, i);
    }

    float noise[2][row_elements];
    if (wears) {
      two_rows(header.coat_off.distribution, words.off.row[k][thread], tensor.scale_off, noise);
      NVRM_UNROLL(8)
      for (int e = 0; e < 2 * row_elements; ++e) {
        Math& x = two.x[e / row_elements][e % row_elements];
        x = x - static_cast<Math>(noise[e / row_elements][e % row_elements]);
      }
    }
    if (Rule::reads_gradient && grad_scale != nullptr) {
      const Math divisor = static_cast<Math>(*grad_scale);
      NVRM_UNROLL(8)
      for (int e = 0; e < 2 * row_elements; ++e) {
        Math& g = two.g[e / row_elements][e % row_elements];
        g = g / divisor;
      }
    }
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      NVRM_UNROLL(4)
      for (int e = 0; e < row_elements; ++e) {
        Math state[Rule::states + 1];
        NVRM_UNROLL(3)
        for (int n = 0; n < Rule::states; ++n) state[n] = two.s[n][r][e];
        const Math gradient = Rule::reads_gradient ? two.g[r][e] : Math(0);
        Rule::template update<CudaLanes>(two.x[r][e], gradient, state, hyper, tensor.is_first, step_size, root_scale);
        NVRM_UNROLL(3)
        for (int n = 0; n < Rule::states; ++n) two.s[n][r][e] = state[n];
      }
    }
    if (whole) {
      two.template store_clean<true>(view, i, header.keep_noise);
    } else {
      two.template store_clean<false>(view, i, header.keep_noise);
    }
    if (will_wear) {
      two_rows(header.coat_on.distribution, words.on.row[k][thread], tensor.scale_on, noise);
      NVRM_UNROLL(8)
      for (int e = 0; e < 2 * row_elements; ++e) {
        Math& x = two.x[e / row_elements][e % row_elements];
        x = x + static_cast<Math>(noise[e / row_elements][e % row_elements]);
      }
    }
    if (whole) {
      two.template store_noisy<true>(view, i, header.keep_noise);
    } else {
      two.template store_noisy<false>(view, i, header.keep_noise);
    }
    i += 2 * blocks_per_superblock;
  }
}

// Everything that one thread of one group does. scalars: the group's, worked out by one of its threads.
template <class Rule, class Param, class Math, bool master>
NVRM_INLINE void step_thread(const LaunchTable& table, const typename Rule::template Hyper<Math>& hyper,
                             int tensor_position, uint32_t group, int thread, const AdamScalars& scalars,
                             CoatWords& words) {
  const View view{table.tensor(tensor_position), table};
  const int64_t step = *view.tensor.step;
  const int64_t first = view.tensor.offset / superblock_size + static_cast<int64_t>(group - view.tensor.first_group) *
                                                                   table.header.rounds * superblocks_per_round;
  NVRM_UNROLL(1)
  for (int round = 0; round < table.header.rounds; ++round) {
    step_part<Rule, Param, Math, master>(view, hyper, part_of(first, thread, round), step,
                                         static_cast<Math>(scalars.step_size), static_cast<Math>(scalars.root_scale),
                                         thread, words);
  }
}

}  // namespace nvrm
