// The CUDA step on the CPU: the host's launch plan, then every thread of every CTA of every launch, through the very
// code of the kernels (step_thread.h, launch_table.h). First with marks for data, to see that each element is visited
// exactly once, by the right Philox block and lane; then with numbers, against the CPU kernels, bit for bit.
// launch_emulation KINDS: of so many kinds of numbers.
#include "emulated_comparison.h"

static int kind_count = 0;

// Cycled noise, from the first turn of a draw through all others and into the next one.
static void compare_cycles() {
  int turn = 0;
  for (int k = 0; k < kind_count; ++k) {
    const ScalarKind kind = kinds[k];
    for (int distribution = 0; distribution < distribution_count; ++distribution, ++turn) {
      for (const bool master : {false, true}) {
        Case c{kind, master, 0, false, distribution, distribution, 0.02f, 0.01f, false};
        c.cycle = true;
        c.denoise_every = turn % 3 == 1 ? 3 : 0;
        for (c.rule = 0; c.rule < rule_count; ++c.rule) compare("cycle", c, turn, c.rule == turn % rule_count ? 6 : 1);
        c.rule = no_rule;
        compare("reperturb in a cycle", c, turn);
      }
    }
  }
}

static void compare_with_the_cpu() {
  int turn = 0;
  for (int k = 0; k < kind_count; ++k) {
    const ScalarKind kind = kinds[k];
    for (int master = 0; master < 2; ++master) {
      for (int distribution = 0; distribution < distribution_count; ++distribution, ++turn) {
        // Options take turns over the cases, so that each meets each kind.
        Case c{kind,         master != 0, 0,     turn % 4 == 3, (distribution + turn % 2) % 3,
               distribution, 0.02f,       0.01f, turn % 5 == 0};
        for (c.rule = 0; c.rule < rule_count; ++c.rule) {
          c.denoise_every = turn % 4 == 1 ? 2 : 0;
          c.scales_on_device = turn % 3 == 2;
          c.hyper_on_device = turn % 2 == 1;
          compare("step", c, turn);
        }
        c.rule = no_rule;
        c.keep_noise = false;
        c.scale_on = distribution == 1 ? 0 : 0.03f;
        compare("reperturb", c, turn);
      }
    }
  }
}

// A captured graph launches the same packed arguments again and again: each launch takes off what the records say, and
// what a call in between put on (denoise(), evaluation mode) as well.
static void replay() {
  for (const bool master : {false, true}) {
    for (int rule = 0; rule < rule_count; ++rule) {
      Case c{ScalarKind::float32, master, rule, false, 1, 0, 0.02f, 0.01f, true};
      c.denoise_every = 3;
      std::vector<Parameter> mine = make_parameters(c, 5), theirs = make_parameters(c, 5);
      Case clean = c;
      clean.rule = no_rule;
      Table my_table(mine, c, hyper_of(rule, 0)), their_table(theirs, c, hyper_of(rule, 0));
      Table my_clean(mine, clean, {}), their_clean(theirs, clean, {});
      std::vector<LaunchTable> launches;
      std::vector<std::pair<RecordTable, std::pair<bool, bool>>> records;
      for_each_launch(my_table, [&](const LaunchTable& launch) { launches.push_back(launch); });
      for_each_record_table(my_table.places, my_table.plan, [&](const RecordTable& table, bool writes, bool counts) {
        records.push_back({table, {writes, counts}});
      });
      for (int call = 0; call < 7; ++call) {
        for (const LaunchTable& launch : launches) emulate_launch<false>(my_table, launch);
        for (const auto& [table, what] : records) emulate_record_launch(table, what.first, what.second);
        // On the CPU from a fresh table every time.
        Table fresh(theirs, c, hyper_of(rule, 0));
        run_on_cpu(fresh);
        if (call == 3) {
          for (auto* list : {&mine, &theirs}) {
            for (Parameter& p : *list) p.target[record_scale] = 0;
          }
          emulate(my_clean);
          run_on_cpu(their_clean);
          for (const Parameter& p : mine) CHECK(p.record[record_scale] == 0, "still noisy");
        }
      }
      expect_equal("replay", c, mine, theirs);
      for (size_t n = 0; n < mine.size(); ++n) {
        const Parameter& p = mine[n];
        const int64_t steps = static_cast<int64_t>(n % 5) * 7 + 7;
        const float scale = steps % 3 == 0 ? 0 : 0.01f;
        CHECK(p.step == steps && p.record[record_step] == steps, "tensor %zu: step", n);
        CHECK(p.record[record_scale] == static_cast<int64_t>(ScalarLanes::bits_of(scale)), "tensor %zu: scale", n);
        CHECK(p.record[record_seed] == (99 | int64_t{6} << 32) && p.record[record_distribution] == 0, "tensor %zu", n);
        CHECK(p.record[record_stream] == static_cast<int64_t>(n) * 3 + 1, "tensor %zu: stream", n);
        const int64_t seen = n % 7 == 4 ? static_cast<int64_t>(n % 5) * 7 + 1 : 0;
        CHECK(p.record[record_rule_steps] == seen + 7 && p.record[record_numel] == p.numel, "tensor %zu", n);
      }
    }
  }
}

