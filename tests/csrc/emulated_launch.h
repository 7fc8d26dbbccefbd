// Parameters in memory of their own, the table of a step over them, and its launches run thread by thread on the CPU,
// through the very code of the kernels (step_thread.h, launch_table.h). For launch_emulation.cpp.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/cpu_kernels.h"
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

static NoiseWords words;

static int kind_bytes(ScalarKind kind) { return bytes_of(kind); }

// One parameter with all its operands, in memory of its own with bytes that must not be touched on both sides.
struct Parameter {
  static constexpr size_t margin = 64;
  int64_t numel, offset;
  std::vector<int64_t> sizes, strides;  // empty: contiguous
  std::vector<unsigned char> data[operand_count];
  int64_t step;
  int64_t record[record_words];
  int64_t target[record_words];  // where only the noise changes
  float scale;                   // in the parameter's memory, where the case says so
  Layout layout;
  int misaligned;  // elements by which the data is off a multiple of 16 bytes
};

struct Case {
  ScalarKind kind;
  bool has_master;
  int rule;  // a code, or no_rule
  bool keep_noise;
  int distribution_off, distribution_on;
  float scale_off, scale_on;
  bool is_first;
  int denoise_every = 0;
  bool scales_on_device = false;
  bool hyper_on_device = false;
  bool cycle = false;
};

static int states_of(const Case& c) { return c.rule == no_rule ? 0 : facts_of_rule(c.rule)->states; }

static int operand_bytes(const Case& c, int operand) {
  const bool is_parameter = operand == parameter_operand || operand == gradient_operand;
  if (is_parameter || !c.has_master) return kind_bytes(c.kind);
  return c.kind == ScalarKind::float64 ? 8 : 4;
}

