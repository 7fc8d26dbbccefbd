// Rows of relative noise and the measuring of clean weights, as one thread of a step does them. Host code too, like
// step_thread.h.
#pragma once

#include "launch_table.h"
#include "noise_thread.h"

namespace nvrm {

// The rows of a CTA's elements. A place is counted from the first element of the CTA's first superblock.
struct CtaRows {
  int64_t first;        // the row of place 0
  uint64_t multiplier;  // floor(2^32 / row_length) + 1; 0: no more than one row ends within the CTA
  uint32_t start;       // place 0 within its row; where the multiplier is 0, the place at which the next row begins

  // The row of a place, counted from `first`.
  NVRM_INLINE uint32_t of(uint32_t place) const {
    if (multiplier == 0) return place >= start ? 1 : 0;
    // Exact: both factors are below 2^16 and 2^32 + 2, and the multiplier is too large by less than row_length / 2^32.
    return static_cast<uint32_t>((start + place) * multiplier >> 32);
  }
  NVRM_INLINE bool are_one() const { return multiplier == 0 && start == 0xffffffffu; }
};

// first_element: of the CTA's first superblock, in the full tensor. [begin, end): the places that the tensor has.
NVRM_INLINE CtaRows cta_rows(const MeasurePlace& at, int64_t first_element, uint32_t begin, uint32_t end) {
  constexpr uint32_t never = 0xffffffffu;
  if (at.row_length == 0) return {0, 0, never};
  CtaRows found{first_element / at.row_length, 0, 0};
  const int64_t in_row = first_element - found.first * at.row_length;
  if (at.row_length <= most_cta_elements) {
    found.multiplier = (uint64_t{1} << 32) / static_cast<uint32_t>(at.row_length) + 1;
    found.start = static_cast<uint32_t>(in_row);
  } else {
    const int64_t left = at.row_length - in_row;
    found.start = left < most_cta_elements ? static_cast<uint32_t>(left) : never;
  }
  const uint32_t row = found.of(begin);
  if (row == found.of(end - 1)) found = {found.first + row, 0, never};
  return found;
}

// Noise of unit scale in the two rows of 4 from this place on, each element times the b of its row.
// Nothing where `scale` has no line: the noise is scaled already.
NVRM_INLINE void scale_rows(const MeasurePlace& at, const CtaRows& rows, const ScaleOf& scale, uint32_t place,
                            float (*noise)[row_elements]) {
  if (scale.line == nullptr) return;
  const int64_t last = at.rows - 1 - rows.first;
  NVRM_UNROLL(2)
  for (int r = 0; r < 2; ++r, place += blocks_per_superblock) {
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) {
      const int64_t row = rows.of(place + static_cast<uint32_t>(e));
      noise[r][e] *=
          relative_scale(scale.b, scale.line[rows.first + (row < last ? row : last)]);  // the tensor may have ended
    }
  }
}

NVRM_INLINE void add_to_memory(int64_t* at, int64_t value, bool is_largest) {
  if (value == 0) return;
#if defined(__CUDA_ARCH__)
  if (is_largest) {
    atomicMax(reinterpret_cast<long long*>(at), static_cast<long long>(value));
  } else {
    atomicAdd(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
  }
#else
  *at = is_largest ? (*at > value ? *at : value) : *at + value;
#endif
}

// The sums of a CTA's threads, in its shared memory.
struct CtaSums {
  int64_t word[threads_per_cta][sum_words];
};

// What one thread has measured. Sums of squares are integers, and the largest of a set is too, so nothing depends on
// the order in which threads come.
class ThreadMeasure {
 public:
  NVRM_INLINE ThreadMeasure(const MeasurePlace& at, const CtaRows& rows, int measure)
      : at_(at), rows_(rows), measure_(measure) {}

  NVRM_INLINE void add(float value, uint32_t place) {
    const uint32_t row = rows_.of(place);
    if (row != row_) {
      flush();
      row_ = row;
    }
    if (measure_ == measure_rms) {
      sum_.add(value);
    } else {
      const auto bits = static_cast<int32_t>(ScalarLanes::bits_of(value) & 0x7fffffffu);
      largest_ = bits > largest_ ? bits : largest_;
      sum_.broken += bits >= infinity_bits ? 1 : 0;
    }
  }

  // After the thread's last element: to the CTA's sums, which add_cta_sums then adds up, or, where the CTA has several
  // rows, to those in memory.
  NVRM_INLINE void finish(CtaSums& sums, int thread) {
    if (!rows_.are_one()) return flush();
    for_each_word([&](int word, int64_t value) { sums.word[thread][word] = value; });
  }

 private:
  template <class Visit>
  NVRM_INLINE void for_each_word(Visit visit) const {
    if (measure_ == measure_rms) {
      add_square_sum(sum_, visit);
    } else {
      visit(0, int64_t{largest_});
      visit(1, int64_t{0});
      visit(2, int64_t{0});
    }
    visit(not_finite_word, sum_.broken);
  }

  NVRM_INLINE void flush() {
    int64_t* sums = at_.sums + (rows_.first + row_) * sum_words;
    const bool is_largest = measure_ == measure_absmax;
    for_each_word([&](int word, int64_t value) { add_to_memory(sums + word, value, is_largest && word == 0); });
    sum_ = SquareSum{};
    largest_ = 0;
  }

  const MeasurePlace& at_;
  const CtaRows& rows_;
  int measure_;
  uint32_t row_ = 0;
  int32_t largest_ = 0;
  SquareSum sum_;
};

// After all threads of a CTA have finished: one of them for each word.
NVRM_INLINE void add_cta_sums(const CtaSums& sums, const MeasurePlace& at, const CtaRows& rows, int measure,
                              int thread) {
  if (thread >= sum_words || !rows.are_one()) return;
  const bool is_largest = measure == measure_absmax && thread == 0;
  int64_t total = 0;
  NVRM_UNROLL(8)
  for (int other = 0; other < threads_per_cta; ++other) {
    const int64_t value = sums.word[other][thread];
    total = is_largest ? (value > total ? value : total) : total + value;
  }
  add_to_memory(at.sums + rows.first * sum_words + thread, total, is_largest);
}

}  // namespace nvrm
