// Parameters in memory of their own, the table of a step over them, and its launches run thread by thread on the CPU,
// through the very code of the kernels (step_thread.h, launch_table.h). For emulated_comparison.h and the tests of PTX.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/cpu_kernels.h"
#include "cuda/launch_plan.h"
#include "cuda/step_thread.h"

using namespace nvrm;

template <class Math>
static CtaWords<Math> words;
static CtaSums cta_sums;

static int kind_bytes(ScalarKind kind) { return bytes_of(kind); }

// One parameter with all its operands, in memory of its own with bytes that must not be touched on both sides.
struct Parameter {
  static constexpr size_t margin = 64;
  int64_t numel, offset;
  std::vector<int64_t> sizes, strides;  // empty: contiguous
  bool has_row_major_gradient;          // where the others are not contiguous
  std::vector<unsigned char> data[operand_count];
  int64_t step;
  int64_t record[record_words];
  int64_t target[record_words];  // where only the noise changes
  float scale;                   // in the parameter's memory, where the case says so
  std::vector<float> measures;   // where the case has any
  std::vector<int64_t> sums;
  std::vector<int64_t> left;  // sums are left here, where it is not empty
  int64_t row_length;
  Layout layout;
  int misaligned;  // elements by which the data is off a multiple of 16 bytes
};

struct Case {
  ScalarKind kind;
  bool has_master;
  int rule;  // a code, no_rule or only_measure
  bool keep_noise;
  int distribution_off, distribution_on;
  float scale_off, scale_on;
  bool is_first;
  int denoise_every = 0;
  bool scales_on_device = false;
  bool hyper_on_device = false;
  bool cycle = false;
  bool has_measures = false;
  int measure = measure_nothing;
  bool leaves_sums = false;
  bool only_clean = false;
};

static int states_of(const Case& c) { return c.rule < 0 ? 0 : facts_of_rule(c.rule)->states; }

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

// Measures, for a row length of each kind: one measure, rows within a row of 4, of a superblock's size, about a CTA's,
// and so long that a CTA sees the end of one at most. Some are broken, some 0.
static void give_measures(Parameter& p, const Case& c, size_t n, std::mt19937& random) {
  const int64_t lengths[] = {1, 5, 0, 37, 128, 5, 1, 700, 37, 5000};
  const int64_t end = p.offset + p.numel;
  p.row_length = n == 18 ? 0 : lengths[n % 10];
  if (p.row_length != 0 && p.offset > 4096) p.row_length = (p.offset + p.numel / 2) / 2;
  const int64_t rows = p.row_length == 0 || end <= p.row_length ? 1 : (end + p.row_length - 1) / p.row_length;
  if (rows == 1) p.row_length = 0;
  std::uniform_real_distribution<float> measure(0.1f, 1);
  for (int line = 0; line < 2; ++line) {
    for (int64_t row = 0; row < rows; ++row) {
      const float found = measure(random);
      p.measures.push_back(row % 11 == 7 ? std::numeric_limits<float>::quiet_NaN() : row % 11 == 2 ? 0 : found);
    }
  }
  // A weight of -0 tells whether noise of 0 was added to it.
  for (int o : {parameter_operand, master_operand}) {
    if (!has_operand(c, o)) continue;
    for (int64_t i = 0; i < p.numel; i += 7) write_number(c, o, start(p, c, o) + i * operand_bytes(c, o), -0.0f);
  }
  p.sums.resize(static_cast<size_t>(rows * sum_words), 0);
  if (c.leaves_sums) p.left.resize(p.sums.size(), -1);
  if (n % 3 != 2 && p.record[record_scale] != 0) p.record[record_scale] |= relative_bit;
  if (n % 3 != 1 && p.target[record_scale] != 0) p.target[record_scale] |= relative_bit;
}

// Drawn once: for every case anew it would take most of the time.
static const std::vector<float>& normal_numbers() {
  static const std::vector<float> drawn = [] {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> numbers(65537);
    for (float& number : numbers) number = normal(random);
    return numbers;
  }();
  return drawn;
}