static bool has_operand(const Case& c, int operand) {
  return operand == master_operand ? c.has_master : operand < state_operand + states_of(c);
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

static void write_words(int64_t* record, float scale, int64_t seed, int distribution, int64_t stream, int64_t step,
                        int turn) {
  record[record_scale] = ScalarLanes::bits_of(scale);
  record[record_seed] = seed;
  record[record_distribution] = distribution;
  record[record_stream] = stream;
  record[record_step] = step;
  record[record_turn] = turn;
}

// The seed of the noise that a step puts on.
static constexpr int64_t new_seed = 99 | int64_t{6} << 32;

// most: elements of the longest.
static std::vector<Parameter> make_parameters(const Case& c, uint32_t seed, int64_t most = 70001) {
  std::vector<Parameter> list;
  const int64_t lengths[] = {1, 7, 0, 127, 128, 129, 4096, 4099, 8321, 70001};
  const int64_t offsets[] = {0, 3, 128, 4, 1000, (int64_t{1} << 36) + 5, (int64_t{1} << 36) + 4};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (size_t n = 0; n < 24; ++n) {
    Parameter p{};
    p.numel = std::min(lengths[n % 10], most);
    p.offset = offsets[n % 7];
    p.step = static_cast<int64_t>(n % 5) * 7;
    p.misaligned = n % 3 == 2 ? 1 : 0;
    // What the parameters carry differs from one to the next: distribution, seed, scale (some are clean), stream and
    // the step of the draw; and some have not seen a gradient.
    const int distribution = (c.distribution_off + static_cast<int>(n % 4 == 1)) % distribution_count;
    const bool is_clean = n % 8 == 3;
    const auto stream = static_cast<int64_t>(n) * 3 + 1;
    NewNoise cycle{};
    cycle.cycle = true;
    if (c.cycle) {  // what the step before has left: mostly another turn of the draw that goes on
      write_words(p.record, is_clean ? 0 : c.scale_off, new_seed, distribution, stream, cycle.draw_of(p.step),
                  cycle.turn_of(p.step));
    } else {
      write_words(p.record, is_clean ? 0 : c.scale_off, -77 - static_cast<int64_t>(n % 2), distribution, stream,
                  p.step - static_cast<int64_t>(n % 3 == 1), 0);
    }
    p.record[record_rule_steps] = c.is_first != (n % 7 == 4) ? 0 : p.step + 1;
    const int wanted = (c.distribution_on + static_cast<int>(n % 5 == 1)) % distribution_count;
    if (c.cycle) {
      write_words(p.target, n % 8 > 4 ? 0 : c.scale_on, new_seed, wanted, stream, cycle.draw_of(p.step + 1),
                  cycle.turn_of(p.step + 1));
    } else {
      write_words(p.target, n % 8 > 4 ? 0 : c.scale_on, 99, wanted, stream, p.step + 1, 0);
    }
    p.target[record_rule_steps] = p.target[record_numel] = -1;  // not to be copied
    p.scale = c.scale_on * static_cast<float>(n % 4);
    if (n % 6 == 5) {  // the strides of channels_last: 3 x 5 x 4 x 9
      p.sizes = {3, 5, 36};
      p.strides = {180, 1, 5};
      p.numel = 540;
    }
    p.record[record_numel] = p.numel;
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

// Raw hyper-parameters; options take turns.
static std::vector<double> hyper_of(int rule, int turn) {
  const double decay = turn % 3 ? 1e-2 : 0, maximize = turn % 3 == 1, option = turn % 2 == 0;
  if (rule == no_rule) return {};
  std::vector<double> raw = {1e-2, 0.9, 0.999, decay, maximize};  // lr, beta1, beta2
  if (rule <= 1) raw = {0.1, 0.9, 0.1, decay, option, maximize};
  if (rule == 2 || rule == 3) raw = {1e-2, 0.9, 0.999, 1e-8, decay, option, maximize};
  CHECK(raw.size() == static_cast<size_t>(facts_of_rule(rule)->hyper_count), "hyper-parameters of rule %d", rule);
  return raw;
}

// The tensor table that the glue makes of them.
struct Table {
  int rule;
  std::vector<TensorEntry> entries;
  std::vector<RecordPlace> places;
  std::vector<int64_t> first_superblock = {0};
  std::vector<double> hyper;
  double wrong_hyper[max_hyper] = {};
  StepPlan plan{};

  Table(std::vector<Parameter>& list, const Case& c, std::vector<double> raw) : rule(c.rule), hyper(std::move(raw)) {
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
      e.place.record = p.record;
      if (c.rule == no_rule) {
        e.place.target = p.target;
      } else {
        e.place.step = &p.step;
        if (c.scales_on_device) e.place.scale = &p.scale;
      }
      places.push_back(e.place);
      entries.push_back(e);
      first_superblock.push_back(first_superblock.back() + superblocks_of(e));
    }
    plan.entries = entries.data();
    plan.first_superblock = first_superblock.data();
    plan.entry_count = static_cast<int64_t>(entries.size());
    plan.kind = c.kind;
    plan.has_master = c.has_master;
    plan.noise = {new_seed, c.denoise_every, c.distribution_on, c.scale_on, c.keep_noise, 0, c.cycle};
    plan.hyper_count = static_cast<int>(hyper.size());
    plan.hyper = c.hyper_on_device ? wrong_hyper : hyper.data();
    plan.hyper_tensor = c.hyper_on_device ? hyper.data() : nullptr;
  }
  Table(const Table&) = delete;
};

template <class Visit>
static int for_each_launch(const Table& table, Visit visit) {
  static LaunchTable launch;
  int launches = 0;
  for (int64_t next = 0; next < table.plan.entry_count; ++launches) {
    const int64_t before = next;
    next = fill_table(table.plan, next, launch);
    CHECK(next > before, "the plan does not advance");
    visit(launch);
  }
  return launches;
}

template <class Rule, class Param, class Math, bool master>
static void emulate_launch(const LaunchTable& launch) {
  if (is_skipped(launch.header.found_inf)) return;
  for (uint32_t cta = 0; cta < launch.header.cta_count; ++cta) {
    const int position = launch.tensor_of(cta);
    if (!Rule::reads_gradient && stays_clean(launch.tensor(position).place)) continue;
    const auto arguments = cta_arguments<Rule, Math, master>(launch, position);
    for (int thread = 0; thread < threads_per_cta; ++thread) {
      step_thread<Rule, Param, Math, master>(launch, arguments, position, cta, thread, words);
    }
  }
}

template <class Param, class Math, bool master>
static void emulate_rule(int rule, const LaunchTable& launch) {
  switch (rule) {
#define NVRM_CASE(code, Rule) \
  case code:                  \
    return emulate_launch<Rule, Param, Math, master>(launch);
    NVRM_FOR_EACH_RULE(NVRM_CASE)
#undef NVRM_CASE
    default:
      return emulate_launch<NoUpdate, Param, Math, master>(launch);
  }
}

static void emulate_launch(const Table& table, const LaunchTable& launch) {
  const bool master = table.plan.has_master;
  const int rule = table.rule;
  switch (table.plan.kind) {
    case ScalarKind::float32:
      return master ? emulate_rule<float, float, true>(rule, launch) : emulate_rule<float, float, false>(rule, launch);
    case ScalarKind::float64:
      return master ? emulate_rule<double, double, true>(rule, launch)
                    : emulate_rule<double, double, false>(rule, launch);
    case ScalarKind::bfloat16:
      return master ? emulate_rule<BFloat16, float, true>(rule, launch)
                    : emulate_rule<BFloat16, float, false>(rule, launch);
    case ScalarKind::float16:
      return master ? emulate_rule<Float16, float, true>(rule, launch)
                    : emulate_rule<Float16, float, false>(rule, launch);
  }
}

static void emulate_record_launch(const RecordTable& records, bool writes_records, bool counts_steps) {
  for (int thread = 0; writes_records && thread < places_per_launch; ++thread) records.write_record_of(thread);
  for (int thread = 0; counts_steps && thread < places_per_launch; ++thread) {
    records.count_step_of(thread, [](int64_t* step) { *step += 1; });
  }
}

// One call of the operator: its launches, then those that write the records.
[[maybe_unused]] static void emulate(const Table& table) {
  for_each_launch(table, [&](const LaunchTable& launch) { emulate_launch(table, launch); });
  for_each_record_table(table.places, table.plan, emulate_record_launch);
}

// The same by the CPU's kernels and the CPU's host.
static void run_on_cpu(const Table& table) {
  if (is_skipped(table.plan.found_inf)) return;
  if (table.rule == no_rule) {
    portable_kernels.reperturb(table.plan, 0, table.first_superblock.back());
  } else {
    portable_kernels.step(table.rule, table.plan, 0, table.first_superblock.back());
  }
  for (const RecordPlace& place : table.places) write_record(place, table.plan.noise);
  for (const RecordPlace& place : table.places) {
    if (place.step != nullptr) *place.step += 1;
  }
}
