// The layers' CUDA launches on the CPU: every thread of every CTA through the very code of the kernels, against the
// CPU's kernels. Activations and gradients bit for bit; sums, which are added in another order, within rounding.
#include "emulated_direction.h"
#include "emulated_stochastic.h"

// Totals over the parts: `of` gives the place of part p's number for sum n.
template <class At>
static std::vector<double> totals(const Buffer& parts, int64_t sums, int64_t count, At at) {
  std::vector<double> found(static_cast<size_t>(sums), 0.0);
  for (int64_t n = 0; n < sums; ++n) {
    for (int64_t p = 0; p < count; ++p)
      found[static_cast<size_t>(n)] += static_cast<const float*>(parts.data())[at(n, p)];
  }
  return found;
}

// added: how many numbers of about 1 each sum has.
static void expect_close(const std::string& name, const char* what, const std::vector<double>& mine,
                         const std::vector<double>& theirs, int64_t added) {
  for (size_t n = 0; n < mine.size(); ++n) {
    const double off = std::abs(mine[n] - theirs[n]);
    CHECK(off < 1e-5 + 1e-6 * static_cast<double>(added) + 1e-5 * std::abs(theirs[n]), "%s: %s %zu is %g, not %g",
          name.c_str(), what, n, mine[n], theirs[n]);
  }
}

static void expect_equal(const std::string& name, const char* what, const Buffer& mine, const Buffer& theirs) {
  CHECK(mine.size() == 0 || memcmp(mine.data(), theirs.data(), mine.size()) == 0, "%s: %s differs", name.c_str(), what);
  CHECK(mine.is_intact_outside(), "%s: %s: a byte outside is written", name.c_str(), what);
}

static void compare(const StochasticCase& c) {
  StochasticPass pass(c);
  pass.emulate();
  pass.run_on_cpu();
  expect_equal(c.name(), "out", pass.out, pass.cpu_out);
  CHECK(pass.parts.is_intact_outside(), "%s: a byte outside of the sums is written", c.name().c_str());
  if (c.backward || c.sums == Sums::nothing) return;
  const bool of_neurons = c.sums == Sums::neuron;
  const int64_t sums = of_neurons ? c.neurons : c.outer, places = of_neurons ? c.inner : 1;
  const int64_t parts = pass.parts.count / (sums * places);
  const auto mine = totals(pass.parts, sums, parts * places,
                           [&](int64_t n, int64_t p) { return p / places * sums * places + n * places + p % places; });
  const int64_t cpu_parts = pass.cpu_parts.count / sums;
  const auto theirs = totals(pass.cpu_parts, sums, cpu_parts, [&](int64_t n, int64_t p) { return p * sums + n; });
  expect_close(c.name(), "sum", mine, theirs, c.outer * c.run() / sums);
}

static void compare(const DirectionCase& c) {
  DirectionPass pass(c);
  pass.emulate();
  pass.run_on_cpu();
  expect_equal(c.name(), "out", pass.out, pass.cpu_out);
  if (!c.backward) return;
  expect_equal(c.name(), "tangent", pass.tangent, pass.cpu_tangent);
  for (const Buffer* parts : {&pass.neuron_part, &pass.sq_norm_part})
    CHECK(parts->is_intact_outside(), "%s: a byte outside of the sums is written", c.name().c_str());
  const int64_t sums = neuron_sums * c.neurons;
  const auto part_of = [&](int64_t n, int64_t p) { return p * sums + n; };
  expect_close(c.name(), "neuron's sum", totals(pass.neuron_part, sums, pass.neuron_part.count / sums, part_of),
               totals(pass.cpu_neuron_part, sums, pass.cpu_neuron_part.count / sums, part_of), c.outer * c.inner);
  if (pass.sq_norm_part.count == 0) return;
  const int64_t positions = c.outer * c.inner;
  const auto of_group = [&](const Buffer& parts) {
    const int64_t count = parts.count / positions / c.groups;
    return totals(parts, c.groups * positions, count,
                  [&](int64_t n, int64_t p) { return (n / positions * count + p) * positions + n % positions; });
  };
  expect_close(c.name(), "|x|^2", of_group(pass.sq_norm_part), of_group(pass.cpu_sq_norm_part), c.neurons / c.groups);
}

static const ScalarKind storages[] = {ScalarKind::float32, ScalarKind::bfloat16, ScalarKind::float16};

