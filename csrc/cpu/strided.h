// Reading and writing a run of elements, in row-major order, of a tensor with any strides.
#pragma once

#include "cpu_kernels.h"

namespace nvrm {
namespace {

// Calls visit(position, stride, length) for each stretch along the last dimension, in row-major order.
template <class Visit>
NVRM_INLINE void for_each_stretch(const Layout& layout, int operand, int64_t begin, int64_t count, Visit visit) {
  const int last = layout.dims - 1;
  const int64_t* strides = layout.strides[operand];
  int64_t index[max_dims];
  int64_t rest = begin, position = 0;
  for (int d = last; d >= 0; --d) {
    index[d] = rest % layout.sizes[d];
    rest /= layout.sizes[d];
    position += index[d] * strides[d];
  }
  while (count > 0) {
    const int64_t left = layout.sizes[last] - index[last];
    const int64_t length = left < count ? left : count;
    visit(position, strides[last], length);
    count -= length;
    if (count == 0) return;
    // Back to the start of the last dimension, then carry into those above.
    position -= index[last] * strides[last];
    index[last] = 0;
    for (int d = last - 1; d >= 0; --d) {
      position += strides[d];
      if (++index[d] < layout.sizes[d]) break;
      position -= layout.sizes[d] * strides[d];
      index[d] = 0;
    }
  }
}

template <class T>
void gather(const TensorEntry& entry, int operand, int64_t begin, int64_t count, T* out) {
  const T* data = static_cast<const T*>(entry.data[operand]);
  if (entry.layout == nullptr) {
    memcpy(out, data + begin, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  for_each_stretch(*entry.layout, operand, begin, count, [&](int64_t position, int64_t stride, int64_t length) {
    for (int64_t i = 0; i < length; ++i) *out++ = data[position + i * stride];
  });
}

template <class T>
void scatter(const TensorEntry& entry, int operand, int64_t begin, int64_t count, const T* values) {
  T* data = static_cast<T*>(entry.data[operand]);
  if (entry.layout == nullptr) {
    memcpy(data + begin, values, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  for_each_stretch(*entry.layout, operand, begin, count, [&](int64_t position, int64_t stride, int64_t length) {
    for (int64_t i = 0; i < length; ++i) data[position + i * stride] = *values++;
  });
}

}  // namespace
}  // namespace nvrm
