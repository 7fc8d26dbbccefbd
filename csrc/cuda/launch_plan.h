// From the tensor table of a step to the tables of its launches. Host only, plain C++.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "launch_table.h"

namespace nvrm {

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

// CTAs that keep a large GPU busy to the end many times over: below that a CTA takes one round, above it more, to
// spare it looking up its tensor.
constexpr int64_t busy_ctas = 8192;

inline int rounds_for(int64_t superblocks) {
  return static_cast<int>(
      std::clamp<int64_t>(superblocks / (superblocks_per_round * busy_ctas), 1, int64_t{most_rounds}));
}

inline int64_t superblocks_of(const TensorEntry& entry) {
  if (entry.numel == 0) return 0;
  return (entry.offset + entry.numel + superblock_size - 1) / superblock_size - entry.offset / superblock_size;
}

// Fills `table` with as many of the plan's tensors as fit, from position `next` on; returns the position behind them.
// Empty tensors take no place.
inline int64_t fill_table(const StepPlan& plan, int64_t next, LaunchTable& table) {
  LaunchHeader& header = table.header;
  header = LaunchHeader{};
  header.noise = plan.noise;
  if (plan.hyper != nullptr) std::copy_n(plan.hyper, plan.hyper_count, header.hyper);
  header.hyper_tensor = plan.hyper_tensor;
  header.grad_scale = plan.grad_scale;
  header.found_inf = plan.found_inf;
  header.rounds = rounds_for(plan.first_superblock[plan.entry_count]);
  const int64_t superblocks_per_cta = static_cast<int64_t>(header.rounds) * superblocks_per_round;
  constexpr int64_t most_ctas = 0x7fffffff;  // a grid's limit
  auto* tensors = reinterpret_cast<CudaTensor*>(table.pool);
  size_t free_bytes = pool_bytes;
  // From the back; returns where it lies.
  const auto put = [&](const auto& what) {
    free_bytes -= sizeof what;
    memcpy(table.pool + free_bytes, &what, sizeof what);
    return static_cast<int16_t>(free_bytes / pool_unit);
  };
  for (; next < plan.entry_count; ++next) {
    const TensorEntry& entry = plan.entries[next];
    if (entry.numel == 0) continue;
    Walk walk;
    const auto has_operand = [&](int o) { return entry.data[o] != nullptr; };
    const bool is_walked = entry.layout != nullptr && find_walk(*entry.layout, entry.numel, has_operand, walk);
    const size_t layout_bytes = is_walked ? sizeof(Walk) : entry.layout != nullptr ? sizeof(Layout) : 0;
    const size_t used = sizeof(CudaTensor) * static_cast<size_t>(header.tensor_count + 1) + layout_bytes +
                        (plan.has_measures ? sizeof(MeasurePlace) : 0);
    const int64_t ctas = (superblocks_of(entry) + superblocks_per_cta - 1) / superblocks_per_cta;
    if (ctas > most_ctas) throw std::length_error("a parameter has more elements than one launch can reach");
    if (used > free_bytes || header.cta_count + ctas > most_ctas) break;
    CudaTensor& tensor = tensors[header.tensor_count++];
    tensor = CudaTensor{};
    for (int o = 0; o < operand_count; ++o) tensor.data[o] = entry.data[o];
    tensor.place = entry.place;
    tensor.numel = entry.numel;
    tensor.offset = entry.offset;
    tensor.first_cta = header.cta_count;
    tensor.layout = rows_are_aligned(entry, plan) ? contiguous_in_rows : contiguous;
    if (is_walked) {
      tensor.layout = static_cast<int16_t>(walked + put(walk));
    } else if (entry.layout != nullptr) {
      tensor.layout = put(*entry.layout);
    }
    if (plan.has_measures) tensor.measure = put(entry.measure);
    header.cta_count += static_cast<uint32_t>(ctas);
  }
  return next;
}

// Calls visit(table) for each launch that finishes what a step or a measuring has summed up. finishes: of every
// parameter.
template <class Visit>
void for_each_finish_table(const std::vector<FinishPlace>& places, const StepPlan& plan, bool moves, bool only_clean,
                           Visit visit) {
  for (size_t next = 0; next < places.size(); next += finishes_per_launch) {
    FinishTable table{};
    table.found_inf = plan.found_inf;
    table.measure = plan.noise.measure;
    table.moves = moves;
    table.only_clean = only_clean;
    table.count = static_cast<int>(std::min<size_t>(finishes_per_launch, places.size() - next));
    std::copy_n(places.data() + next, table.count, table.place);
    visit(table);
  }
}

// Calls visit(table, writes_records, counts_steps) for each launch that must follow a step: all records are written
// before any counter is, because parameters in different launches may share one.
template <class Visit>
void for_each_record_table(const std::vector<RecordPlace>& places, const StepPlan& plan, Visit visit) {
  const bool at_once = places.size() <= places_per_launch;
  for (const bool counts : {false, true}) {
    if (at_once && !counts) continue;
    for (size_t next = 0; next < places.size(); next += places_per_launch) {
      RecordTable table{};
      table.noise = plan.noise;
      table.found_inf = plan.found_inf;
      table.count = static_cast<int>(std::min<size_t>(places_per_launch, places.size() - next));
      std::copy_n(places.data() + next, table.count, table.place);
      visit(table, at_once || !counts, counts);
    }
  }
}

}  // namespace nvrm