// With a learning rate of 0 the weights under the noise stay: what comes off is what went on, whatever the records said
// before, and the noise that is left is the one that the record tells of.
static void take_off_what_is_on() {
  Case c{ScalarKind::float64, false, 0, false, 2, 1, 0, 0.5f, false};
  c.scales_on_device = true;
  std::vector<Parameter> list = make_parameters(c, 6), before = make_parameters(c, 6);
  Table table(list, c, {0, 0, 0, 0, 0, 0});
  for (int call = 0; call < 5; ++call) {
    emulate(table);
    for (size_t n = 0; n < list.size(); ++n) {
      Parameter& p = list[n];
      if (!p.sizes.empty()) continue;
      const NoiseDraw draw = recorded_noise(p.record);
      CHECK(draw.scale == p.scale && draw.key.step == static_cast<uint32_t>(p.step), "record of tensor %zu", n);
      std::vector<float> noise(static_cast<size_t>(p.numel));
      portable_kernels.noise(draw.key, draw.distribution, draw.scale, p.offset, noise.data(), p.numel);
      double worst = 0;
      for (int64_t i = 0; i < p.numel; ++i) {
        double now, then;
        memcpy(&now, start(p, c, parameter_operand) + 8 * i, 8);
        memcpy(&then, start(before[n], c, parameter_operand) + 8 * i, 8);
        worst = std::max(worst, std::abs(now - noise[static_cast<size_t>(i)] - then));
      }
      CHECK(worst < 1e-14, "tensor %zu, call %d: the clean weights moved by %g", n, call, worst);
    }
  }
}

// Nothing to take off and nothing to put on: the parameters are not written, whatever the master weights hold.
static void leave_clean_weights() {
  for (const bool master : {false, true}) {
    const Case c{ScalarKind::float32, master, no_rule, false, 0, 0, 0, 0, false};
    std::vector<Parameter> list = make_parameters(c, 7), before = make_parameters(c, 7);
    Table table(list, c, {});
    emulate(table);
    for (size_t n = 0; n < list.size(); ++n) {
      CHECK(list[n].data[parameter_operand] == before[n].data[parameter_operand], "tensor %zu is written", n);
      CHECK(memcmp(list[n].record, list[n].target, 6 * sizeof(int64_t)) == 0, "record %zu", n);
      CHECK(list[n].record[record_numel] == list[n].numel, "record %zu: numel", n);
    }
  }
}

// Parameters may share a counter, also across launches: all see the same step, and each adds 1.
static void share_a_counter() {
  const Case c{ScalarKind::float32, false, 0, false, 0, 0, 0.01f, 0.01f, false};
  std::vector<Parameter> list;
  for (int repeat = 0; repeat < 14; ++repeat) {
    for (Parameter& p : make_parameters(c, 8)) {
      if (p.numel < 1000) list.push_back(std::move(p));
    }
  }
  CHECK(list.size() > places_per_launch, "one launch would do");
  Table table(list, c, hyper_of(0, 0));
  int64_t shared = 40;
  for (size_t n = 0; n < list.size(); ++n) {
    table.entries[n].place.step = table.places[n].step = &shared;
  }
  emulate(table);
  CHECK(shared == 40 + static_cast<int64_t>(list.size()), "the counter shows %lld", static_cast<long long>(shared));
  for (const Parameter& p : list) CHECK(p.record[record_step] == 41, "step of a record");
}

