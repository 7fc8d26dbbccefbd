// Parameters in memory of their own, the table of a step over them, and its launches run thread by thread on the CPU,
// through the very code of the kernel (step_thread.h). For launch_emulation.cpp.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "cuda/launch_plan.h"
#include "cuda/step_thread.h"

using namespace nvrm;

static int failures = 0;
#define CHECK(condition, ...)                     \
  do {                                            \
    if (!(condition)) {                           \
      std::printf("%s:%d: ", __FILE__, __LINE__); \
      std::printf(__VA_ARGS__);                   \
      std::printf("\n");                          \
      if (++failures > 20) std::exit(1);          \
    }                                             \
  } while (0)

static CoatWords words;

static int kind_bytes(ScalarKind kind) { return bytes_of(kind); }

// One parameter with all its operands, in memory of its own with bytes that must not be touched on both sides.
struct Parameter {
  static constexpr size_t margin = 64;
  int64_t numel, offset;
  std::vector<int64_t> sizes, strides;  // empty: contiguous
  std::vector<unsigned char> data[operand_count];
  int64_t step;
  Layout layout;
  int misaligned;  // elements by which the data is off a multiple of 16 bytes
};

struct Case {
  ScalarKind kind;
  bool has_master;
  int states;
  bool keep_noise;
  int distribution_off, distribution_on;
  float scale_off, scale_on;
  bool is_first;
};

static int operand_bytes(const Case& c, int operand) {
  const bool is_parameter = operand == parameter_operand || operand == gradient_operand;
  if (is_parameter || !c.has_master) return kind_bytes(c.kind);
  return c.kind == ScalarKind::float64 ? 8 : 4;
}

static bool has_operand(const Case& c, int operand) {
  return operand == master_operand ? c.has_master : operand < state_operand + c.states;
}

static unsigned char* start(Parameter& p, const Case& c, int operand) {
  auto address = reinterpret_cast<uintptr_t>(p.data[operand].data()) + Parameter::margin;
  address = (address + 15) / 16 * 16 + static_cast<uintptr_t>(p.misaligned * operand_bytes(c, operand));
  return reinterpret_cast<unsigned char*>(address);
}

// A number of the operand's type; second moments are not negative.
static void write_number(const Case& c, int operand, unsigned char* at, float value) {
  if (operand > state_operand) value = value * value;
  switch (operand_bytes(c, operand)) {
    case 8: {
      const double wide = value;
      memcpy(at, &wide, 8);
      break;
    }
    case 4:
      memcpy(at, &value, 4);
      break;
    default:
      if (c.kind == ScalarKind::bfloat16) {
        BFloat16 b;
        CudaLanes::narrow(value, b);
        memcpy(at, &b, 2);
      } else {
        Float16 h;
        CudaLanes::narrow(value, h);
        memcpy(at, &h, 2);
      }
  }
}

static std::vector<Parameter> make_parameters(const Case& c, uint32_t seed) {
  std::vector<Parameter> list;
  const int64_t lengths[] = {1, 7, 0, 127, 128, 129, 4096, 4099, 8321, 70001};
  const int64_t offsets[] = {0, 3, 128, 4, 1000, (int64_t{1} << 36) + 5, (int64_t{1} << 36) + 4};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (size_t n = 0; n < 24; ++n) {
    Parameter p{};
    p.numel = lengths[n % 10];
    p.offset = offsets[n % 7];
    p.step = static_cast<int64_t>(n % 5) * 7;
    p.misaligned = n % 3 == 2 ? 1 : 0;
    if (n % 6 == 5) {  // the strides of channels_last: 3 x 5 x 4 x 9
      p.sizes = {3, 5, 36};
      p.strides = {180, 1, 5};
      p.numel = 540;
    }
    for (int o = 0; o < operand_count; ++o) {
      if (!has_operand(c, o)) continue;
      const int bytes = operand_bytes(c, o);
      p.data[o].resize(static_cast<size_t>((p.numel + 2) * bytes) + 2 * Parameter::margin + 16, 0xa5);
    }
    list.push_back(std::move(p));
  }
  for (Parameter& p : list) {
    for (int o = 0; o < operand_count; ++o) {
      if (!has_operand(c, o)) continue;
      for (int64_t i = 0; i < p.numel; ++i)
        write_number(c, o, start(p, c, o) + i * operand_bytes(c, o), normal(random));
    }
  }
  return list;
}

