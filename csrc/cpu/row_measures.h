// Rows of relative noise, and the measuring of clean weights, one superblock after the other.
#pragma once

#include "../math/measure.h"
#include "cpu_kernels.h"

namespace nvrm {
namespace {

// The row of an element; asked in ascending order it seldom has to divide.
class RowFinder {
 public:
  explicit RowFinder(const MeasurePlace& at)
      : length_(at.row_length), row_(length_ == 0 ? 0 : -1), end_(length_ == 0 ? INT64_MAX : 0) {}

  // From here on row() and end() are of the row in which this place of the full tensor lies.
  NVRM_INLINE void find(int64_t element) {
    if (element >= begin_ && element < end_) return;
    row_ = element == end_ ? row_ + 1 : element / length_;
    begin_ = row_ * length_;
    end_ = begin_ + length_;
  }
  int64_t row() const { return row_; }
  int64_t end() const { return end_; }

 private:
  int64_t length_;
  int64_t row_;
  int64_t begin_ = 0;
  int64_t end_;
};

// Calls visit(row, from, to) for each stretch of one row in the elements [from, to) of a superblock.
template <class Visit>
NVRM_INLINE void for_each_row(RowFinder& rows, const MeasurePlace& at, int64_t superblock, int from, int to,
                              Visit visit) {
  const int64_t start = superblock * superblock_size;
  for (int i = from; i < to;) {
    rows.find(start + i);
    if (rows.row() >= at.rows) return;
    const int64_t end = rows.end() - start;
    const int stop = end < to ? static_cast<int>(end) : to;
    visit(rows.row(), i, stop);
    i = stop;
  }
}

// A superblock of noise of unit scale, each element times the b of its row.
NVRM_INLINE void scale_rows(const ScaleOf& scale, RowFinder& rows, const MeasurePlace& at, int64_t superblock,
                            float* noise) {
  for_each_row(rows, at, superblock, 0, superblock_size, [&](int64_t row, int from, int to) {
    const float b = relative_scale(scale.b, scale.line[row]);
    for (int i = from; i < to; ++i) noise[i] *= b;
  });
}

NVRM_INLINE int32_t magnitude_bits(float x) { return static_cast<int32_t>(ScalarLanes::bits_of(x) & 0x7fffffffu); }

// Sums up the clean weights of one tensor, for one thread; what is left is added to the tensor's sums at the end.
template <class L>
class Measurer {
 public:
  Measurer(const MeasurePlace& at, int measure) : at_(at), rows_(at), measure_(measure) {}
  Measurer(const Measurer&) = delete;
  ~Measurer() { flush(); }

  bool is_on() const { return at_.sums != nullptr; }

  // Elements [from, to) of a superblock.
  NVRM_NOINLINE void add(int64_t superblock, const float* clean, int from, int to) {
    for_each_row(rows_, at_, superblock, from, to, [&](int64_t row, int begin, int end) {
      if (row != row_) {
        flush();
        row_ = row;
      }
      if (measure_ == measure_rms) {
        add_squares(clean, begin, end);
      } else {
        add_largest(clean, begin, end);
      }
    });
  }

  NVRM_INLINE void add(int64_t superblock, const double* clean, int from, int to) {
    alignas(64) float narrow[superblock_size];
    for (int i = from; i < to; ++i) narrow[i] = static_cast<float>(clean[i]);
    add(superblock, narrow, from, to);
  }

 private:
  using D = typename L::D;
  using W = typename L::W;
  using I = typename L::I;
  static constexpr int lanes = sizeof(W) / sizeof(uint64_t);
  // A lane of high_ grows by less than 2^54 a stretch.
  static constexpr int most_stretches = 512;

  NVRM_INLINE void add_squares(const float* clean, int begin, int end) {
    // Two, because an addition waits for the one before it.
    SmallSquares<L> even, odd;
    SmallSquares<ScalarLanes> single;
    int i = begin;
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      D x, y;
      L::load(clean + i, x);
      L::load(clean + i + lanes, y);
      even.add(x);
      odd.add(y);
    }
    for (; i < end; ++i) single.add(clean[i]);
    if (L::any(even.is_lost() | odd.is_lost()) || single.is_lost() != 0) {
      SquareSum sum;
      for (i = begin; i < end; ++i) sum.add(clean[i]);
      total_ += (static_cast<__int128>(sum.high) << (fraction_bits - high_bits)) + sum.low;
      broken_ += sum.broken;
      return;
    }
    high_ += even.high_units() + odd.high_units();
    low_ += even.low_units() + odd.low_units();
    total_ += joined(single.high_units(), single.low_units());
    if (++stretches_ == most_stretches) collect();
  }

  NVRM_INLINE static __int128 joined(uint64_t high, uint64_t low) {
    return (static_cast<__int128>(static_cast<int64_t>(high)) << SmallSquares<L>::high_shift) +
           static_cast<int64_t>(low);
  }

  NVRM_INLINE void add_largest(const float* clean, int begin, int end) {
    I many = largest_;
    int i = begin;
    for (; i + L::width <= end; i += L::width) {
      typename L::F x;
      L::load(clean + i, x);
      const I bits = (I)(L::bits_of(x) & 0x7fffffffu);
      many = bits > many ? bits : many;
    }
    bool is_broken = !L::all(many < I{} + infinity_bits);
    for (; i < end; ++i) {
      const int32_t bits = magnitude_bits(clean[i]);
      single_largest_ = bits > single_largest_ ? bits : single_largest_;
    }
    largest_ = many;
    is_broken |= single_largest_ >= infinity_bits;
    for (i = begin; is_broken && i < end; ++i) broken_ += magnitude_bits(clean[i]) >= infinity_bits;
  }

  // From the lanes to the numbers.
  void collect() {
    uint64_t high[lanes], low[lanes];
    memcpy(high, &high_, sizeof high);
    memcpy(low, &low_, sizeof low);
    for (int i = 0; i < lanes; ++i) total_ += joined(high[i], low[i]);
    int32_t largest[L::width];
    memcpy(largest, &largest_, sizeof largest);
    for (const int32_t lane : largest) single_largest_ = lane > single_largest_ ? lane : single_largest_;
    high_ = low_ = W{};
    largest_ = I{};
    stretches_ = 0;
  }

  void flush() {
    if (row_ < 0) return;
    collect();
    int64_t* sum = at_.sums + row_ * sum_words;
    if (measure_ == measure_rms) {
      for (int word = 0; word < 3; ++word) {
        const auto value = static_cast<int64_t>(word < 2 ? (total_ >> (32 * word)) & 0xffffffff : total_ >> 64);
        __atomic_fetch_add(sum + word, value, __ATOMIC_RELAXED);
      }
    } else {
      int64_t there = __atomic_load_n(sum, __ATOMIC_RELAXED);
      while (there < single_largest_ &&
             !__atomic_compare_exchange_n(sum, &there, single_largest_, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      }
    }
    if (broken_ != 0) __atomic_fetch_add(sum + not_finite_word, broken_, __ATOMIC_RELAXED);
    total_ = 0;
    single_largest_ = 0;
    broken_ = 0;
  }

  MeasurePlace at_;
  RowFinder rows_;
  int measure_;
  int stretches_ = 0;  // since the last collect
  int64_t row_ = -1;
  W high_{};
  W low_{};
  I largest_{};
  int32_t single_largest_ = 0;
  __int128 total_ = 0;
  int64_t broken_ = 0;
};

}  // namespace
}  // namespace nvrm