// most: elements of the longest.
[[maybe_unused]] static std::vector<Parameter> make_parameters(const Case& c, uint32_t seed, int64_t most = 70001) {
  std::vector<Parameter> list;
  const int64_t lengths[] = {1, 7, 0, 127, 128, 129, 4096, 4099, 8321, 70001};
  const int64_t offsets[] = {0, 3, 128, 4, 1000, (int64_t{1} << 36) + 5, (int64_t{1} << 36) + 4};
  std::mt19937 random(seed);
  const std::vector<float>& normal = normal_numbers();
  size_t next = seed * 7919;
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
    if (n % 6 == 5) {  // the strides of channels_last: 3 x 5 x 4 x 9; and some that no Walk has
      p.sizes = n == 17 ? std::vector<int64_t>{27, 10, 2} : std::vector<int64_t>{3, 5, 36};
      p.strides = n == 17 ? std::vector<int64_t>{20, 1, 10} : std::vector<int64_t>{180, 1, 5};
      p.numel = 540;
      p.has_row_major_gradient = n == 11;
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
      unsigned char* at = start(p, c, o);
      const int bytes = operand_bytes(c, o);
      for (int64_t i = 0; i < p.numel; ++i) write_number(c, o, at + i * bytes, normal[next++ % normal.size()]);
    }
  }
  for (size_t n = 0; n < list.size() && c.has_measures; ++n) give_measures(list[n], c, n, random);
  return list;
}

// Raw hyper-parameters. Options take turns: flags (every second time with weight decay), weight decay alone, nothing.
static std::vector<double> hyper_of(int rule, int turn) {
  const double decay = turn % 6 == 0 || turn % 3 == 1 ? 1e-2 : 0, maximize = turn % 3 == 0, option = turn % 6 == 0;
  if (rule < 0) return {};
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
  std::vector<FinishPlace> finishes;
  bool only_clean;
  std::vector<int64_t> first_superblock = {0};
  std::vector<double> hyper;
  double wrong_hyper[max_hyper] = {};
  StepPlan plan{};

  Table(std::vector<Parameter>& list, const Case& c, std::vector<double> raw)
      : rule(c.rule), only_clean(c.only_clean), hyper(std::move(raw)) {
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
        if (p.has_row_major_gradient) {
          int64_t below = 1;
          for (int d = p.layout.dims - 1; d >= 0; below *= p.layout.sizes[d--]) {
            p.layout.strides[gradient_operand][d] = below;
          }
        }
        e.layout = &p.layout;
      }
      e.place.record = p.record;
      if (c.rule == no_rule) {
        e.place.target = p.target;
      } else if (c.rule >= 0) {
        e.place.step = &p.step;
        if (c.scales_on_device) e.place.scale = &p.scale;
      }
      if (c.has_measures) {
        const auto rows = static_cast<int64_t>(p.measures.size() / 2);
        e.measure = {p.measures.data(), p.sums.data(), rows, p.row_length};
        finishes.push_back({e.measure, p.numel / rows, p.left.empty() ? nullptr : p.left.data(), p.record});
        if (c.measure == measure_nothing) e.measure.sums = nullptr;
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
    plan.has_measures = c.has_measures;
    plan.noise = {new_seed, c.denoise_every, c.distribution_on, c.scale_on, c.keep_noise, c.measure, c.cycle};
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
    launch.header.only_clean = table.only_clean;
    CHECK(next > before, "the plan does not advance");
    visit(launch);
  }
  return launches;
}

template <class Rule, class Param, class Math, bool master, bool relative>
static void emulate_launch(const LaunchTable& launch) {
  if (is_skipped(launch.header.found_inf)) return;
  for (uint32_t cta = 0; cta < launch.header.cta_count; ++cta) {
    const int position = launch.tensor_of(cta);
    if (has_nothing_to_do<Rule>(launch, position)) continue;
    auto arguments = cta_arguments<Rule, Math, master>(launch, position);
    CtaRelation relation{};
    if constexpr (relative) relation = cta_relation(launch, position, cta, arguments);
    for (int thread = 0; thread < threads_per_cta; ++thread) {
      step_thread<Rule, Param, Math, master, relative>(launch, arguments, &relation, position, cta, thread, words<Math>,
                                                       &cta_sums);
    }
    if constexpr (relative) {
      const int measure = launch.header.noise.measure;
      const MeasurePlace& at = launch.measure(launch.tensor(position).measure);
      for (int thread = 0; thread < threads_per_cta && measure != measure_nothing; ++thread) {
        add_cta_sums(cta_sums, at, relation.rows, measure, thread);
      }
    }
  }
}