// The position in the list of the parameter whose record this is.
static size_t owner_of(const std::vector<Parameter>& list, const CudaTensor& tensor) {
  size_t n = 0;
  while (list[n].record != tensor.place.record) ++n;
  return n;
}

// Each element once, by the block and the lane that the noise contract names.
static void visit_every_element() {
  const Case c{ScalarKind::float32, false, 0, false, 0, 0, 1, 1, false};
  std::vector<Parameter> list = make_parameters(c, 2);
  Table table(list, c, hyper_of(c.rule, 0));
  std::vector<std::vector<int>> visits;
  for (const Parameter& p : list) visits.emplace_back(static_cast<size_t>(p.numel), 0);
  for_each_launch(table, [&](const LaunchTable& launch) {
    for (uint32_t cta = 0; cta < launch.header.cta_count; ++cta) {
      const CudaTensor& t = launch.tensor(launch.tensor_of(cta));
      const size_t n = owner_of(list, t);
      CHECK(t.place.step == &list[n].step && t.numel == list[n].numel, "entry %zu is not packed right", n);
      const int64_t first =
          t.offset / superblock_size + int64_t{cta - t.first_cta} * launch.header.rounds * superblocks_per_round;
      for (int round = 0; round < launch.header.rounds; ++round) {
        for (int thread = 0; thread < threads_per_cta; ++thread) {
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
  Table table(list, c, hyper_of(c.rule, 0));
  std::vector<int> seen(list.size(), 0);
  int layouts = 0;
  const int launches = for_each_launch(table, [&](const LaunchTable& launch) {
    uint32_t ctas = 0;
    for (int i = 0; i < launch.header.tensor_count; ++i) {
      const CudaTensor& t = launch.tensor(i);
      const size_t n = owner_of(list, t);
      ++seen[n];
      CHECK(t.first_cta == ctas, "running count of CTAs");
      const bool strided = table.entries[n].layout != nullptr;
      const bool is_walked = strided && list[n].sizes.back() > 2;
      CHECK((t.layout >= 0) == strided && t.is_walked() == is_walked, "layout");
      layouts += strided;
      if (strided && !is_walked) {
        CHECK(memcmp(&launch.layout(t.layout), table.entries[n].layout, sizeof(Layout)) == 0, "layout of tensor %zu",
              n);
      }
      if (is_walked) {
        CHECK(launch.walk(t.layout).row_major_gradient == list[n].has_row_major_gradient, "layout of tensor %zu", n);
      }
      const int64_t per_cta = int64_t{launch.header.rounds} * superblocks_per_round;
      ctas += static_cast<uint32_t>((superblocks_of(table.entries[n]) + per_cta - 1) / per_cta);
      for (uint32_t g = t.first_cta; g < ctas; ++g) CHECK(launch.tensor_of(g) == i, "search");
    }
    CHECK(ctas == launch.header.cta_count, "count of CTAs");
  });
  for (size_t n = 0; n < list.size(); ++n)
    CHECK(seen[n] == (list[n].numel > 0), "tensor %zu seen %d times", n, seen[n]);
  std::printf(
      "table: %d bytes of arguments, %zu a tensor, %zu tensors a launch; %zu tensors (%d strided) in %d launches\n",
      argument_bytes, sizeof(CudaTensor), sizeof(LaunchTable::pool) / sizeof(CudaTensor), list.size(), layouts,
      launches);
}

// Divisions by multiplication: around all multiples of small numbers, and at the ends for others.
static void divide() {
  constexpr uint32_t limit = 1u << 31;
  std::mt19937 random(11);
  for (int n = 0; n < 3000; ++n) {
    const uint32_t value = n < 2000   ? static_cast<uint32_t>(n) + 2
                           : n < 2031 ? (1u << (n - 1999)) - n % 2
                                      : random() / 2 + 2;
    const Divisor divisor = divisor_of(value);
    const auto check = [&](uint32_t i) { CHECK(divisor.quotient(i) == i / value, "%u / %u", i, value); };
    for (int k = 0; k < 200; ++k) {
      const uint32_t multiple =
          (k < 100 ? static_cast<uint32_t>(k) : (limit - 1) / value - static_cast<uint32_t>(k - 100)) * value;
      if (multiple >= limit) continue;
      check(multiple);
      if (multiple > 0) check(multiple - 1);
    }
    for (int k = 0; k < 200; ++k) check(random() / 2);
    check(limit - 1);
  }
}

// Layouts that are walked: every row of 4, and every element alone, lies where the layout says. And those that are not.
static void walk_layouts() {
  struct Shape {
    std::vector<int64_t> sizes, strides;
    bool is_walked;
  };
  const Shape shapes[] = {
      {{3, 5, 36}, {180, 1, 5}, true},         // channels_last
      {{64, 32, 9}, {288, 1, 32}, true},       //
      {{4, 6, 3}, {18, 1, 6}, true},           //
      {{7, 11}, {1, 7}, true},                 // transposed
      {{7, 11}, {16, 1}, true},                // columns of a larger matrix
      {{2, 3, 5}, {1000, 40, 7}, true},        // not dense
      {{5, 7, 4}, {0, 1, 0}, true},            // expanded, which the host refuses
      {{7, 2}, {1, 7}, false},                 // a row of 4 in more than two stretches
      {{2, 3, 4, 5}, {1, 2, 6, 24}, false},    // too many dimensions
      {{3, 4}, {-4, 1}, false},                //
      {{3, int64_t{1} << 30}, {1, 3}, false},  // too many elements
      {{2, 4}, {int64_t{1} << 31, 1}, false},  // too far apart
      {{3, 4}, {int64_t{3} << 29, 1}, false},  //
  };
  for (const Shape& shape : shapes) {
    Layout layout{};
    layout.dims = static_cast<int>(shape.sizes.size());
    int64_t numel = 1;
    for (int d = 0; d < layout.dims; ++d) {
      layout.sizes[d] = shape.sizes[static_cast<size_t>(d)];
      numel *= layout.sizes[d];
      for (auto& strides : layout.strides) strides[d] = shape.strides[static_cast<size_t>(d)];
    }
    Walk walk;
    const auto all = [](int) { return true; };
    CHECK(find_walk(layout, numel, all, walk) == shape.is_walked, "a layout of %d dimensions", layout.dims);
    if (!shape.is_walked) continue;
    CHECK(!walk.row_major_gradient, "gradient");
    for (uint32_t i = 0; i < numel; ++i) {
      CHECK(walk.position(i) == position(layout, 0, i), "position of %u", i);
      uint32_t row[row_elements];
      walk.row_positions(i, row);
      for (uint32_t e = 0; e < row_elements && i + e < numel; ++e) {
        CHECK(row[e] == position(layout, 0, i + e), "position of %u in the row of %u", e, i);
      }
    }
    // A gradient in row-major order, then a state in an order of its own, which does not matter where it is not there.
    Layout other = layout;
    other.strides[gradient_operand][layout.dims - 1] = 1;
    for (int d = layout.dims - 1; d > 0; --d) {
      other.strides[gradient_operand][d - 1] = other.strides[gradient_operand][d] * other.sizes[d];
    }
    CHECK(find_walk(other, numel, all, walk) && walk.row_major_gradient, "gradient in row-major order");
    other.strides[state_operand][0] += 1;
    CHECK(!find_walk(other, numel, all, walk), "a state with strides of its own");
    CHECK(find_walk(other, numel, [](int o) { return o != state_operand; }, walk), "no state");
    other = layout;
    other.strides[gradient_operand][0] += 1;
    CHECK(!find_walk(other, numel, all, walk), "a gradient with strides of its own");
  }
}

// grad_scale divides the gradients, as on the CPU; found_inf stops everything: weights, states, records and counters.
static void scale_gradients() {
  const float grad_scale = 1024, none = 0, infinite = 1;
  for (const ScalarKind kind : {ScalarKind::float32, ScalarKind::float64, ScalarKind::float16}) {
    for (const float* found_inf : {&none, &infinite}) {
      const Case c{kind, kind == ScalarKind::float16, 2, false, 0, 0, 0.01f, 0.01f, false};
      std::vector<Parameter> mine = make_parameters(c, 4), theirs = make_parameters(c, 4),
                             before = make_parameters(c, 4);
      Table my_table(mine, c, hyper_of(c.rule, 0)), their_table(theirs, c, hyper_of(c.rule, 0));
      for (StepPlan* plan : {&my_table.plan, &their_table.plan}) {
        plan->grad_scale = &grad_scale;
        plan->found_inf = found_inf;
      }
      emulate(my_table);
      run_on_cpu(their_table);
      expect_equal("scaling", c, mine, found_inf == &infinite ? before : theirs);
      CHECK(mine[0].step == before[0].step + (found_inf == &none), "counter of a step that is skipped or not");
    }
  }
  // A scale that is a power of two changes nothing but the gradients' exponents.
  const Case c{ScalarKind::float32, false, 1, false, 0, 0, 0.01f, 0.01f, false};
  std::vector<Parameter> scaled = make_parameters(c, 4), plain = make_parameters(c, 4);
  for (Parameter& p : scaled) {
    auto* gradient = reinterpret_cast<float*>(start(p, c, gradient_operand));
    for (int64_t i = 0; i < p.numel; ++i) gradient[i] *= 1024.0f;
  }
  Table scaled_table(scaled, c, hyper_of(c.rule, 0)), plain_table(plain, c, hyper_of(c.rule, 0));
  scaled_table.plan.grad_scale = &grad_scale;
  emulate(scaled_table);
  emulate(plain_table);
  for (size_t n = 0; n < scaled.size(); ++n) {
    const size_t bytes = static_cast<size_t>(scaled[n].numel) * 4;
    CHECK(memcmp(start(scaled[n], c, 0), start(plain[n], c, 0), bytes) == 0, "grad_scale: tensor %zu", n);
  }
}

// The corrections against the library's pow, every step where the power is large and a sample of all the others.
static void compare_corrections() {
  const double settings[][3] = {{1e-2, 0.9, 0.999}, {1e-4, 0.9, 0.95}, {2e-3, 0.95, 0.98}, {1e-3, 0.5, 0.9999}};
  double worst = 0;
  int64_t different = 0, steps = 0;
  for (const auto& [lr, beta1, beta2] : settings) {
    const double raw[] = {lr, beta1, beta2, 1e-8, 0, 0, 0};
    for (int64_t step = 1; step <= 10000000; step += step < 100000 ? 1 : 997, ++steps) {
      const auto mine = Adam<false>::scalars<double>(raw, step);
      const double size = lr / (1 - std::pow(beta1, static_cast<double>(step)));
      const double root = 1 / std::sqrt(1 - std::pow(beta2, static_cast<double>(step)));
      worst = std::max({worst, std::abs(mine.step_size / size - 1), std::abs(mine.root_scale / root - 1)});
      different += static_cast<float>(mine.step_size) != static_cast<float>(size) ||
                   static_cast<float>(mine.root_scale) != static_cast<float>(root);
    }
  }
  CHECK(worst < 1e-11, "corrections are off by %g", worst);
  CHECK(different == 0, "corrections differ from pow's in float32 at %lld steps", static_cast<long long>(different));
  std::printf("corrections: within %.1e of pow's, the same in float32 at all of %lld steps\n", worst,
              static_cast<long long>(steps));
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
        for (uint32_t cta = 0; cta < (superblocks + superblocks_per_round - 1) / superblocks_per_round; ++cta) {
          for (int thread = 0; thread < threads_per_cta; ++thread) noise_thread(arguments, cta, thread, store);
        }
        portable_kernels.noise(key, distribution, 0.5f, offset, theirs, count);
        CHECK(memcmp(mine, theirs, sizeof mine) == 0, "noise: distribution %d offset %lld count %lld", distribution,
              static_cast<long long>(offset), static_cast<long long>(count));
      }
    }
  }
}

int main(int count, char** arguments) {
  if (count != 2) return 2;
  kind_count = std::atoi(arguments[1]);
  visit_every_element();
  plan_long_lists();
  divide();
  walk_layouts();
  compare_with_the_cpu();
  compare_cycles();
  replay();
  take_off_what_is_on();
  leave_clean_weights();
  share_a_counter();
  scale_gradients();
  compare_corrections();
  draw_noise();
  std::printf(failures == 0 ? "all equal\n" : "%d failures\n", failures);
  return failures != 0;
}
