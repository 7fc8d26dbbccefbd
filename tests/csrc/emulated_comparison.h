// Emulated launches against the CPU's kernels. For launch_emulation.cpp and measure_emulation.cpp.
#pragma once

#include "emulated_launch.h"

static __int128 integer_of(const int64_t* sum) { return (__int128{sum[2]} << 64) + (__int128{sum[1]} << 32) + sum[0]; }

// Every byte of every operand, the records and the counters must agree, and no byte outside may be written.
static void expect_equal(const char* what, const Case& c, std::vector<Parameter>& mine,
                         std::vector<Parameter>& theirs) {
  for (size_t n = 0; n < mine.size(); ++n) {
    for (int o = 0; o < operand_count; ++o) {
      if (!has_operand(c, o)) continue;
      const ptrdiff_t lead = start(mine[n], c, o) - mine[n].data[o].data();
      const ptrdiff_t their_lead = start(theirs[n], c, o) - theirs[n].data[o].data();
      const size_t bytes = static_cast<size_t>(mine[n].numel * operand_bytes(c, o));
      const bool same = memcmp(mine[n].data[o].data() + lead, theirs[n].data[o].data() + their_lead, bytes) == 0;
      CHECK(same, "%s: rule %d kind %d master %d keep %d dist %d/%d first %d: tensor %zu operand %d differs", what,
            c.rule, static_cast<int>(c.kind), c.has_master, c.keep_noise, c.distribution_off, c.distribution_on,
            c.is_first, n, o);
      for (size_t b = 0; b < mine[n].data[o].size(); ++b) {
        if (b == static_cast<size_t>(lead)) b += bytes;
        CHECK(mine[n].data[o][b] == 0xa5, "%s: tensor %zu operand %d: byte outside is written", what, n, o);
      }
    }
    CHECK(memcmp(mine[n].record, theirs[n].record, sizeof mine[n].record) == 0, "%s: record %zu differs", what, n);
    CHECK(mine[n].step == theirs[n].step, "%s: counter %zu differs", what, n);
    // As bytes: some measures are NaN. Words of sums may hold carries that belong to the next one.
    const size_t measures = mine[n].measures.size() * sizeof(float);
    CHECK(measures == 0 || memcmp(mine[n].measures.data(), theirs[n].measures.data(), measures) == 0,
          "%s: rule %d kind %d master %d measure %d: measures of %zu differ", what, c.rule, static_cast<int>(c.kind),
          c.has_master, c.measure, n);
    for (size_t row = 0; row < mine[n].left.size(); row += sum_words) {
      const int64_t *a = &mine[n].left[row], *b = &theirs[n].left[row];
      CHECK(integer_of(a) == integer_of(b) && a[not_finite_word] == b[not_finite_word], "%s: sums of %zu differ", what,
            n);
    }
  }
}

// The launches and the CPU, each on its own copies, `calls` times.
template <bool relative = false>
static void compare(const char* what, const Case& c, int turn, int calls = 1) {
  // Relative: rows end, and begin, in CTAs of both. Else one rule of a turn has tensors of many CTAs, the others fewer.
  const int64_t most = relative ? 20011 : c.rule < 0 || c.rule == turn % rule_count ? 70001 : 8321;
  std::vector<Parameter> mine = make_parameters(c, 1, most), theirs = make_parameters(c, 1, most);
  Table my_table(mine, c, hyper_of(c.rule, turn)), their_table(theirs, c, hyper_of(c.rule, turn));
  for (int call = 0; call < calls; ++call) {
    emulate<relative>(my_table);
    run_on_cpu(their_table);
  }
  expect_equal(what, c, mine, theirs);
}

static const ScalarKind kinds[] = {ScalarKind::float32, ScalarKind::float64, ScalarKind::bfloat16, ScalarKind::float16};
