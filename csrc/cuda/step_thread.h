// The fused step as one thread does it: old noise off, rule, new noise on. Host code too, so that the tests run the
// very lines of the kernel on the CPU.
#pragma once

#include "../math/update_rule.h"
#include "launch_table.h"
#include "measure_thread.h"
#include "noise_thread.h"

// What was read from memory before is not known any more.
#if defined(__CUDA_ARCH__)
#define NVRM_READ_AGAIN asm volatile("" ::: "memory");
#else
#define NVRM_READ_AGAIN
#endif

namespace nvrm {

// Where parameters have measures: the rows of a CTA's elements, and the scales of its noise in them.
struct CtaRelation {
  CtaRows rows;
  ScaleOf old_scale;
  ScaleOf new_scale;
};

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

// The tensor's element in which a CTA's first superblock begins, counted in the full tensor.
NVRM_INLINE int64_t cta_element(const LaunchTable& table, const CudaTensor& tensor, uint32_t cta) {
  const int64_t superblocks_per_cta = int64_t{table.header.rounds} * superblocks_per_round;
  return (tensor.offset / superblock_size + (cta - tensor.first_cta) * superblocks_per_cta) * superblock_size;
}

// One draw of noise by the measures of its row: of unit scale where the CTA has several rows, and then `scale` has the
// line of their measures. So it is where b of the only row is 0: noise of 0 is added, too, which a weight of -0 shows.
NVRM_INLINE void take_scale(NoiseDraw& draw, ScaleOf& scale, const CtaRows& rows) {
  if (scale.line != nullptr && rows.are_one()) {
    const float b = relative_scale(scale.b, scale.line[rows.first]);
    if (b != 0.0f) scale = {b, nullptr};
  }
  draw.scale = scale.line != nullptr ? 1.0f : scale.b;
}

// What follows from both noises' scales.
template <class Rule, class Math>
NVRM_INLINE void take_turns(CtaArguments<Rule, Math>& cta) {
  cta.old_scale = turned_scale(cta.old_noise.scale, cta.old_noise.turn);
  cta.new_scale = turned_scale(cta.new_noise.scale, cta.new_noise.turn);
  cta.one_draw = cta.old_noise.scale != 0 && cta.new_noise.scale != 0 && is_one_draw(cta.old_noise, cta.new_noise);
}

template <class Rule, class Math, bool master>
NVRM_INLINE CtaArguments<Rule, Math> cta_arguments(const LaunchTable& table, int tensor_position) {
  const LaunchHeader& header = table.header;
  const RecordPlace& place = table.tensor(tensor_position).place;
  const double* raw = header.hyper_tensor != nullptr ? header.hyper_tensor : header.hyper;
  CtaArguments<Rule, Math> cta;
  cta.old_noise = old_noise(place, header.noise, master);
  cta.new_noise = NoiseDraw{};
  if constexpr (Rule::writes) cta.new_noise = new_noise(place, header.noise);
  take_turns(cta);
  cta.hyper = Rule::template combine<Math>(raw);
  if constexpr (Rule::reads_gradient) cta.scalars = Rule::template scalars<Math>(raw, *place.step + 1);
  cta.is_first = Rule::has_special_first_gradient && is_first_gradient(place);
  return cta;
}

// The same where the tensor has measures; `cta` gets the scales.
template <class Rule, class Math>
NVRM_INLINE CtaRelation cta_relation(const LaunchTable& table, int tensor_position, uint32_t cta_number,
                                     CtaArguments<Rule, Math>& cta) {
  const CudaTensor& tensor = table.tensor(tensor_position);
  const MeasurePlace& at = table.measure(tensor.measure);
  const int64_t first = cta_element(table, tensor, cta_number), end = tensor.offset + tensor.numel - first;
  const int64_t most = int64_t{table.header.rounds} * superblocks_per_round * superblock_size;
  CtaRelation found{};
  found.rows = cta_rows(at, first, static_cast<uint32_t>(first < tensor.offset ? tensor.offset - first : 0),
                        static_cast<uint32_t>(end < most ? end : most));
  found.old_scale = old_scale(cta.old_noise, tensor.place, at);
  if constexpr (Rule::writes) found.new_scale = new_scale(cta.new_noise, tensor.place, at, table.header.noise);
  take_scale(cta.old_noise, found.old_scale, found.rows);
  take_scale(cta.new_noise, found.new_scale, found.rows);
  take_turns(cta);
  return found;
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

template <class Rule>
NVRM_INLINE bool has_nothing_to_do(const LaunchTable& table, int tensor_position) {
  const RecordPlace& place = table.tensor(tensor_position).place;
  if constexpr (!Rule::writes) return table.header.only_clean && recorded_noise(place.record).scale != 0;
  return !Rule::reads_gradient && stays_clean(place);
}

// How two rows of 4 are read and written.
enum class Access {
  rows,      // each as one vector
  elements,  // all are there, each on its own, one after the other in memory or where a Walk says
  single     // in a loop, those that are there, wherever they lie
};

// Calls visit(a constant of the value of `access`): what follows is compiled for each.
template <class Visit>
NVRM_INLINE void by(Access access, Visit visit) {
  switch (access) {
    case Access::rows:
      return visit(std::integral_constant<Access, Access::rows>{});
    case Access::elements:
      return visit(std::integral_constant<Access, Access::elements>{});
    case Access::single:
      return visit(std::integral_constant<Access, Access::single>{});
  }
}

// A thread's own bytes of shared memory, for either of two things, of which its neighbors may use the other. Where the
// elements of two rows lie, if they are walked: in registers that would cost every tensor places on the multiprocessor.
// Or two rows on their way through a loop over single elements: a loop over registers would be unrolled, and then be
// most of the kernel's code.
template <class Math>
union Scratch {
  WordRow place[2];
  Math element[2 * row_elements];
};

// One tensor as this thread sees it.
template <class Math>
struct View {
  const CudaTensor& tensor;
  const LaunchTable& table;
  Scratch<Math>& scratch;

  NVRM_INLINE bool has(int64_t i) const { return i >= 0 && i < tensor.numel; }
  NVRM_INLINE const MeasurePlace& measure() const { return table.measure(tensor.measure); }
  NVRM_INLINE const Walk& walk() const { return table.walk(tensor.layout); }
  // Whether elements lie one after the other in their row-major order.
  NVRM_INLINE bool is_row_major(int operand) const {
    return tensor.layout < 0 || (operand == gradient_operand && tensor.is_walked() && walk().row_major_gradient);
  }
  NVRM_INLINE int64_t at(int operand, int64_t i) const {
    if (is_row_major(operand)) return i;
    return tensor.is_walked() ? walk().position(static_cast<uint32_t>(i))
                              : position(table.layout(tensor.layout), operand, i);
  }

  NVRM_INLINE Access access(int64_t i) const {
    if (!is_whole(i, tensor.numel) || (tensor.layout >= 0 && !tensor.is_walked())) return Access::single;
    return tensor.takes_rows() ? Access::rows : Access::elements;
  }
  NVRM_INLINE void find_places(int64_t i) const {
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      WordRow row;
      walk().row_positions(static_cast<uint32_t>(i) + static_cast<uint32_t>(r * blocks_per_superblock), row.value);
      scratch.place[r] = row;
    }
  }

  // The two rows of 4 from element i on. Elements that are not there read as 0.
  template <Access access, class T>
  NVRM_INLINE void load(int operand, int64_t i, Math (*out)[row_elements]) const {
    const T* data = static_cast<const T*>(tensor.data[operand]);
    if constexpr (access == Access::single) {
      NVRM_UNROLL(1)
      for (int n = 0; n < 2 * row_elements; ++n) {
        const int64_t place = i + place_in_rows(n);
        scratch.element[n] = has(place) ? CudaLanes::widen(data[at(operand, place)]) : Math(0);
      }
      NVRM_UNROLL(8)
      for (int n = 0; n < 2 * row_elements; ++n) {
        out[n / row_elements][n % row_elements] = scratch.element[n];
      }
      return;
    }
    const bool is_in_order = is_row_major(operand);
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r, i += blocks_per_superblock) {
      if constexpr (access == Access::rows) {
        const Row<T> row = *reinterpret_cast<const Row<T>*>(data + i);
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) out[r][e] = CudaLanes::widen(row.value[e]);
      } else {
        const T* first = is_in_order ? data + i : data;
        const WordRow row = places_of(r, is_in_order);
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) out[r][e] = CudaLanes::widen(first[row.value[e]]);
      }
    }
  }

  template <Access access, class T>
  NVRM_INLINE void store(int operand, int64_t i, const Math (*in)[row_elements]) const {
    T* data = static_cast<T*>(tensor.data[operand]);
    if constexpr (access == Access::single) {
      NVRM_UNROLL(8)
      for (int n = 0; n < 2 * row_elements; ++n) {
        scratch.element[n] = in[n / row_elements][n % row_elements];
      }
      NVRM_UNROLL(1)
      for (int n = 0; n < 2 * row_elements; ++n) {
        const int64_t place = i + place_in_rows(n);
        if (has(place)) CudaLanes::narrow(scratch.element[n], data[at(operand, place)]);
      }
      return;
    }
    const bool is_in_order = is_row_major(operand);
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r, i += blocks_per_superblock) {
      if constexpr (access == Access::rows) {
        Row<T> row;
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) CudaLanes::narrow(in[r][e], row.value[e]);
        store_row(data + i, row);
      } else {
        T* first = is_in_order ? data + i : data;
        const WordRow row = places_of(r, is_in_order);
        NVRM_UNROLL(4)
        for (int e = 0; e < row_elements; ++e) CudaLanes::narrow(in[r][e], first[row.value[e]]);
      }
    }
  }

 private:
  // Element n of two rows, counted from the first.
  static NVRM_INLINE int place_in_rows(int n) { return n / row_elements * blocks_per_superblock + n % row_elements; }
  NVRM_INLINE WordRow places_of(int r, bool is_in_order) const {
    if (!is_in_order) return scratch.place[r];
    return {{0, 1, 2, 3}};
  }
};

