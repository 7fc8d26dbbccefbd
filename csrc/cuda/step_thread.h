// The fused step as one thread does it: old noise off, rule, new noise on. Host code too, so that the tests run the
// very lines of the kernel on the CPU.
#pragma once

#include "../math/update_rule.h"
#include "launch_table.h"
#include "noise_thread.h"

// What was read from memory before is not known any more.
#if defined(__CUDA_ARCH__)
#define NVRM_READ_AGAIN asm volatile("" ::: "memory");
#else
#define NVRM_READ_AGAIN
#endif

namespace nvrm {

// What one thread of a CTA works out for all of them, from the table and from device memory.
template <class Rule, class Math>
struct CtaArguments {
  NoiseDraw old_noise;
  NoiseDraw new_noise;
  TurnedScale old_scale;
  TurnedScale new_scale;
  bool one_draw;  // both are turns of one draw
  typename Rule::template Hyper<Math> hyper;
  typename Rule::template Scalars<Math> scalars;
  bool is_first;
};

template <class Rule, class Math, bool master>
NVRM_INLINE CtaArguments<Rule, Math> cta_arguments(const LaunchTable& table, int tensor_position) {
  const LaunchHeader& header = table.header;
  const RecordPlace& place = table.tensor(tensor_position).place;
  const double* raw = header.hyper_tensor != nullptr ? header.hyper_tensor : header.hyper;
  CtaArguments<Rule, Math> cta;
  cta.old_noise = old_noise(place, header.noise, master);
  cta.new_noise = new_noise(place, header.noise);
  cta.old_scale = turned_scale(cta.old_noise.scale, cta.old_noise.turn);
  cta.new_scale = turned_scale(cta.new_noise.scale, cta.new_noise.turn);
  cta.one_draw = cta.old_noise.scale != 0 && cta.new_noise.scale != 0 && is_one_draw(cta.old_noise, cta.new_noise);
  cta.hyper = Rule::template combine<Math>(raw);
  if constexpr (Rule::reads_gradient) cta.scalars = Rule::template scalars<Math>(raw, *place.step + 1);
  cta.is_first = Rule::has_special_first_gradient && is_first_gradient(place);
  return cta;
}

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

struct NoiseWords {
  WordStore off;
  WordStore on;
};

// Scales the noise that two rows have, turned, from noise of unit scale.
NVRM_INLINE void turn_rows(const TurnedScale& scale, float (*noise)[row_elements]) {
  NVRM_UNROLL(4)
  for (int e = 0; e < row_elements; ++e) {
    const float first = noise[0][e], second = noise[1][e];
    noise[0][e] = (scale.exchange ? second : first) * scale.even;
    noise[1][e] = (scale.exchange ? first : second) * scale.odd;
  }
}

// Where one draw gives both noises, its values wait in the words' place while the rule is at work, which needs the
// registers.
NVRM_INLINE void keep_rows(const float (*unit)[row_elements], int thread, WordStore& words) {
  NVRM_UNROLL(2)
  for (int r = 0; r < 2; ++r) {
    WordRow row;
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) row.value[e] = CudaLanes::bits_of(unit[r][e]);
    words.row[r][thread] = row;
  }
}

// Turned and scaled as turn_rows does it: an exchange of rows is one of addresses here.
NVRM_INLINE void recall_rows(const WordStore& words, int thread, const TurnedScale& scale,
                             float (*noise)[row_elements]) {
  const int first = scale.exchange ? 1 : 0;
  const WordRow even = words.row[first][thread], odd = words.row[1 - first][thread];
  NVRM_UNROLL(4)
  for (int e = 0; e < row_elements; ++e) {
    noise[0][e] = CudaLanes::float_from_bits(even.value[e]) * scale.even;
    noise[1][e] = CudaLanes::float_from_bits(odd.value[e]) * scale.odd;
  }
}

