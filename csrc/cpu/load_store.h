// A vector of elements of any storage type, of which the last may be short.
#pragma once

#include "../math/storage.h"

namespace nvrm {
namespace {

// A vector that is not whole: through a buffer, beyond `count` 0.
template <class L, class T>
NVRM_NOINLINE typename L::F load_short(const T* data, int count) {
  alignas(64) T buffer[L::width] = {};
  memcpy(buffer, data, static_cast<size_t>(count) * sizeof(T));
  typename L::F x;
  L::load(static_cast<const T*>(buffer), x);
  return x;
}

template <class L, class T>
NVRM_NOINLINE void store_short(T* data, int count, typename L::F x) {
  alignas(64) T buffer[L::width];
  L::store(static_cast<T*>(buffer), x);
  memcpy(data, buffer, static_cast<size_t>(count) * sizeof(T));
}

template <class L, class T>
NVRM_INLINE typename L::F load_typed(const void* data, int64_t index, int count) {
  const T* typed = static_cast<const T*>(data) + index;
  if (count < L::width) return load_short<L>(typed, count);
  typename L::F x;
  L::load(typed, x);
  return x;
}

template <class L, class T>
NVRM_INLINE void store_typed(void* data, int64_t index, int count, typename L::F x) {
  T* typed = static_cast<T*>(data) + index;
  if (count < L::width) return store_short<L>(typed, count, x);
  L::store(typed, x);
}

// `count` elements from `index` on in the lanes; beyond them 0. Layers have no float64 kernels: it is not a case here.
template <class L>
NVRM_INLINE typename L::F load_lanes(const void* data, int64_t index, ScalarKind storage, int count) {
  if (storage == ScalarKind::bfloat16) return load_typed<L, BFloat16>(data, index, count);
  if (storage == ScalarKind::float16) return load_typed<L, Float16>(data, index, count);
  return load_typed<L, float>(data, index, count);
}

template <class L>
NVRM_INLINE void store_lanes(void* data, int64_t index, ScalarKind storage, int count, typename L::F x) {
  if (storage == ScalarKind::bfloat16) return store_typed<L, BFloat16>(data, index, count, x);
  if (storage == ScalarKind::float16) return store_typed<L, Float16>(data, index, count, x);
  store_typed<L, float>(data, index, count, x);
}

template <class L>
NVRM_INLINE float sum_of_lanes(typename L::F x) {
  alignas(64) float lanes[L::width];
  L::store(lanes, x);
  float sum = lanes[0];
  for (int i = 1; i < L::width; ++i) sum += lanes[i];
  return sum;
}

}  // namespace
}  // namespace nvrm