// What an instance of the step keeps of two rows.
template <class Rule, class Param, class Math, bool master>
struct TwoRows {
  using State = std::conditional_t<master, Math, Param>;
  Math x[2][row_elements];
  Math g[2][row_elements];
  Math s[Rule::states + 1][2][row_elements];

  template <Access access>
  NVRM_INLINE void load(const View<Math>& view, int64_t i) {
    view.template load<access, State>(master ? master_operand : parameter_operand, i, x);
    if constexpr (Rule::reads_gradient) view.template load<access, Param>(gradient_operand, i, g);
    NVRM_UNROLL(3)
    for (int n = 0; n < Rule::states; ++n) view.template load<access, State>(state_operand + n, i, s[n]);
  }

  // The rule's step. usual: the hyper-parameters are without flags, their scalars of usual size.
  template <bool usual, class Hyper, class Scalars>
  NVRM_INLINE void update(const Hyper& hyper, const Scalars& scalars, bool is_first) {
    NVRM_UNROLL(2)
    for (int r = 0; r < 2; ++r) {
      Math state[row_elements][Rule::states + 1];
      NVRM_UNROLL(4)
      for (int e = 0; e < row_elements; ++e) {
        NVRM_UNROLL(3)
        for (int n = 0; n < Rule::states; ++n) state[e][n] = s[n][r][e];
        const Math gradient = Rule::reads_gradient ? g[r][e] : Math(0);
        if constexpr (is_quick<usual>) {
          Rule::collect(x[r][e], gradient, state[e], hyper);
        } else {
          Rule::template update<CudaLanes>(x[r][e], gradient, state[e], hyper, scalars, is_first);
        }
        NVRM_UNROLL(3)
        for (int n = 0; n < Rule::states; ++n) s[n][r][e] = state[e][n];
      }
      if constexpr (is_quick<usual>) move(x[r], state, hyper, scalars);
    }
  }

