// launch_emulation.cpp for parameters that have measures: relative noise and measuring, against the CPU's kernels, bit
// for bit.
#include "emulated_comparison.h"

// Relative noise, and measures: of steps, of noise alone, of a measuring.
static void compare_measures() {
  int turn = 0;
  for (ScalarKind kind : kinds) {
    for (int master = 0; master < 2; ++master) {
      for (int measure : {measure_rms, measure_absmax}) {
        Case c{kind, master != 0, 0, false, turn % 3, (turn + 1) % 3, 0.2f, 0.1f, turn % 5 == 0};
        c.has_measures = true;
        c.measure = measure;
        c.leaves_sums = turn % 3 == 1;
        for (c.rule = 0; c.rule < rule_count; ++c.rule) {
          c.denoise_every = turn % 4 == 1 ? 2 : 0;
          c.scales_on_device = turn % 3 == 2;
          c.cycle = turn % 2 == 1;
          if (c.cycle) c.distribution_off = c.distribution_on;
          compare<true>("relative step", c, turn, c.leaves_sums ? 1 : 2);
          ++turn;
        }
        c.rule = only_measure;
        for (c.only_clean = false;; c.only_clean = true) {
          compare<true>("measure", c, turn);
          if (c.only_clean) break;
        }
        c.only_clean = c.leaves_sums = false;
        c.measure = measure_nothing;
        c.rule = no_rule;
        compare<true>("relative reperturb", c, turn);
        c.rule = 1;
        compare<true>("absolute step with measures", c, turn);
      }
    }
  }
}

// Weights that are broken, and too large for their squares; a step that is skipped leaves the measures.
static void measure_extreme_weights() {
  const float none = 0, infinite = 1;
  for (int measure : {measure_rms, measure_absmax}) {
    for (const bool is_skipped : {false, true}) {
      Case c{ScalarKind::float32, false, 0, false, 0, 0, 0.1f, 0.1f, false};
      c.has_measures = true;
      c.measure = measure;
      std::vector<Parameter> lists[3] = {make_parameters(c, 9, 20011), make_parameters(c, 9, 20011),
                                         make_parameters(c, 9, 20011)};
      for (auto& list : lists) {
        const float extreme[] = {std::numeric_limits<float>::infinity(), 1e30f, -70000.0f, 1e-12f, NAN, 300.0f};
        for (size_t n = 0; n < list.size(); ++n) {
          auto* weights = reinterpret_cast<float*>(start(list[n], c, parameter_operand));
          for (int64_t i = 0; i < list[n].numel; i += 61) weights[i] = extreme[(static_cast<size_t>(i) + n) % 6];
        }
      }
      Table mine(lists[0], c, hyper_of(0, 0)), theirs(lists[1], c, hyper_of(0, 0));
      mine.plan.found_inf = theirs.plan.found_inf = is_skipped ? &infinite : &none;
      emulate<true>(mine);
      run_on_cpu(theirs);
      for (auto* list : {&lists[0], &lists[1], &lists[2]}) {  // NaN need not have the same bits
        for (Parameter& p : *list) {
          auto* weights = reinterpret_cast<float*>(start(p, c, parameter_operand));
          for (int64_t i = 0; i < p.numel; ++i) weights[i] = weights[i] == weights[i] ? weights[i] : 12345.0f;
        }
      }
      expect_equal("extreme weights", c, lists[0], is_skipped ? lists[2] : lists[1]);
    }
  }
}

int main() {
  compare_measures();
  measure_extreme_weights();
  std::printf(failures == 0 ? "all equal\n" : "%d failures\n", failures);
  return failures != 0;
}