static int compare_stochastic() {
  struct Shape {
    int64_t outer, neurons, inner, offset, turns;
  };
  constexpr int64_t far = int64_t{1} << 36;
  const Shape shapes[] = {{5, 128, 1, 0, 0},   {40, 512, 1, 0, 3},  {3, 10, 1, 0, 0},      {40, 100, 1, 3, 16},
                          {4, 6, 49, 131, 2},  {2, 5, 100, 4, 0},   {2, 1, 5000, 0, 0},    {40, 256, 1, 77, 16},
                          {50, 64, 1, far, 2}, {9, 3, 256, 128, 2}, {1, 1, 1, far - 1, 0}, {7, 8, 2, 8, 0},
                          {2, 48, 128, 4, 2},  {600, 128, 1, 0, 0}, {3, 4, 5, 12, 0}};
  int turn = 0;
  for (const Shape& shape : shapes) {
    for (int sums = 0; sums < sums_count; ++sums) {
      for (const bool backward : {false, true}) {
        const ScalarKind storage = storages[turn % 3];
        compare(StochasticCase{storage, shape.outer, shape.neurons, shape.inner, shape.offset, static_cast<Sums>(sums),
                               backward, turn % 4 < 2, turn % 5 == 3 ? 1 : 0, shape.turns});
        ++turn;
      }
    }
  }
  return turn;
}

static int compare_direction() {
  struct Shape {
    int64_t outer, neurons, inner, groups, turns;
  };
  const Shape shapes[] = {{20, 300, 1, 1, 3}, {9, 128, 1, 1, 0}, {130, 10, 1, 1, 0}, {1, 6, 300, 3, 0},
                          {3, 40, 16, 1, 2},  {2, 10, 49, 2, 2}, {5, 64, 1, 2, 0},   {1, 1, 1, 1, 0},
                          {33, 66, 1, 1, 16}, {3, 18, 100, 1, 1}};
  const int fan_ins[] = {30, 2, 3, 4, 64};
  int turn = 0;
  for (const Shape& shape : shapes) {
    for (int law = 0; law < law_count; ++law) {
      for (int magnitude = 0; magnitude < 3; ++magnitude) {
        for (const bool backward : {false, true}) {
          // A law's options take turns, so that each meets each shape; a given tangent part has no groups.
          const bool given = law != 0 && shape.groups == 1 && turn % 5 == 4;
          const int64_t groups = law == 0 ? 1 : shape.groups;
          const int64_t offset = turn % 7 == 6 ? (int64_t{1} << 32) - 1001 : turn % 3;
          DirectionCase c{storages[turn % 3],
                          law,
                          static_cast<Magnitude>(magnitude),
                          shape.outer,
                          shape.neurons,
                          shape.inner,
                          groups,
                          fan_ins[turn % 5 == 4 ? turn / 5 % 5 : 0],
                          given,
                          backward,
                          offset,
                          turn % 4 == 3 ? 1 : 0,
                          shape.turns};
          c.alpha = turn % 2 == 0 ? 0.5f : 1.5f;
          compare(c);
          ++turn;
        }
      }
    }
    for (const int fan_in : fan_ins) {
      for (const int law : {1, 5}) {
        compare(DirectionCase{ScalarKind::float32, law, Magnitude::none, shape.outer, shape.neurons, shape.inner,
                              shape.groups, fan_in, false, true, 0, 0, shape.turns});
        ++turn;
      }
    }
  }
  return turn;
}

// Enough rows that a launch takes several turns by its own plan.
static void plan_long_passes() {
  StochasticArguments a = {};
  a.outer = 1 << 20;
  a.run = 512;
  a.inner = 1;
  const StochasticLaunch launch = cut_pass(a, Sums::neuron);
  CHECK(launch.arguments.turns == most_turns && launch.arguments.width == 4 && launch.arguments.row_lanes == 8,
        "turns %d", launch.arguments.turns);
  CHECK(launch.ctas == (1 << 20) / (8 * most_turns) && launch.parts == launch.ctas * 8, "CTAs");
  DirectionArguments d = {};
  d.outer = 1 << 16;
  d.neurons = 4096;
  d.inner = d.groups = 1;
  const DirectionLaunch pass = cut_pass(d, true);
  CHECK(pass.arguments.by_neuron && pass.arguments.turns == most_turns, "turns %d", pass.arguments.turns);
  CHECK(pass.ctas == 32 * (1 << 16) / (rows_per_turn * most_turns) && pass.sq_norm_parts == 32, "CTAs");
}

int main() {
  plan_long_passes();
  const int stochastic = compare_stochastic(), direction = compare_direction();
  std::printf("%d stochastic passes, %d with noise on directions\n", stochastic, direction);
  std::printf(failures == 0 ? "all equal\n" : "%d failures\n", failures);
  return failures != 0;
}