  // States, and the clean weights where they are kept.
  template <Access access>
  NVRM_INLINE void store_clean(const View<Math>& view, int64_t i, bool keep_noise) const {
    if constexpr (Rule::writes) {
      NVRM_UNROLL(3)
      for (int n = 0; n < Rule::states; ++n) view.template store<access, State>(state_operand + n, i, s[n]);
      if (master && Rule::reads_gradient && !keep_noise) view.template store<access, State>(master_operand, i, x);
    }
  }

  template <Access access>
  NVRM_INLINE void store_noisy(const View<Math>& view, int64_t i, bool keep_noise) const {
    if constexpr (Rule::writes) {
      if (master && keep_noise) view.template store<access, State>(master_operand, i, x);
      view.template store<access, Param>(parameter_operand, i, x);
    }
  }

 private:
  template <bool usual>
  static constexpr bool is_quick = usual && Rule::divides && std::is_same_v<Math, float>;

  // One question for the roots and quotients of four elements, not two for each.
  template <class Hyper, class Scalars>
  static NVRM_INLINE void move(Math* x, const Math (*state)[Rule::states + 1], const Hyper& hyper,
                               const Scalars& scalars) {
    Math quotient[row_elements];
    bool exact = true;
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) {
      quotient[e] = Rule::template quotient<UsualLanes>(state[e], hyper, scalars);
      exact = exact && Rule::is_exact(state[e], quotient[e]);
    }
    if (!exact) {
      NVRM_UNROLL(4)
      for (int e = 0; e < row_elements; ++e) {
        quotient[e] = Rule::template quotient<CudaLanes>(state[e], hyper, scalars);
      }
    }
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) Rule::move(x[e], quotient[e], scalars);
  }
};

