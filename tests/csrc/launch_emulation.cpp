// The CUDA step on the CPU: the host's launch plan, then every thread of every group of every launch, through the very
// code of the kernel (step_thread.h). First with marks for data, to see that each element is visited exactly once, by
// the right Philox block and lane; then with numbers, against the CPU kernels, bit for bit.
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
#define CHECK(condition, ...)                       \
  do {                                              \
    if (!(condition)) {                             \
      std::printf("%s:%d: ", __FILE__, __LINE__);   \
      std::printf(__VA_ARGS__);                     \
      std::printf("\n");                            \
      if (++failures > 20) std::exit(1);            \
    }                                               \
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
      for (int64_t i = 0; i < p.numel; ++i) write_number(c, o, start(p, c, o) + i * operand_bytes(c, o), normal(random));
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
      const GroupScalars scalars = adam_scalars(adam, p.step + 1);
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
      const GroupScalars scalars = adam_scalars(options.adam, *launch.tensor(position).step + 1);
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

static const AdamCorrections adam = {1e-2, 0.9, 0.999};

// Both on their own copies: every byte must agree, the margins too.
template <class Emulate, class Cpu>
static void compare(const char* what, const Case& c, bool draws_next, Emulate emulate_step, Cpu cpu_step) {
  std::vector<Parameter> mine = make_parameters(c, 1), theirs = make_parameters(c, 1);
  Table my_table(mine, c, draws_next, adam), their_table(theirs, c, draws_next, adam);
  emulate_step(my_table, ListOptions{adam, draws_next});
  cpu_step(their_table.plan, 0, their_table.first_superblock.back());
  for (size_t n = 0; n < mine.size(); ++n) {
    for (int o = 0; o < operand_count; ++o) {
      if (!has_operand(c, o)) continue;
      const ptrdiff_t lead = start(mine[n], c, o) - mine[n].data[o].data();
      const ptrdiff_t their_lead = start(theirs[n], c, o) - theirs[n].data[o].data();
      const size_t bytes = static_cast<size_t>(mine[n].numel * operand_bytes(c, o));
      const bool same = memcmp(mine[n].data[o].data() + lead, theirs[n].data[o].data() + their_lead, bytes) == 0;
      CHECK(same, "%s: kind %d master %d keep %d dist %d/%d first %d: tensor %zu operand %d differs", what,
            static_cast<int>(c.kind), c.has_master, c.keep_noise, c.distribution_off, c.distribution_on, c.is_first, n, o);
      for (size_t b = 0; b < mine[n].data[o].size(); ++b) {
        const bool inside = b >= static_cast<size_t>(lead) && b < static_cast<size_t>(lead) + bytes;
        CHECK(inside || mine[n].data[o][b] == 0xa5, "%s: tensor %zu operand %d: byte outside is written", what, n, o);
      }
    }
  }
}

static void compare_with_the_cpu() {
  const ScalarKind kinds[] = {ScalarKind::float32, ScalarKind::float64, ScalarKind::bfloat16, ScalarKind::float16};
  const CpuKernels& cpu = portable_kernels;
  int turn = 0;
  for (ScalarKind kind : kinds) {
    for (int master = 0; master < 2; ++master) {
      for (int distribution = 0; distribution < distribution_count; ++distribution, ++turn) {
        // Options take turns over the cases, so that each meets each kind.
        Case c{kind, master != 0, 1, turn % 4 == 3, (distribution + turn % 2) % 3, distribution, 0.02f, 0.01f, turn % 5 == 0};
        const SgdHyper<double> sgd{0.1, 0.9, 1 - 0.1, turn % 2 ? 1e-2 : 0, turn % 3 == 0, turn % 3 == 1};
        compare(
            "momentum", c, true, [&](Table& t, ListOptions o) { emulate<Sgd<true>>(t, o, sgd); },
            [&](const StepPlan& p, int64_t a, int64_t b) { cpu.sgd(p, sgd, true, a, b); });
        c.states = 0;
        compare(
            "plain", c, true, [&](Table& t, ListOptions o) { emulate<Sgd<false>>(t, o, sgd); },
            [&](const StepPlan& p, int64_t a, int64_t b) { cpu.sgd(p, sgd, false, a, b); });
        for (int amsgrad = 0; amsgrad < 2; ++amsgrad) {
          c.states = 2 + amsgrad;
          const AdamHyper<double> hyper =
              adam_hyper(adam.lr, adam.beta1, adam.beta2, 1e-8, turn % 3 ? 1e-2 : 0, turn % 2 == 0, turn % 3 == 1);
          const auto cpu_step = [&](const StepPlan& p, int64_t a, int64_t b) { cpu.adam(p, hyper, amsgrad, a, b); };
          if (amsgrad) {
            compare("amsgrad", c, true, [&](Table& t, ListOptions o) { emulate<Adam<true>>(t, o, hyper); }, cpu_step);
          } else {
            compare("Adam", c, true, [&](Table& t, ListOptions o) { emulate<Adam<false>>(t, o, hyper); }, cpu_step);
          }
        }
        c.states = 0;
        c.keep_noise = false;
        c.scale_on = distribution == 1 ? 0 : 0.03f;
        compare(
            "change of coat", c, false, [&](Table& t, ListOptions o) { emulate<NoUpdate>(t, o, NoHyper{}); },
            [&](const StepPlan& p, int64_t a, int64_t b) { cpu.change_coat(p, a, b); });
      }
    }
  }
}

// Each element once, by the block and the lane that the noise contract names.
static void visit_every_element() {
  const Case c{ScalarKind::float32, false, 0, false, 0, 0, 1, 1, false};
  std::vector<Parameter> list = make_parameters(c, 2);
  Table table(list, c, true, adam);
  std::vector<std::vector<int>> visits;
  for (const Parameter& p : list) visits.emplace_back(static_cast<size_t>(p.numel), 0);
  for_each_launch(table, {adam, true}, [&](const LaunchTable& launch) {
    for (uint32_t group = 0; group < launch.header.group_count; ++group) {
      const CudaTensor& t = launch.tensor(launch.tensor_of(group));
      const size_t n = (t.stream - 1) / 3;
      CHECK(t.step == &list[n].step && t.numel == list[n].numel, "entry %zu is not packed right", n);
      const int64_t first = t.offset / superblock_size +
                            int64_t{group - t.first_group} * launch.header.rounds * superblocks_per_round;
      for (int round = 0; round < launch.header.rounds; ++round) {
        for (int thread = 0; thread < threads_per_group; ++thread) {
          const Part part = part_of(first, thread, round);
          const int64_t base = first_element(part, t.offset);
          for (int lane = 0; lane < rows; ++lane) {
            for (int b = 0; b < row_elements; ++b) {
              const int64_t local = base + lane * blocks_per_superblock + b;
              if (local < 0 || local >= t.numel) continue;
              ++visits[n][static_cast<size_t>(local)];
              const int64_t i = t.offset + local, r = i % 128;
              const uint64_t block = static_cast<uint64_t>(16 * (i / 128) + r % 16);
              CHECK(lane == r / 16 && philox_block(part) + static_cast<uint64_t>(b) == block,
                    "element %lld of tensor %zu: block or lane is wrong", static_cast<long long>(i), n);
            }
          }
        }
      }
    }
  });
  for (size_t n = 0; n < visits.size(); ++n) {
    for (size_t i = 0; i < visits[n].size(); ++i) CHECK(visits[n][i] == 1, "%d visits of %zu, %zu", visits[n][i], n, i);
  }
}

// Long lists: the launches take every tensor, in order, as many as fit.
static void plan_long_lists() {
  const Case c{ScalarKind::float32, false, 1, false, 0, 0, 1, 1, false};
  std::vector<Parameter> list;
  for (int repeat = 0; repeat < 40; ++repeat) {
    for (Parameter& p : make_parameters(c, 3)) {
      if (p.numel < 1000) list.push_back(std::move(p));
    }
  }
  Table table(list, c, true, adam);
  std::vector<int> seen(list.size(), 0);
  int layouts = 0;
  const int launches = for_each_launch(table, {adam, true}, [&](const LaunchTable& launch) {
    uint32_t groups = 0;
    for (int i = 0; i < launch.header.tensor_count; ++i) {
      const CudaTensor& t = launch.tensor(i);
      const size_t n = (t.stream - 1) / 3;
      ++seen[n];
      CHECK(t.first_group == groups, "running count of groups");
      const bool strided = table.entries[n].layout != nullptr;
      CHECK((t.layout >= 0) == strided, "layout");
      if (strided) {
        ++layouts;
        CHECK(memcmp(&launch.layout(t.layout), table.entries[n].layout, sizeof(Layout)) == 0, "layout of tensor %zu", n);
      }
      const int64_t per_group = int64_t{launch.header.rounds} * superblocks_per_round;
      groups += static_cast<uint32_t>((superblocks_of(table.entries[n]) + per_group - 1) / per_group);
      for (uint32_t g = t.first_group; g < groups; ++g) CHECK(launch.tensor_of(g) == i, "search");
    }
    CHECK(groups == launch.header.group_count, "group count");
  });
  for (size_t n = 0; n < list.size(); ++n) CHECK(seen[n] == (list[n].numel > 0), "tensor %zu seen %d times", n, seen[n]);
  std::printf("table: %d bytes of arguments, %zu a tensor, %zu tensors a launch; %zu tensors (%d strided) in %d launches\n",
              argument_bytes, sizeof(CudaTensor), sizeof(LaunchTable::pool) / sizeof(CudaTensor), list.size(), layouts,
              launches);
}

// grad_scale divides the gradients, as on the CPU; found_inf stops everything.
static void scale_gradients() {
  const SgdHyper<double> sgd{0.1, 0.9, 1, 0, false, false};
  const AdamHyper<double> adam_rule = adam_hyper(adam.lr, adam.beta1, adam.beta2, 1e-8, 0, false, false);
  const float grad_scale = 1024, none = 0, infinite = 1;
  for (const ScalarKind kind : {ScalarKind::float32, ScalarKind::float64, ScalarKind::float16}) {
    for (const float* found_inf : {&none, &infinite}) {
      const Case c{kind, kind == ScalarKind::float16, 2, false, 0, 0, 0.01f, 0.01f, false};
      std::vector<Parameter> mine = make_parameters(c, 4), theirs = make_parameters(c, 4), before = make_parameters(c, 4);
      Table my_table(mine, c, true, adam), their_table(theirs, c, true, adam);
      for (StepPlan* plan : {&my_table.plan, &their_table.plan}) {
        plan->grad_scale = &grad_scale;
        plan->found_inf = found_inf;
      }
      emulate<Adam<false>>(my_table, {adam, true}, adam_rule);
      portable_kernels.adam(their_table.plan, adam_rule, false, 0, their_table.first_superblock.back());
      std::vector<Parameter>& expected = found_inf == &infinite ? before : theirs;
      for (size_t n = 0; n < mine.size(); ++n) {
        for (int o = 0; o < operand_count; ++o) {
          if (!has_operand(c, o)) continue;
          const size_t bytes = static_cast<size_t>(mine[n].numel * operand_bytes(c, o));
          CHECK(memcmp(start(mine[n], c, o), start(expected[n], c, o), bytes) == 0,
                "scaling: kind %d skipped %d tensor %zu operand %d", static_cast<int>(kind), *found_inf != 0, n, o);
        }
      }
    }
  }
  // A scale that is a power of two changes nothing but the gradients' exponents.
  const Case c{ScalarKind::float32, false, 1, false, 0, 0, 0.01f, 0.01f, false};
  std::vector<Parameter> scaled = make_parameters(c, 4), plain = make_parameters(c, 4);
  for (Parameter& p : scaled) {
    auto* gradient = reinterpret_cast<float*>(start(p, c, gradient_operand));
    for (int64_t i = 0; i < p.numel; ++i) gradient[i] *= 1024.0f;
  }
  Table scaled_table(scaled, c, true, adam), plain_table(plain, c, true, adam);
  scaled_table.plan.grad_scale = &grad_scale;
  emulate<Sgd<true>>(scaled_table, {adam, true}, sgd);
  emulate<Sgd<true>>(plain_table, {adam, true}, sgd);
  for (size_t n = 0; n < scaled.size(); ++n) {
    const size_t bytes = static_cast<size_t>(scaled[n].numel) * 4;
    CHECK(memcmp(start(scaled[n], c, 0), start(plain[n], c, 0), bytes) == 0, "grad_scale: tensor %zu", n);
  }

  int64_t counters[3] = {7, 8, 9};
  for (const float* found_inf : {static_cast<const float*>(nullptr), &none, &infinite}) {
    CounterTable count{};
    for (int i = 0; i < 2; ++i) count.counter[i] = &counters[i];
    count.count = 2;
    count.found_inf = found_inf;
    for (int thread = 0; thread < counters_per_launch; ++thread) count.add_one(thread);
  }
  CHECK(counters[0] == 9 && counters[1] == 10 && counters[2] == 9, "counters");
}

// The device's corrections against the host's pow.
static void compare_corrections() {
  double worst = 0;
  int64_t different = 0, steps = 0;
  for (int64_t step = 1; step < 2000000; step += step < 3000 ? 1 : 997, ++steps) {
    const GroupScalars mine = adam_scalars(adam, step);
    const double size = adam.lr / (1 - std::pow(adam.beta1, static_cast<double>(step)));
    const double root = 1 / std::sqrt(1 - std::pow(adam.beta2, static_cast<double>(step)));
    worst = std::max({worst, std::abs(mine.step_size / size - 1), std::abs(mine.root_scale / root - 1)});
    different += static_cast<float>(mine.step_size) != static_cast<float>(size) ||
                 static_cast<float>(mine.root_scale) != static_cast<float>(root);
  }
  CHECK(worst < 1e-11, "corrections are off by %g", worst);
  std::printf("corrections: within %.1e of pow; %lld of %lld steps differ in float32\n", worst,
              static_cast<long long>(different), static_cast<long long>(steps));
}

static void draw_noise() {
  static WordStore store;
  const NoiseKey key{1, 2, 3, 4};
  for (int distribution = 0; distribution < distribution_count; ++distribution) {
    for (int64_t offset : {int64_t{0}, int64_t{4}, int64_t{131}, (int64_t{1} << 36) - 77}) {
      for (int64_t count : {1, 5, 128, 4097, 9999}) {
        alignas(16) static float mine[10016], theirs[10016];
        std::fill_n(mine, 10016, -7.0f);
        std::fill_n(theirs, 10016, -7.0f);
        const FillArguments arguments{philox_schedule(key), mine, offset, count, 0.5f, distribution, offset % 4 == 0};
        const int64_t superblocks = (offset + count + 127) / 128 - offset / 128;
        for (uint32_t group = 0; group < (superblocks + superblocks_per_round - 1) / superblocks_per_round; ++group) {
          for (int thread = 0; thread < threads_per_group; ++thread) noise_thread(arguments, group, thread, store);
        }
        portable_kernels.noise(key, distribution, 0.5f, offset, theirs, count);
        CHECK(memcmp(mine, theirs, sizeof mine) == 0, "noise: distribution %d offset %lld count %lld", distribution,
              static_cast<long long>(offset), static_cast<long long>(count));
      }
    }
  }
}

int main() {
  visit_every_element();
  plan_long_lists();
  compare_with_the_cpu();
  scale_gradients();
  compare_corrections();
  draw_noise();
  std::printf(failures == 0 ? "all equal\n" : "%d failures\n", failures);
  return failures != 0;
}
