// The CUDA step on the CPU: the host's launch plan, then every thread of every group of every launch, through the very
// code of the kernel (step_thread.h). First with marks for data, to see that each element is visited exactly once, by
// the right Philox block and lane; then with numbers, against the CPU kernels, bit for bit.
#include "emulated_launch.h"

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
            static_cast<int>(c.kind), c.has_master, c.keep_noise, c.distribution_off, c.distribution_on, c.is_first, n,
            o);
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
        Case c{kind,         master != 0, 1,     turn % 4 == 3, (distribution + turn % 2) % 3,
               distribution, 0.02f,       0.01f, turn % 5 == 0};
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
      const int64_t first =
          t.offset / superblock_size + int64_t{group - t.first_group} * launch.header.rounds * superblocks_per_round;
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
        CHECK(memcmp(&launch.layout(t.layout), table.entries[n].layout, sizeof(Layout)) == 0, "layout of tensor %zu",
              n);
      }
      const int64_t per_group = int64_t{launch.header.rounds} * superblocks_per_round;
      groups += static_cast<uint32_t>((superblocks_of(table.entries[n]) + per_group - 1) / per_group);
      for (uint32_t g = t.first_group; g < groups; ++g) CHECK(launch.tensor_of(g) == i, "search");
    }
    CHECK(groups == launch.header.group_count, "group count");
  });
  for (size_t n = 0; n < list.size(); ++n)
    CHECK(seen[n] == (list[n].numel > 0), "tensor %zu seen %d times", n, seen[n]);
  std::printf(
      "table: %d bytes of arguments, %zu a tensor, %zu tensors a launch; %zu tensors (%d strided) in %d launches\n",
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
      std::vector<Parameter> mine = make_parameters(c, 4), theirs = make_parameters(c, 4),
                             before = make_parameters(c, 4);
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

// The corrections against the library's pow, every step where the power is large and a sample of all the others.
static void compare_corrections() {
  const AdamCorrections settings[] = {adam, {1e-4, 0.9, 0.95}, {2e-3, 0.95, 0.98}, {1e-3, 0.5, 0.9999}};
  double worst = 0;
  int64_t different = 0, steps = 0;
  for (const AdamCorrections& a : settings) {
    for (int64_t step = 1; step <= 10000000; step += step < 100000 ? 1 : 997, ++steps) {
      const AdamScalars mine = adam_scalars(a, step);
      const double size = a.lr / (1 - std::pow(a.beta1, static_cast<double>(step)));
      const double root = 1 / std::sqrt(1 - std::pow(a.beta2, static_cast<double>(step)));
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