// What the threads of a CTA keep in shared memory, each for itself.
template <class Math>
struct CtaWords {
  WordStore off;
  WordStore on;
  Scratch<Math> scratch[threads_per_cta];
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

// Measures the two rows of clean weights from element i on. Through the words of their noise, which are used up: a loop
// over registers would move them.
template <class Math>
NVRM_INLINE void measure_rows(const View<Math>& view, int64_t i, bool whole, const Math (*x)[row_elements], int k,
                              int thread, CtaWords<Math>& words, uint32_t place, ThreadMeasure& measure) {
  WordRow* const rows_of_words[2] = {&words.off.row[k][thread], &words.on.row[k][thread]};
  NVRM_UNROLL(2)
  for (int r = 0; r < 2; ++r) {
    WordRow row;
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) row.value[e] = ScalarLanes::bits_of(static_cast<float>(x[r][e]));
    *rows_of_words[r] = row;
  }
  NVRM_UNROLL(1)
  for (int n = 0; n < 2 * row_elements; ++n) {
    const int e = n % row_elements, behind = (n / row_elements) * blocks_per_superblock + e;
    if (!whole && !view.has(i + behind)) continue;
    const WordStore& store = n < row_elements ? words.off : words.on;
    measure.add(ScalarLanes::float_from_bits(store.row[k][thread].value[e]), place + static_cast<uint32_t>(behind));
  }
}

