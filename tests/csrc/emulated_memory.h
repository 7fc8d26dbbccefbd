// Passes of layers in memory of their own, with their launches run thread by thread on the CPU, through the very code
// of the kernels (stochastic_thread.h, direction_thread.h). For layer_emulation.cpp.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/cpu_kernels.h"
#include "cuda/layer_launch.h"

using namespace nvrm;

// Elements of one type between bytes that must not be touched.
struct Buffer {
  static constexpr size_t margin = 64;
  int64_t count = 0;
  ScalarKind kind = ScalarKind::float32;
  size_t lead = 0;
  std::vector<unsigned char> bytes;

  // off: elements by which it is off a multiple of 16 bytes.
  void make(int64_t elements, ScalarKind storage, int off) {
    count = elements;
    kind = storage;
    bytes.assign(size() + 2 * margin + 64, 0xa5);
    const auto address = reinterpret_cast<uintptr_t>(bytes.data()) + margin;
    lead = static_cast<size_t>((address + 15) / 16 * 16 - reinterpret_cast<uintptr_t>(bytes.data())) +
           static_cast<size_t>(off * bytes_of(kind));
  }
  size_t size() const { return static_cast<size_t>(count) * static_cast<size_t>(bytes_of(kind)); }
  void* data() { return bytes.data() + lead; }
  const void* data() const { return bytes.data() + lead; }
  float* floats() { return static_cast<float*>(data()); }

  void set(int64_t i, float value) {
    if (kind == ScalarKind::bfloat16) return CudaLanes::narrow(value, static_cast<BFloat16*>(data())[i]);
    if (kind == ScalarKind::float16) return CudaLanes::narrow(value, static_cast<Float16*>(data())[i]);
    floats()[i] = value;
  }
  bool is_intact_outside() const {
    for (size_t b = 0; b < bytes.size(); ++b) {
      if ((b < lead || b >= lead + size()) && bytes[b] != 0xa5) return false;
    }
    return true;
  }
};

static const char* const kinds[] = {"float32", "float64", "bfloat16", "float16"};

// More turns than so small a tensor gets.
template <class Launch>
static void take_turns(Launch& launch, int64_t turns, int64_t rows_at_once, int64_t rows, int64_t groups,
                       int64_t column_tiles) {
  launch.arguments.turns = static_cast<int>(turns);
  launch.ctas = ceil_div(rows, rows_at_once * turns) * groups * column_tiles;
}