// One part of one superblock.
template <class Rule, class Param, class Math, bool master>
NVRM_INLINE void step_part(const View& view, const CtaArguments<Rule, Math>& cta, const Part& part, int thread,
                           NoiseWords& words) {
  const CudaTensor& tensor = view.tensor;
  const LaunchHeader& header = view.table.header;
  int64_t i = first_element(part, tensor.offset);
  if (i >= tensor.numel) return;
  const bool whole = tensor.takes_rows && is_whole(i, tensor.numel);
  const bool has_off = !master && cta.old_noise.scale != 0, has_on = cta.new_noise.scale != 0;
  const bool one_draw = !master && cta.one_draw;
  const bool keep_noise = Rule::reads_gradient && header.noise.keep_noise;
  const float* grad_scale = header.grad_scale;

  if (has_off) draw_words(part, cta.old_noise.key, thread, words.off);
  if (has_on && !one_draw) draw_words(part, cta.new_noise.key, thread, words.on);

  // Two rows at a time. Rolled: unrolled it would be four times the code, for three distributions and two draws.
  NVRM_UNROLL(1)
  for (int k = 0; k < 4; ++k) {
    TwoRows<Rule, Param, Math, master> two;
    if (whole) {
      two.template load<true>(view, i);
    } else {
      two.template load<false>(view, i);
    }

    float noise[2][row_elements];
    if (has_off) {
      two_rows(cta.old_noise.distribution, words.off.row[k][thread], noise);
      if (one_draw) keep_rows(noise, thread, words.on);
      turn_rows(cta.old_scale, noise);
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
    // Read here, every time, and not once before the loop: in shared memory they cost a few instructions, in registers
    // they cost places on the multiprocessor.
    NVRM_READ_AGAIN
    const typename Rule::template Hyper<Math> hyper = cta.hyper;
    const typename Rule::template Scalars<Math> scalars = cta.scalars;
    const bool is_first = Rule::has_special_first_gradient && cta.is_first;
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      NVRM_UNROLL(4)
      for (int e = 0; e < row_elements; ++e) {
        Math state[Rule::states + 1];
        NVRM_UNROLL(3)
        for (int n = 0; n < Rule::states; ++n) state[n] = two.s[n][r][e];
        const Math gradient = Rule::reads_gradient ? two.g[r][e] : Math(0);
        Rule::template update<CudaLanes, Math, Math>(two.x[r][e], gradient, state, hyper, scalars, is_first);
        NVRM_UNROLL(3)
        for (int n = 0; n < Rule::states; ++n) two.s[n][r][e] = state[n];
      }
    }
    if (whole) {
      two.template store_clean<true>(view, i, keep_noise);
    } else {
      two.template store_clean<false>(view, i, keep_noise);
    }
    if (has_on) {
      if (one_draw) {
        recall_rows(words.on, thread, cta.new_scale, noise);
      } else {
        two_rows(cta.new_noise.distribution, words.on.row[k][thread], noise);
        turn_rows(cta.new_scale, noise);
      }
      NVRM_UNROLL(8)
      for (int e = 0; e < 2 * row_elements; ++e) {
        Math& x = two.x[e / row_elements][e % row_elements];
        x = x + static_cast<Math>(noise[e / row_elements][e % row_elements]);
      }
    }
    if (whole) {
      two.template store_noisy<true>(view, i, keep_noise);
    } else {
      two.template store_noisy<false>(view, i, keep_noise);
    }
    i += 2 * blocks_per_superblock;
  }
}

// Everything that one thread of one CTA does.
template <class Rule, class Param, class Math, bool master>
NVRM_INLINE void step_thread(const LaunchTable& table, const CtaArguments<Rule, Math>& arguments, int tensor_position,
                             uint32_t cta, int thread, NoiseWords& words) {
  const View view{table.tensor(tensor_position), table};
  const int64_t first = view.tensor.offset / superblock_size +
                        static_cast<int64_t>(cta - view.tensor.first_cta) * table.header.rounds * superblocks_per_round;
  NVRM_UNROLL(1)
  for (int round = 0; round < table.header.rounds; ++round) {
    step_part<Rule, Param, Math, master>(view, arguments, part_of(first, thread, round), thread, words);
  }
}

}  // namespace nvrm
