// What the layers' kernels have in common: how a launch is cut up, and access to rows of 4 activations of any storage
// type.
#pragma once

#include <type_traits>

#include "element_map.h"
#include "lanes_cuda.h"

namespace nvrm {

// CTAs that keep a large GPU busy to the end: below that each takes one turn, above it more, so that it reads what
// belongs to its neurons, and leaves its part of the sums, less often. A constant, not the number of multiprocessors:
// sums are the same on every GPU.
constexpr int64_t busy_layer_ctas = 4096;
constexpr int most_turns = 16;
constexpr int64_t most_ctas = 0x7fffffff;  // a grid's limit

NVRM_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ctas: how many there would be if each took one turn.
inline int turns_for(int64_t ctas) {
  const int64_t turns = ctas / busy_layer_ctas;
  return static_cast<int>(turns < 1 ? 1 : turns > most_turns ? most_turns : turns);
}

// Calls visit(T*{}) with the storage type. All threads agree on it, so the branch costs nothing. Layers have no float64
// kernels.
template <class Visit>
NVRM_INLINE void with_storage(ScalarKind storage, const Visit& visit) {
  if (storage == ScalarKind::bfloat16) {
    visit(static_cast<BFloat16*>(nullptr));
  } else if (storage == ScalarKind::float16) {
    visit(static_cast<Float16*>(nullptr));
  } else {
    visit(static_cast<float*>(nullptr));
  }
}

// Activations [begin, end) are there.
struct Range {
  int64_t begin, end;
  NVRM_INLINE bool has(int64_t i) const { return i >= begin && i < end; }
};

// The row of 4 from data[i] on. whole: all are there, and aligned; else those that are not read as 0.
template <bool whole, class T>
NVRM_INLINE void load_row(const T* data, int64_t i, const Range& there, float* out) {
  if constexpr (whole) {
    const Row<T> row = *reinterpret_cast<const Row<T>*>(data + i);
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) out[e] = CudaLanes::widen(row.value[e]);
  } else {
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) out[e] = there.has(i + e) ? CudaLanes::widen(data[i + e]) : 0.0f;
  }
}

template <bool whole, class T>
NVRM_INLINE void write_row(T* data, int64_t i, const Range& there, const float* in) {
  if constexpr (whole) {
    Row<T> row;
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) CudaLanes::narrow(in[e], row.value[e]);
    store_row(data + i, row);
  } else {
    NVRM_UNROLL(4)
    for (int e = 0; e < row_elements; ++e) {
      if (there.has(i + e)) CudaLanes::narrow(in[e], data[i + e]);
    }
  }
}

// Whether rows of 4 elements from this address on may be read and written as one.
inline bool takes_rows(const void* address, int element_bytes) {
  const uintptr_t alignment = row_elements * static_cast<uintptr_t>(element_bytes);
  return reinterpret_cast<uintptr_t>(address) % alignment == 0;
}

// A pass's key, whose seed lies on the device: nothing waits for it, and a captured graph reads it at every replay.
struct DeviceKey {
  const int64_t* seed;
  uint32_t stream, step;

  NVRM_INLINE NoiseKey read() const {
    const uint64_t bits = static_cast<uint64_t>(*seed);
    return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32), stream, step};
  }
};

}  // namespace nvrm
