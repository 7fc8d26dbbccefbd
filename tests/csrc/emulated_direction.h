// Passes of layers with noise on directions in memory of their own, with their launches run thread by thread on the
// CPU, through the very code of the kernels (direction_thread.h). For layer_emulation.cpp.
#pragma once

#include "cuda/direction_launch.h"
#include "emulated_memory.h"

struct DirectionCase {
  ScalarKind storage;
  int law;
  Magnitude magnitude;
  int64_t outer, neurons, inner, groups;
  int fan_in;
  bool given, backward;
  int64_t offset;
  int off;
  int64_t busy = 0;
  float alpha = 0.5f;

  std::string name() const {
    char text[240];
    std::snprintf(text, sizeof text,
                  "direction %s, %s, law %d, magnitude %d, %lld x %lld x %lld in %lld groups at %lld, fan-in %d, given "
                  "%d, off %d, turns %d",
                  backward ? "backward" : "forward", kinds[static_cast<int>(storage)], law, static_cast<int>(magnitude),
                  static_cast<long long>(outer), static_cast<long long>(neurons), static_cast<long long>(inner),
                  static_cast<long long>(groups), static_cast<long long>(offset), fan_in, given, off,
                  static_cast<int>(busy));
    return text;
  }
};

static GammaScalars gamma_scalars(double shape) {
  const double d = (shape >= 1 ? shape : shape + 1) - 1.0 / 3;
  return {static_cast<float>(d), static_cast<float>(1 / std::sqrt(9 * d)),
          static_cast<float>(d >= 12 ? 1 / (54 * d) : 0)};
}

static LayerScalars scalars_of(const DirectionCase& c) {
  const double shape = (c.fan_in - 1) / 2.0, gamma_shape = 1.0 / c.alpha;
  LayerScalars at = {};
  at.fan_in = c.fan_in;
  at.tangent_rate = c.fan_in > 3 ? 1.0f / static_cast<float>(c.fan_in - 3) : 0.0f;
  at.sphere_rate = c.fan_in > 2 ? 1.0f / static_cast<float>(c.fan_in - 2) : 0.0f;
  at.fan_in_less_one = static_cast<float>(c.fan_in - 1);
  at.chi = gamma_scalars(shape);
  at.chi_two_d = 2 * at.chi.d;
  at.gamma = gamma_scalars(gamma_shape);
  at.gamma_scale = c.alpha * at.gamma.d;
  at.gamma_alpha = c.alpha;
  at.gamma_boost = c.alpha > 1;
  at.low = -1.4f;
  at.high = 1.5f;
  return at;
}

// The rows of constants of a neuron, as nvrm_fast/reference/angles.py has them; parameter: about 1.
static std::vector<float> constants_of(const DirectionCase& c, double parameter) {
  std::vector<double> rows;
  if (c.law == 1 || c.law == 2) rows = {std::sqrt(0.3 * parameter)};
  if (c.law == 3) {
    const double mean = 0.2 * parameter, deviation = 0.5 * parameter;
    const double a = (-1.4 - mean) / deviation, b = (1.5 - mean) / deviation;
    const double e_low = std::erf(a / std::sqrt(2.0)), e_high = std::erf(b / std::sqrt(2.0));
    rows = {mean, deviation, e_low, e_high, e_high - e_low, 1 - e_high, 1 + e_low, a, b};
  }
  if (c.law == 4) rows = {1 / (0.7 * parameter)};
  if (c.law == 5) {
    const double kappa = 5 * parameter, n = c.fan_in - 1, b = n / (2 * kappa + std::sqrt(4 * kappa * kappa + n * n));
    rows = {(1 - b) / (1 + b), 2 * std::sqrt(b) / (1 + b)};
  }
  CHECK(rows.size() == static_cast<size_t>(law_sizes[c.law].rows), "constants of law %d", c.law);
  return {rows.begin(), rows.end()};
}

struct DirectionPass {
  DirectionCase c;
  int64_t seed = 12345;
  LayerScalars scalars;
  Buffer s, grad, sq_norm, out, tangent, neuron_part, sq_norm_part, parameters[5];
  Buffer cpu_out, cpu_tangent, cpu_neuron_part, cpu_sq_norm_part;
  DirectionLaunch pass{};