// The tensor table that the glue makes of them.
struct Table {
  std::vector<TensorEntry> entries;
  std::vector<int64_t> first_superblock = {0};
  std::vector<int64_t*> counters;
  StepPlan plan{};

  Table(std::vector<Parameter>& list, const Case& c, bool draws_next, const AdamCorrections& adam) {
    const uint32_t seed_off = 77, seed_on = 99;
    for (size_t n = 0; n < list.size(); ++n) {
      Parameter& p = list[n];
      TensorEntry e{};
      for (int o = 0; o < operand_count; ++o) e.data[o] = has_operand(c, o) ? start(p, c, o) : nullptr;
      e.numel = p.numel;
      e.offset = p.offset;
      if (!p.sizes.empty()) {
        p.layout.dims = static_cast<int>(p.sizes.size());
        for (int d = 0; d < p.layout.dims; ++d) {
          p.layout.sizes[d] = p.sizes[static_cast<size_t>(d)];
          for (auto& strides : p.layout.strides) strides[d] = p.strides[static_cast<size_t>(d)];
        }
        e.layout = &p.layout;
      }
      const uint32_t stream = static_cast<uint32_t>(n) * 3 + 1;
      const bool wears = !c.has_master && !c.keep_noise;
      e.coat_off = {{seed_off, 5, stream, static_cast<uint32_t>(p.step)}, c.distribution_off, wears ? c.scale_off : 0};
      e.coat_on = {{seed_on, 6, stream, static_cast<uint32_t>(p.step + draws_next)}, c.distribution_on, c.scale_on};
      e.is_first = c.is_first;
      const AdamScalars scalars = adam_scalars(adam, p.step + 1);
      e.step_size = scalars.step_size;
      e.root_scale = scalars.root_scale;
      entries.push_back(e);
      first_superblock.push_back(first_superblock.back() + superblocks_of(e));
      counters.push_back(&p.step);
    }
    plan.entries = entries.data();
    plan.first_superblock = first_superblock.data();
    plan.entry_count = static_cast<int64_t>(entries.size());
    plan.kind = c.kind;
    plan.has_master = c.has_master;
    plan.keep_noise = c.keep_noise;
  }
};

template <class Visit>
static int for_each_launch(const Table& table, const ListOptions& options, Visit visit) {
  static LaunchTable launch;
  int launches = 0;
  for (int64_t next = 0; next < table.plan.entry_count; ++launches) {
    const int64_t before = next;
    next = fill_table(table.plan, table.counters.data(), options, next, launch);
    CHECK(next > before, "the plan does not advance");
    visit(launch);
  }
  return launches;
}

template <class Rule, class Param, class Math, bool master>
static void emulate(const Table& table, const ListOptions& options, const typename Rule::template Hyper<double>& h) {
  const auto hyper = rounded_to<Math>(h);
  for_each_launch(table, options, [&](const LaunchTable& launch) {
    if (is_skipped(launch.header.found_inf)) return;
    for (uint32_t group = 0; group < launch.header.group_count; ++group) {
      const int position = launch.tensor_of(group);
      const AdamScalars scalars = adam_scalars(options.adam, *launch.tensor(position).step + 1);
      for (int thread = 0; thread < threads_per_group; ++thread) {
        step_thread<Rule, Param, Math, master>(launch, hyper, position, group, thread, scalars, words);
      }
    }
  });
}

template <class Rule>
static void emulate(const Table& table, const ListOptions& o, const typename Rule::template Hyper<double>& h) {
  const bool master = table.plan.has_master;
  switch (table.plan.kind) {
    case ScalarKind::float32:
      return master ? emulate<Rule, float, float, true>(table, o, h) : emulate<Rule, float, float, false>(table, o, h);
    case ScalarKind::float64:
      return master ? emulate<Rule, double, double, true>(table, o, h)
                    : emulate<Rule, double, double, false>(table, o, h);
    case ScalarKind::bfloat16:
      return master ? emulate<Rule, BFloat16, float, true>(table, o, h)
                    : emulate<Rule, BFloat16, float, false>(table, o, h);
    case ScalarKind::float16:
      return master ? emulate<Rule, Float16, float, true>(table, o, h)
                    : emulate<Rule, Float16, float, false>(table, o, h);
  }
}
