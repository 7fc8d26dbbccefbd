// From the tensor table of a step to the tables of its launches. Host only, plain C++.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "launch_table.h"

namespace nvrm {

// What all launches of a step share.
struct ListOptions {
  AdamCorrections adam;
  bool draws_next;
};

inline int bytes_of(ScalarKind kind) { return kind == ScalarKind::float64 ? 8 : kind == ScalarKind::float32 ? 4 : 2; }

// Whether the rows of 4 may be read and written as one vector: 16 bytes of float32, 8 of a 16-bit type, 2 x 16 of
// float64. Shards must start on a row.
inline bool rows_are_aligned(const TensorEntry& entry, const StepPlan& plan) {
  if (entry.layout != nullptr || entry.offset % row_elements != 0) return false;
  const int parameter_bytes = bytes_of(plan.kind);
  const int state_bytes = plan.has_master ? std::max(parameter_bytes, 4) : parameter_bytes;
  for (int o = 0; o < operand_count; ++o) {
    const bool is_parameter = o == parameter_operand || o == gradient_operand;
    const int alignment = std::min(16, row_elements * (is_parameter ? parameter_bytes : state_bytes));
    if (reinterpret_cast<uintptr_t>(entry.data[o]) % static_cast<uintptr_t>(alignment) != 0) return false;
  }
  return true;
}

// Groups that keep a large GPU busy to the end many times over: below that a group takes one round, above it more, to
// spare it looking up its tensor.
constexpr int64_t busy_groups = 8192;
constexpr int64_t most_rounds = 8;

inline int rounds_for(int64_t superblocks) {
  return static_cast<int>(std::clamp<int64_t>(superblocks / (superblocks_per_round * busy_groups), 1, most_rounds));
}

inline int64_t superblocks_of(const TensorEntry& entry) {
  if (entry.numel == 0) return 0;
  return (entry.offset + entry.numel + superblock_size - 1) / superblock_size - entry.offset / superblock_size;
}

// Fills `table` with as many of the plan's tensors as fit, from position `next` on; returns the position behind them.
// Empty tensors take no place. counters[i] is the step counter of entry i, on the device.
inline int64_t fill_table(const StepPlan& plan, int64_t* const* counters, const ListOptions& options, int64_t next,
                          LaunchTable& table) {
  LaunchHeader& header = table.header;
  header = LaunchHeader{};
  header.adam = options.adam;
  header.grad_scale = plan.grad_scale;
  header.found_inf = plan.found_inf;
  header.draws_next = options.draws_next;
  header.keep_noise = plan.keep_noise;
  header.rounds = rounds_for(plan.first_superblock[plan.entry_count]);
  const int64_t superblocks_per_group = static_cast<int64_t>(header.rounds) * superblocks_per_round;
  constexpr int64_t most_groups = 0x7fffffff;  // a grid's limit
  auto* tensors = reinterpret_cast<CudaTensor*>(table.pool);
  auto* layouts_end = reinterpret_cast<Layout*>(table.pool + pool_bytes);
  for (; next < plan.entry_count; ++next) {
    const TensorEntry& entry = plan.entries[next];
    if (entry.numel == 0) continue;
    const size_t layouts = static_cast<size_t>(header.layout_count) + (entry.layout != nullptr ? 1 : 0);
    const size_t used = sizeof(CudaTensor) * static_cast<size_t>(header.tensor_count + 1) + sizeof(Layout) * layouts;
    const int64_t groups = (superblocks_of(entry) + superblocks_per_group - 1) / superblocks_per_group;
    if (groups > most_groups) throw std::length_error("a parameter has more elements than one launch can reach");
    if (used > sizeof table.pool || header.group_count + groups > most_groups) break;
    if (header.tensor_count == 0) {
      header.coat_off = {philox_schedule(entry.coat_off.key), entry.coat_off.distribution};
      header.coat_on = {philox_schedule(entry.coat_on.key), entry.coat_on.distribution};
    }
    CudaTensor& tensor = tensors[header.tensor_count++];
    tensor = CudaTensor{};
    for (int o = 0; o < operand_count; ++o) tensor.data[o] = entry.data[o];
    tensor.step = counters[next];
    tensor.numel = entry.numel;
    tensor.offset = entry.offset;
    tensor.scale_off = entry.coat_off.scale;
    tensor.scale_on = entry.coat_on.scale;
    tensor.stream = entry.coat_on.key.stream;
    tensor.first_group = header.group_count;
    tensor.layout = -1;
    if (entry.layout != nullptr) {
      tensor.layout = static_cast<int16_t>(header.layout_count++);
      layouts_end[-1 - tensor.layout] = *entry.layout;
    }
    tensor.is_first = entry.is_first;
    tensor.takes_rows = rows_are_aligned(entry, plan);
    header.group_count += static_cast<uint32_t>(groups);
  }
  return next;
}

}  // namespace nvrm
