// Lanes made of two: every operation is written for both halves next to each other.
//
// The noise of one vector is a single chain of dependent instructions, about a hundred cycles long. A processor that
// looks a few hundred instructions ahead sees two such chains at most when they come one after the other; written side
// by side they fill each other's gaps. The same lines of philox.h, special_functions.h and distribution.h serve, over
// these lanes.
#pragma once

#include "philox.h"

namespace nvrm {

template <class T>
struct Two {
  T a, b;

  Two() = default;
  NVRM_INLINE Two(const T& first, const T& second) : a(first), b(second) {}
  template <class S>
  NVRM_INLINE explicit Two(const Two<S>& other) : a((T)other.a), b((T)other.b) {}
};

// With another pair half by half, with anything else in both halves.
#define NVRM_OPERATOR(op)                                            \
  template <class T, class S>                                        \
  NVRM_INLINE Two<T> operator op(const Two<T>& x, const Two<S>& y) { \
    return {x.a op y.a, x.b op y.b};                                 \
  }                                                                  \
  template <class T, class S>                                        \
  NVRM_INLINE Two<T> operator op(const Two<T>& x, const S& y) {      \
    return {x.a op y, x.b op y};                                     \
  }
NVRM_OPERATOR(+)
NVRM_OPERATOR(-)
NVRM_OPERATOR(*)
NVRM_OPERATOR(/)
NVRM_OPERATOR(&)
NVRM_OPERATOR(|)
NVRM_OPERATOR(^)
NVRM_OPERATOR(<<)
NVRM_OPERATOR(>>)
#undef NVRM_OPERATOR

#define NVRM_COMPARISON(op)                                                                   \
  template <class T, class S>                                                                 \
  NVRM_INLINE auto operator op(const Two<T>& x, const Two<S>& y)->Two<decltype(x.a op y.a)> { \
    return {x.a op y.a, x.b op y.b};                                                          \
  }                                                                                           \
  template <class T, class S>                                                                 \
  NVRM_INLINE auto operator op(const Two<T>& x, const S& y)->Two<decltype(x.a op y)> {        \
    return {x.a op y, x.b op y};                                                              \
  }
NVRM_COMPARISON(!=)
NVRM_COMPARISON(<)
NVRM_COMPARISON(>)
#undef NVRM_COMPARISON

// A number on the left.
template <class T>
NVRM_INLINE Two<T> operator+(float x, const Two<T>& y) {
  return {x + y.a, x + y.b};
}
template <class T>
NVRM_INLINE Two<T> operator-(float x, const Two<T>& y) {
  return {x - y.a, x - y.b};
}
template <class T>
NVRM_INLINE Two<T> operator-(uint32_t x, const Two<T>& y) {
  return {x - y.a, x - y.b};
}
template <class T>
NVRM_INLINE Two<T> operator/(float x, const Two<T>& y) {
  return {x / y.a, x / y.b};
}
template <class T>
NVRM_INLINE Two<T> operator-(const Two<T>& x) {
  return {-x.a, -x.b};
}

template <class L>
struct SideBySide {
  using F = Two<typename L::F>;
  using U = Two<typename L::U>;
  using I = Two<typename L::I>;
  using W = Two<typename L::W>;

  NVRM_INLINE static F broadcast(float x) { return {L::broadcast(x), L::broadcast(x)}; }
  NVRM_INLINE static F fma(const F& x, const F& y, const F& z) {
    return {L::fma(x.a, y.a, z.a), L::fma(x.b, y.b, z.b)};
  }
  NVRM_INLINE static F sqrt(const F& x) { return {L::sqrt(x.a), L::sqrt(x.b)}; }
  NVRM_INLINE static F sqrt_of_normal(const F& x) { return {L::sqrt_of_normal(x.a), L::sqrt_of_normal(x.b)}; }
  NVRM_INLINE static F to_float(const I& i) { return {L::to_float(i.a), L::to_float(i.b)}; }
  NVRM_INLINE static U bits_of(const F& x) { return {L::bits_of(x.a), L::bits_of(x.b)}; }
  NVRM_INLINE static F float_from_bits(const U& bits) {
    return {L::float_from_bits(bits.a), L::float_from_bits(bits.b)};
  }
  NVRM_INLINE static W multiply_wide(const W& x, uint32_t y) {
    return {L::multiply_wide(x.a, y), L::multiply_wide(x.b, y)};
  }
  template <class M>
  NVRM_INLINE static F select(const M& mask, const F& x, const F& y) {
    return {L::select(mask.a, x.a, y.a), L::select(mask.b, x.b, y.b)};
  }
};

// The keys of two draws, where they are kept.
struct TwoSchedules {
  const PhiloxSchedule& a;
  const PhiloxSchedule& b;
};

NVRM_INLINE Two<uint64_t> stream_of(const TwoSchedules& keys) { return {keys.a.stream, keys.b.stream}; }
NVRM_INLINE Two<uint64_t> step_of(const TwoSchedules& keys) { return {keys.a.step, keys.b.step}; }
NVRM_INLINE Two<uint64_t> round_key_0(const TwoSchedules& keys, int round) {
  return {keys.a.round_key_0[round], keys.b.round_key_0[round]};
}
NVRM_INLINE Two<uint64_t> round_key_1(const TwoSchedules& keys, int round) {
  return {keys.a.round_key_1[round], keys.b.round_key_1[round]};
}
NVRM_INLINE Two<uint64_t> wide_product(const Two<uint64_t>& x, uint32_t y) {
  return {ScalarLanes::multiply_wide(x.a, y), ScalarLanes::multiply_wide(x.b, y)};
}

}  // namespace nvrm
