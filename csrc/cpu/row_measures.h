// Rows of relative noise, and the measuring of clean weights, one superblock after the other.
#pragma once

#include "../math/measure.h"
#include "cpu_kernels.h"

namespace nvrm {
namespace {

// Calls visit(row, from, to) for each stretch of one row in the elements [from, to) of a superblock.
template <class Visit>
NVRM_INLINE void for_each_row(const MeasurePlace& at, int64_t superblock, int from, int to, Visit visit) {
  if (at.row_length == 0) {
    visit(int64_t{0}, from, to);
    return;
  }
  const int64_t start = superblock * superblock_size;
  int64_t row = (start + from) / at.row_length;
  for (int i = from; i < to && row < at.rows; ++row) {
    const int64_t end = (row + 1) * at.row_length - start;
    const int stop = end < to ? static_cast<int>(end) : to;
    visit(row, i, stop);
    i = stop;
  }
}

// A superblock of noise of unit scale, each element times the b of its row.
NVRM_INLINE void scale_rows(const ScaleOf& scale, const MeasurePlace& at, int64_t superblock, float* noise) {
  for_each_row(at, superblock, 0, superblock_size, [&](int64_t row, int from, int to) {
    const float b = relative_scale(scale.b, scale.line[row]);
    for (int i = from; i < to; ++i) noise[i] *= b;
  });
}

NVRM_INLINE int32_t magnitude_bits(float x) { return static_cast<int32_t>(ScalarLanes::bits_of(x) & 0x7fffffffu); }

// Sums up the clean weights of one tensor, for one thread; what is left is added to the tensor's sums at the end.
template <class L>
class Measurer {
 public:
  Measurer(const MeasurePlace& at, int measure) : at_(at), measure_(measure) {}
  Measurer(const Measurer&) = delete;
  ~Measurer() { flush(); }

  bool is_on() const { return at_.sums != nullptr; }

  // Elements [from, to) of a superblock.
  NVRM_INLINE void add(int64_t superblock, const float* clean, int from, int to) {
    for_each_row(at_, superblock, from, to, [&](int64_t row, int begin, int end) {
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
  NVRM_INLINE void add_squares(const float* clean, int begin, int end) {
    constexpr int width = sizeof(typename L::D) / sizeof(double);
    SquareSums<L> many;
    SquareSums<ScalarLanes> single;
    int i = begin;
    for (; i + width <= end; i += width) {
      typename L::D x;
      L::load(clean + i, x);
      many.add(x);
    }
    for (; i < end; ++i) single.add(clean[i]);
    SquareSum sum;
    sum.add(many);
    sum.add(single);
    total_ += (static_cast<__int128>(sum.high) << (fraction_bits - high_bits)) + sum.low;
    broken_ += sum.broken;
  }

  NVRM_INLINE void add_largest(const float* clean, int begin, int end) {
    using I = typename L::I;
    I many{};
    int32_t largest = 0;
    int i = begin;
    for (; i + L::width <= end; i += L::width) {
      typename L::F x;
      L::load(clean + i, x);
      const I bits = (I)(L::bits_of(x) & 0x7fffffffu);
      many = bits > many ? bits : many;
    }
    for (; i < end; ++i) largest = magnitude_bits(clean[i]) > largest ? magnitude_bits(clean[i]) : largest;
    int32_t lanes[L::width];
    memcpy(lanes, &many, sizeof lanes);
    for (const int32_t lane : lanes) largest = lane > largest ? lane : largest;
    for (i = begin; largest >= infinity_bits && i < end; ++i) broken_ += magnitude_bits(clean[i]) >= infinity_bits;
    largest_ = largest > largest_ ? largest : largest_;
  }

  void flush() {
    if (row_ < 0) return;
    int64_t* sum = at_.sums + row_ * sum_words;
    if (measure_ == measure_rms) {
      for (int word = 0; word < 3; ++word) {
        const auto value = static_cast<int64_t>(word < 2 ? (total_ >> (32 * word)) & 0xffffffff : total_ >> 64);
        __atomic_fetch_add(sum + word, value, __ATOMIC_RELAXED);
      }
    } else {
      int64_t there = __atomic_load_n(sum, __ATOMIC_RELAXED);
      while (there < largest_ &&
             !__atomic_compare_exchange_n(sum, &there, largest_, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      }
    }
    if (broken_ != 0) __atomic_fetch_add(sum + not_finite_word, broken_, __ATOMIC_RELAXED);
    total_ = 0;
    largest_ = 0;
    broken_ = 0;
  }

  MeasurePlace at_;
  int measure_;
  int64_t row_ = -1;
  __int128 total_ = 0;
  int64_t largest_ = 0;
  int64_t broken_ = 0;
};

}  // namespace
}  // namespace nvrm
