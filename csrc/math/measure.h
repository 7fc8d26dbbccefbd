// Measures of clean weights: exact sums that are the same bits in any order, and b of noise that is relative to them.
// What they are is told in nvrm_fast/contract/measures.py.
#pragma once

#include "lanes.h"

namespace nvrm {

// What is measured; never renumber.
enum MeasureCode { measure_nothing, measure_rms, measure_absmax, measure_count };

constexpr int sum_words = 4;
constexpr int not_finite_word = 3;
constexpr double largest_measured = 65536.0;
constexpr int fraction_bits = 64;
constexpr int high_bits = 13;
// Added to a float64, these round it to a multiple of 2^-13 and of 2^-64.
constexpr double to_high = 0x1.8p39;
constexpr double to_low = 0x1.8p-12;
// Bits of an infinity in float32: values with these or more are not finite.
constexpr int32_t infinity_bits = 0x7f800000;

// A parameter's measures, in its device's memory; null where it has none.
struct MeasurePlace {
  float* measures;     // two lines of `rows` each: of the noise that is on, of the clean weights
  int64_t* sums;       // sum_words for each row; null where nothing is measured
  int64_t rows;        //
  int64_t row_length;  // 0: one measure for all elements

  NVRM_INLINE const float* on() const { return measures; }
  NVRM_INLINE float* clean() const { return measures + rows; }
};

// The sums of one parameter, and where they go when everything is summed up.
struct FinishPlace {
  MeasurePlace at;
  int64_t count;          // elements of a (full) row
  int64_t* left;          // the sums themselves are left here, and no measures; null: measures
  const int64_t* record;  // of the parameter
};

// b of a noise, or with `line` its factor: then the line's measure of an element's row multiplies it.
struct ScaleOf {
  float b;
  const float* line;  // null: b holds for all elements
};

NVRM_INLINE bool is_finite(float x) {
  return static_cast<int32_t>(ScalarLanes::bits_of(x) & 0x7fffffffu) < infinity_bits;
}

NVRM_INLINE float relative_scale(float b, float measure) {
  const float scale = b * measure;
  return is_finite(scale) ? scale : 0.0f;
}

// line: null where b is absolute.
NVRM_INLINE ScaleOf noise_scale(float b, const float* line, const MeasurePlace& at) {
  if (line == nullptr || b == 0.0f) return {b, nullptr};
  if (at.row_length == 0) return {relative_scale(b, line[0]), nullptr};
  return {b, line};
}

template <class L>
NVRM_INLINE typename L::W words_of(typename L::D x) {
  typename L::W words;
  memcpy(&words, &x, sizeof words);
  return words;
}

// What squares of any size come to: high * 2^-13 + low * 2^-64, and how many values were not finite. Of at most 4096
// values, so that nothing overflows; low may be below 0.
struct SquareSum {
  int64_t high = 0;
  int64_t low = 0;
  int64_t broken = 0;

  NVRM_INLINE void add(float value) {
    const float magnitude = ScalarLanes::float_from_bits(ScalarLanes::bits_of(value) & 0x7fffffffu);
    const double x = magnitude < largest_measured ? magnitude : largest_measured;
    const double square = x * x;  // exact
    const double rounded = square + to_high;
    high += words_of<ScalarLanes>(rounded) - words_of<ScalarLanes>(to_high);
    const double rest = square - (rounded - to_high);
    low += words_of<ScalarLanes>(rest + to_low) - words_of<ScalarLanes>(to_low);
    broken += is_finite(value) ? 0 : 1;
  }
};

// The same integer, faster, for values of ordinary size, in the lanes of float64. `high` starts at 2^20, where float64
// knows multiples of 2^-32: a square that is added is rounded to one, and the rest, which is exact, goes to `low`,
// which stays where float64 knows multiples of 2^-64. No square lies in the middle between two of those (it is an odd
// number times an even power of 2), so the rounding of a rest does not depend on the sum that it is added to. Of at
// most 2^19 values a lane.
template <class L>
struct SmallSquares {
  using D = typename L::D;
  using W = typename L::W;
  static constexpr double high_start = 0x1p20;
  static constexpr int high_shift = 32;  // from the resolution of high to that of low
  D high = D{} + high_start;
  D low = D{} + to_low;

  // x: float32 values.
  NVRM_INLINE void add(D x) {
    const D sum = L::add_square(x, high);
    low = low + L::add_square(x, high - sum);
    high = sum;
  }

  // Not 0 in a lane whose sum is not known: squares of 2^20 and more came together, or a value was not finite. They
  // never fall, so the end tells.
  NVRM_INLINE W is_lost() const { return (words_of<L>(high) ^ words_of<L>(D{} + high_start)) >> 52; }
  NVRM_INLINE W high_units() const { return words_of<L>(high) - words_of<L>(D{} + high_start); }
  NVRM_INLINE W low_units() const { return words_of<L>(low) - words_of<L>(D{} + to_low); }
};

// The words of a sum. add(word, value) adds to one of them.
template <class Add>
NVRM_INLINE void add_square_sum(const SquareSum& sum, Add add) {
  constexpr int shift = fraction_bits - high_bits;
  const int64_t high = sum.high + (sum.low >> shift);  // a rest below 0 borrows
  const int64_t low = sum.low & ((int64_t{1} << shift) - 1);
  add(0, low & 0xffffffff);
  add(1, (low >> 32) | ((high << (shift - 32)) & 0xffffffff));
  add(2, high >> (fraction_bits - shift));
}

// What a row's sum comes to. count: elements of the (full) row.
NVRM_INLINE float finished_measure(const int64_t* sum, int measure, int64_t count) {
  const float nan = ScalarLanes::float_from_bits(0x7fc00000u);
  if (sum[not_finite_word] > 0) return nan;
  if (measure == measure_absmax) return ScalarLanes::float_from_bits(static_cast<uint32_t>(sum[0]));
  const int64_t middle = sum[1] + (sum[0] >> 32);
  const int64_t high = sum[2] + (middle >> 32);
  const double total = (static_cast<double>(high) * 0x1p64 + static_cast<double>(middle & 0xffffffff) * 0x1p32) +
                       static_cast<double>(sum[0] & 0xffffffff);
  return static_cast<float>(ScalarLanes::sqrt(total / static_cast<double>(count > 0 ? count : 1) * 0x1p-64));
}

}  // namespace nvrm