  explicit DirectionPass(const DirectionCase& made) : c(made), scalars(scalars_of(made)) {
    std::mt19937 random(static_cast<uint32_t>(c.neurons + c.outer));
    std::uniform_real_distribution<float> uniform;
    const int64_t count = c.outer * c.neurons * c.inner;
    const bool directed = c.law != 0;
    s.make(count, c.storage, c.off);
    out.make(count, c.storage, c.off);
    cpu_out.make(count, c.storage, c.off);
    for (int64_t i = 0; i < count; ++i) s.set(i, uniform(random) - 0.5f);
    if (c.backward) {
      grad.make(count, c.storage, c.off);
      for (int64_t i = 0; i < count; ++i) grad.set(i, uniform(random) - 0.5f);
    }
    if (directed) {
      sq_norm.make(c.given ? count : c.outer * c.groups * c.inner, ScalarKind::float32, c.off);
      // Some inputs are shorter than their product says: parallel to the direction, but for rounding.
      for (int64_t i = 0; i < sq_norm.count; ++i) sq_norm.set(i, i % 7 == 3 ? 0.001f : 0.1f + uniform(random));
    }
    for (int k = 0; k < 5; ++k) {
      parameters[k].make(c.neurons * (k < 4 ? 1 : law_sizes[c.law].rows), ScalarKind::float32, 0);
    }
    for (int64_t n = 0; n < c.neurons; ++n) {
      for (int k = 0; k < 4; ++k) parameters[k].set(n, 0.5f + uniform(random));
      const std::vector<float> constants = constants_of(c, 0.5 + static_cast<double>(uniform(random)));
      for (size_t k = 0; k < constants.size(); ++k)
        parameters[4].set(static_cast<int64_t>(k) * c.neurons + n, constants[k]);
    }
    DirectionArguments a = {};
    a.key = {&seed, 7, 11};
    a.offset = c.offset;
    a.scalars = scalars;
    a.magnitude = c.magnitude;
    a.tangent_given = c.given;
    a.slopes = c.backward && c.off == 0;
    a.outer = c.outer;
    a.neurons = c.neurons;
    a.inner = c.inner;
    a.groups = c.groups;
    a.scale = parameters[0].floats();
    a.magnitude_mean = parameters[1].floats();
    a.magnitude_std = c.magnitude == Magnitude::none ? nullptr : parameters[2].floats();
    a.bias = has_bias() ? parameters[3].floats() : nullptr;
    a.constants = parameters[4].floats();
    a.storage = c.storage;
    a.s = s.data();
    a.grad = c.backward ? grad.data() : nullptr;
    a.out = out.data();
    a.sq_norm = directed ? sq_norm.floats() : nullptr;
    if (c.backward && directed && c.given) {
      tangent.make(count, ScalarKind::float32, c.off);
      cpu_tangent.make(count, ScalarKind::float32, c.off);
      a.tangent = tangent.floats();
    }
    pass = cut_pass(a, directed);
    if (c.busy != 0) {
      const DirectionArguments& b = pass.arguments;
      take_turns(pass, c.busy, rows_per_turn, b.group_rows, c.groups, b.column_tiles);
      pass.arguments.row_tiles = ceil_div(b.group_rows, rows_per_turn * c.busy);
      const int64_t row_tiles = c.groups * b.row_tiles;
      pass.neuron_parts = b.by_neuron ? row_tiles : b.column_tiles;
      pass.sq_norm_parts = b.by_neuron ? b.column_tiles : row_tiles;
    }
    if (!c.backward) return;
    neuron_part.make(pass.neuron_parts * neuron_sums * c.neurons, ScalarKind::float32, 0);
    pass.arguments.neuron_part = neuron_part.floats();
    if (directed && !c.given) {
      sq_norm_part.make(pass.sq_norm_parts * c.outer * c.inner, ScalarKind::float32, 0);
      pass.arguments.sq_norm_part = sq_norm_part.floats();
    }
  }
  DirectionPass(const DirectionPass&) = delete;

  bool has_bias() const { return c.outer % 2 == 1; }

  template <class Law, bool backward>
  void emulate_law() {
    using Thread = DirectionThread<Law, backward>;
    static DirectionTile<backward> tile;
    const PhiloxSchedule key = philox_schedule(pass.arguments.key.read());
    for (int64_t cta = 0; cta < pass.ctas; ++cta) {
      memset(static_cast<void*>(&tile), 0xa5, sizeof tile);
      std::vector<Thread> threads;
      for (int t = 0; t < threads_per_cta; ++t)
        threads.emplace_back(pass.arguments, key, tile, static_cast<uint32_t>(cta), t);
      for (int turn = 0; threads[0].has_turn(turn); ++turn) {
        for (Thread& thread : threads) thread.read_tile(turn);
        for (Thread& thread : threads) thread.compute(turn);
        for (Thread& thread : threads) thread.write_tile(turn);
        if (!threads[0].adds_columns()) continue;
        for (Thread& thread : threads) thread.add_columns(turn);
      }
      for (Thread& thread : threads) thread.write_sums();
    }
  }
  void emulate() {
    switch (c.law) {
#define NVRM_CASE(code, Law) \
  case code:                 \
    return c.backward ? emulate_law<Law, true>() : emulate_law<Law, false>();
      NVRM_FOR_EACH_LAW(NVRM_CASE)
#undef NVRM_CASE
    }
  }

  void run_on_cpu() {
    const bool directed = c.law != 0;
    const std::vector<float> zeros(static_cast<size_t>(c.neurons), 0.0f);
    DirectionPlan plan = {};
    plan.key = philox_schedule(pass.arguments.key.read());
    plan.offset = c.offset;
    plan.scalars = &scalars;
    plan.magnitude = static_cast<int>(c.magnitude);
    plan.tangent_given = c.given;
    plan.slopes = pass.arguments.slopes;
    plan.outer = c.outer;
    plan.neurons = c.neurons;
    plan.inner = c.inner;
    plan.groups = c.groups;
    plan.padded = c.neurons;  // the portable kernels take a neuron at a time
    plan.scale = parameters[0].floats();
    plan.magnitude_mean = parameters[1].floats();
    plan.magnitude_std = parameters[2].floats();
    plan.bias = has_bias() ? parameters[3].floats() : zeros.data();
    plan.constants = parameters[4].floats();
    plan.storage = c.storage;
    plan.s = s.data();
    plan.grad = c.backward ? grad.data() : nullptr;
    plan.out = cpu_out.data();
    plan.sq_norm = directed ? sq_norm.floats() : nullptr;
    plan.tangent = c.backward && directed && c.given ? cpu_tangent.floats() : nullptr;
    if (c.backward) {
      cpu_neuron_part.make(plan.neuron_parts() * neuron_sums * c.neurons, ScalarKind::float32, 0);
      plan.neuron_part = cpu_neuron_part.floats();
      if (directed && !c.given) {
        cpu_sq_norm_part.make(plan.sq_norm_parts() * c.outer * c.inner, ScalarKind::float32, 0);
        plan.sq_norm_part = cpu_sq_norm_part.floats();
      }
    }
    (c.backward ? portable_kernels.direction_backward : portable_kernels.direction_forward)(c.law, plan, 0,
                                                                                            plan.tiles());
  }
};
