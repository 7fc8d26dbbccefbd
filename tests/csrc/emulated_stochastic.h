// Passes of stochastic layers in memory of their own, with their launches run thread by thread on the CPU, through
// the very code of the kernels (stochastic_thread.h). For layer_emulation.cpp.
#pragma once

#include "cuda/stochastic_launch.h"
#include "emulated_memory.h"

struct StochasticCase {
  ScalarKind storage;
  int64_t outer, neurons, inner, offset;
  Sums sums;
  bool backward, relu;
  int off;
  int64_t busy = 0;  // turns by hand, where it is not 0

  std::string name() const {
    char text[200];
    std::snprintf(text, sizeof text,
                  "stochastic %s, %s, %lld x %lld x %lld at %lld, sums %d, relu %d, off %d, turns %d",
                  backward ? "backward" : "forward", kinds[static_cast<int>(storage)], static_cast<long long>(outer),
                  static_cast<long long>(neurons), static_cast<long long>(inner), static_cast<long long>(offset),
                  static_cast<int>(sums), relu, off, static_cast<int>(busy));
    return text;
  }
  int64_t run() const { return neurons * inner; }
};

struct StochasticPass {
  StochasticCase c;
  int64_t seed = -(int64_t{1} << 62) - 12345;
  Buffer z, grad, weight, out, parts, cpu_out, cpu_parts;
  StochasticLaunch pass{}, neurons{};
  bool apart;

  explicit StochasticPass(const StochasticCase& made) : c(made) {
    std::mt19937 random(static_cast<uint32_t>(c.run() + c.outer));
    std::normal_distribution<float> normal;
    const int64_t count = c.outer * c.run();
    z.make(2 * count, c.storage, c.off);
    out.make(c.backward ? 2 * count : count, c.storage, c.off);
    cpu_out.make(out.count, c.storage, c.off);
    for (int64_t i = 0; i < z.count; ++i) z.set(i, normal(random) * (i % 97 == 5 ? 30.0f : 2.0f));
    if (c.backward) {
      grad.make(count, c.storage, c.off);
      for (int64_t i = 0; i < count; ++i) grad.set(i, normal(random));
      weight.make(c.sums == Sums::nothing  ? 0
                  : c.sums == Sums::neuron ? c.neurons
                                           : c.outer,
                  ScalarKind::float32, c.off);
      for (int64_t i = 0; i < weight.count; ++i) weight.set(i, normal(random));
    }
    StochasticArguments a = {};
    a.key = {&seed, 0xfffffffbu, 3};
    a.offset = c.offset;
    a.outer = c.outer;
    a.run = c.run();
    a.inner = c.inner;
    a.relu = c.relu;
    a.margin = 0.4f;
    a.storage = c.storage;
    a.z = z.data();
    a.grad = c.backward ? grad.data() : nullptr;
    a.weight = c.backward ? weight.floats() : nullptr;
    a.out = out.data();
    apart = !c.backward && c.sums == Sums::neuron && !adds_neurons(a);
    pass = cut_pass(a, sums_in_pass());
    neurons = cut_neuron_sums(a);
    if (c.busy != 0) {
      take_turns(pass, c.busy, pass.arguments.row_lanes, c.outer, 1, pass.arguments.column_tiles);
      if (c.sums == Sums::neuron)
        pass.parts = ceil_div(c.outer, pass.arguments.row_lanes * c.busy) * pass.arguments.row_lanes;
    }
    if (!c.backward && c.sums != Sums::nothing) {
      const int64_t count_of_one = c.sums == Sums::neuron ? c.run() : c.outer;
      parts.make((apart ? neurons : pass).parts * count_of_one, ScalarKind::float32, 0);
      pass.arguments.parts = neurons.arguments.parts = parts.floats();
    }
  }
  StochasticPass(const StochasticPass&) = delete;

  Sums sums_in_pass() const { return apart ? Sums::nothing : c.sums; }

  template <Sums sums, bool backward>
  void emulate_pass() {
    static StochasticStore<sums, backward> store;
    for (int64_t cta = 0; cta < pass.ctas; ++cta) {
      memset(static_cast<void*>(&store), 0xa5, sizeof store);
      for (int t = 0; t < threads_per_cta; ++t)
        stochastic_thread<sums, backward>(pass.arguments, static_cast<uint32_t>(cta), t, store);
      if constexpr (!backward && are_of_objects<sums>) {
        for (int t = 0; t < threads_per_cta; ++t)
          add_objects<sums>(pass.arguments, static_cast<uint32_t>(cta), t, store);
      }
    }
  }
  template <Sums sums>
  void emulate_sums() {
    if (c.backward) {
      emulate_pass<sums, true>();
    } else {
      emulate_pass<sums, false>();
    }
  }
  void emulate() {
    switch (sums_in_pass()) {
      case Sums::nothing:
        emulate_sums<Sums::nothing>();
        break;
      case Sums::neuron:
        emulate_sums<Sums::neuron>();
        break;
      case Sums::sample:
        emulate_sums<Sums::sample>();
        break;
      case Sums::element:
        emulate_sums<Sums::element>();
        break;
      case Sums::divergence:
        emulate_sums<Sums::divergence>();
        break;
    }
    if (!apart) return;
    for (int64_t cta = 0; cta < neurons.ctas; ++cta) {
      for (int t = 0; t < threads_per_cta; ++t) add_neurons(neurons.arguments, static_cast<uint32_t>(cta), t);
    }
  }

  void run_on_cpu() {
    StochasticPlan plan = {};
    plan.key = philox_schedule(pass.arguments.key.read());
    plan.offset = c.offset;
    plan.outer = c.outer;
    plan.neurons = c.neurons;
    plan.inner = c.inner;
    plan.relu = c.relu;
    plan.margin = 0.4f;
    plan.storage = c.storage;
    plan.z = z.data();
    plan.grad = c.backward ? grad.data() : nullptr;
    plan.weight = c.backward ? weight.floats() : nullptr;
    plan.out = cpu_out.data();
    cpu_parts.make(c.backward || c.sums == Sums::nothing ? 0
                   : c.sums == Sums::neuron              ? plan.tiles() * c.neurons
                                                         : c.outer,
                   ScalarKind::float32, 0);
    plan.sums = cpu_parts.floats();
    (c.backward ? portable_kernels.stochastic_backward : portable_kernels.stochastic_forward)(c.sums, plan, 0,
                                                                                              plan.tiles());
  }
};