template <class Param, class Math, bool master, bool relative>
static void emulate_rule(int rule, const LaunchTable& launch) {
  switch (rule) {
#define NVRM_CASE(code, Rule) \
  case code:                  \
    return emulate_launch<Rule, Param, Math, master, relative>(launch);
    NVRM_FOR_EACH_RULE(NVRM_CASE)
#undef NVRM_CASE
    case only_measure:
      if constexpr (relative) return emulate_launch<OnlyMeasure, Param, Math, master, true>(launch);
      return;
    default:
      return emulate_launch<NoUpdate, Param, Math, master, relative>(launch);
  }
}

template <class Param, class Math, bool relative>
static void emulate_storage(const Table& table, const LaunchTable& launch) {
  if (table.plan.has_master) return emulate_rule<Param, Math, true, relative>(table.rule, launch);
  emulate_rule<Param, Math, false, relative>(table.rule, launch);
}

// relative: the table has measures. Who emulates none need not compile their instances.
template <bool relative>
static void emulate_launch(const Table& table, const LaunchTable& launch) {
  CHECK(table.plan.has_measures == relative, "instances of the other sort");
  switch (table.plan.kind) {
    case ScalarKind::float32:
      return emulate_storage<float, float, relative>(table, launch);
    case ScalarKind::float64:
      return emulate_storage<double, double, relative>(table, launch);
    case ScalarKind::bfloat16:
      return emulate_storage<BFloat16, float, relative>(table, launch);
    case ScalarKind::float16:
      return emulate_storage<Float16, float, relative>(table, launch);
  }
}

// Calls visit(table) for each launch that finishes the measures.
template <class Visit>
static void for_each_finish(const Table& table, Visit visit) {
  if (table.plan.noise.measure == measure_nothing) return;
  for_each_finish_table(table.finishes, table.plan, table.rule != only_measure, table.only_clean, visit);
}

static void emulate_finish_launch(const FinishTable& finish) {
  for (int position = 0; position < finish.count; ++position) {
    for (int thread = 0; thread < 128; ++thread) finish.finish_rows_of(position, thread, 128);
  }
}

static void emulate_record_launch(const RecordTable& records, bool writes_records, bool counts_steps) {
  for (int thread = 0; writes_records && thread < places_per_launch; ++thread) records.write_record_of(thread);
  for (int thread = 0; counts_steps && thread < places_per_launch; ++thread) {
    records.count_step_of(thread, [](int64_t* step) { *step += 1; });
  }
}

static void clear_sums(const Table& table) {
  for (const FinishPlace& each : table.finishes) std::fill_n(each.at.sums, each.at.rows * sum_words, int64_t{0});
}

// One call of the operator: its launches, then those that finish the measures and write the records.
template <bool relative = false>
static void emulate(const Table& table) {
  clear_sums(table);
  for_each_launch(table, [&](const LaunchTable& launch) { emulate_launch<relative>(table, launch); });
  for_each_finish(table, emulate_finish_launch);
  if (table.rule != only_measure) for_each_record_table(table.places, table.plan, emulate_record_launch);
}

// The same by the CPU's kernels and the CPU's host.
static void run_on_cpu(const Table& table) {
  if (is_skipped(table.plan.found_inf)) return;
  clear_sums(table);
  const int64_t superblocks = table.first_superblock.back();
  if (table.rule == only_measure) {
    portable_kernels.measure(table.plan, table.only_clean, 0, superblocks);
  } else if (table.rule == no_rule) {
    portable_kernels.reperturb(table.plan, 0, superblocks);
  } else {
    portable_kernels.step(table.rule, table.plan, 0, superblocks);
  }
  for_each_finish(table, emulate_finish_launch);
  if (table.rule == only_measure) return;
  for (const RecordPlace& place : table.places) write_record(place, table.plan.noise);
  for (const RecordPlace& place : table.places) {
    if (place.step != nullptr) *place.step += 1;
  }
}