// One part of one superblock.
template <class Rule, class Param, class Math, bool master, bool relative>
NVRM_INLINE void step_part(const View<Math>& view, const CtaArguments<Rule, Math>& cta, const CtaRelation* relation,
                           const Part& part, int thread, CtaWords<Math>& words, uint32_t place,
                           ThreadMeasure* measure) {
  const CudaTensor& tensor = view.tensor;
  const LaunchHeader& header = view.table.header;
  int64_t i = first_element(part, tensor.offset);
  if (i >= tensor.numel) return;
  const Access access = view.access(i);
  const bool has_off = !master && cta.old_noise.scale != 0, has_on = Rule::writes && cta.new_noise.scale != 0;
  const bool one_draw = !master && cta.one_draw;
  const bool keep_noise = Rule::reads_gradient && header.noise.keep_noise;
  const float* grad_scale = header.grad_scale;
  // Noise alone is put on clean weights that have been measured.
  constexpr bool can_measure = relative && (Rule::reads_gradient || !Rule::writes);
  const bool measures = can_measure && header.noise.measure != 0;

  // No flag, no first gradient, no scalar beyond all bounds: without those questions an element takes fewer
  // instructions.
  bool usual = !(Rule::has_special_first_gradient && cta.is_first) && !Rule::has_flags(cta.hyper);
  if constexpr (Rule::divides) usual = usual && Rule::has_quick_scalars(cta.hyper, cta.scalars);

  if (has_off) draw_words(part, cta.old_noise.key, thread, words.off);
  if (has_on && !one_draw) draw_words(part, cta.new_noise.key, thread, words.on);

  // Two rows at a time. Rolled: unrolled it would be four times the code, for three distributions and two draws.
  NVRM_UNROLL(1)
  for (int k = 0; k < 4; ++k) {
    TwoRows<Rule, Param, Math, master> two;
    if (access == Access::elements && tensor.is_walked()) view.find_places(i);
    by(access, [&](auto how) { two.template load<how.value>(view, i); });

    float noise[2][row_elements];
    if (has_off) {
      two_rows(cta.old_noise.distribution, words.off.row[k][thread], noise);
      if (one_draw) keep_rows(noise, thread, words.on);
      turn_rows(cta.old_scale, noise);
      if constexpr (relative) scale_rows(view.measure(), relation->rows, relation->old_scale, place, noise);
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
    if (usual) {
      two.template update<true>(Rule::without_flags(hyper), scalars, false);
    } else {
      two.template update<false>(hyper, scalars, is_first);
    }
    by(access, [&](auto how) { two.template store_clean<how.value>(view, i, keep_noise); });
    if (has_on) {
      if (one_draw) {
        recall_rows(words.on, thread, cta.new_scale, noise);
      } else {
        two_rows(cta.new_noise.distribution, words.on.row[k][thread], noise);
        turn_rows(cta.new_scale, noise);
      }
      if constexpr (relative) scale_rows(view.measure(), relation->rows, relation->new_scale, place, noise);
    }
    if constexpr (can_measure && (master || !Rule::writes)) {
      if (measures) measure_rows(view, i, access != Access::single, two.x, k, thread, words, place, *measure);
    }
    if (has_on) {
      NVRM_UNROLL(8)
      for (int e = 0; e < 2 * row_elements; ++e) {
        Math& x = two.x[e / row_elements][e % row_elements];
        x = x + static_cast<Math>(noise[e / row_elements][e % row_elements]);
      }
    }
    by(access, [&](auto how) { two.template store_noisy<how.value>(view, i, keep_noise); });
    if constexpr (can_measure && !master && Rule::writes) {
      if (measures) {
        // The clean weights are what is left when the noise is taken off again.
        NVRM_UNROLL(8)
        for (int e = 0; e < 2 * row_elements; ++e) {
          Math& x = two.x[e / row_elements][e % row_elements];
          Param stored;
          CudaLanes::narrow(x, stored);
          x = CudaLanes::widen(stored);
          if (has_on) x = x - static_cast<Math>(noise[e / row_elements][e % row_elements]);
        }
        measure_rows(view, i, access != Access::single, two.x, k, thread, words, place, *measure);
      }
    }
    i += 2 * blocks_per_superblock;
    place += 2 * blocks_per_superblock;
  }
}

// Everything that one thread of one CTA does; where it measures, add_cta_sums follows when all threads are done.
// relation, sums: null where parameters have no measures.
template <class Rule, class Param, class Math, bool master, bool relative>
NVRM_INLINE void step_thread(const LaunchTable& table, const CtaArguments<Rule, Math>& arguments,
                             const CtaRelation* relation, int tensor_position, uint32_t cta, int thread,
                             CtaWords<Math>& words, CtaSums* sums) {
  const View<Math> view{table.tensor(tensor_position), table, words.scratch[thread]};
  const int64_t first = cta_element(table, view.tensor, cta) / superblock_size;
  const auto step_rounds = [&](ThreadMeasure* measure) {
    NVRM_UNROLL(1)
    for (int round = 0; round < table.header.rounds; ++round) {
      const Part part = part_of(first, thread, round);
      const auto place = static_cast<uint32_t>((part.superblock - first) * superblock_size + part.first_block);
      step_part<Rule, Param, Math, master, relative>(view, arguments, relation, part, thread, words, place, measure);
    }
  };
  if constexpr (relative) {
    ThreadMeasure measure(view.measure(), relation->rows, table.header.noise.measure);
    step_rounds(&measure);
    if (table.header.noise.measure != 0) measure.finish(*sums, thread);
  } else {
    step_rounds(nullptr);
  }
}

}  // namespace nvrm
