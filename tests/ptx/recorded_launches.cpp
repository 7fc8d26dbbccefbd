// The launches of many steps, as the host would make them, with all memory that they touch before and, by the CPU's
// kernels, after: written to a file for test_ptx.py, which runs nvcc's PTX in their place. Nothing of CUDA is linked.
#include "../csrc/emulated_launch.h"
#include "recording.h"

// All that the kernels of this table may touch, every tensor no longer than it is.
static std::vector<Piece> pieces_of(std::vector<Parameter>& list, const Case& c, const Table& table) {
  std::vector<Piece> found;
  for (Parameter& p : list) {
    for (int o = 0; o < operand_count; ++o) {
      if (has_operand(c, o)) found.push_back({start(p, c, o), static_cast<size_t>(p.numel * operand_bytes(c, o))});
    }
    found.push_back({p.record, sizeof p.record});
    if (c.rule == no_rule) found.push_back({p.target, sizeof p.target});
    if (c.rule >= 0) found.push_back({&p.step, sizeof p.step});
    found.push_back({p.measures.data(), p.measures.size() * sizeof(float)});
    found.push_back({p.sums.data(), p.sums.size() * sizeof(int64_t), true});
    found.push_back({p.left.data(), p.left.size() * sizeof(int64_t), true});
    if (c.scales_on_device) found.push_back({&p.scale, sizeof p.scale});
  }
  if (table.plan.hyper_tensor != nullptr) found.push_back({table.plan.hyper_tensor, table.hyper.size() * 8});
  if (table.plan.grad_scale != nullptr) found.push_back({table.plan.grad_scale, 4});
  if (table.plan.found_inf != nullptr) found.push_back({table.plan.found_inf, 4});
  return found;
}

static const char* const kinds[] = {"float32", "float64", "bfloat16", "float16"};

static void record(const Case& c, int turn) {
  static const float grad_scale = 4.0f, is_inf = 1.0f, is_finite = 0.0f;
  constexpr int64_t most = 4224;  // 33 superblocks: a second CTA begins
  const auto seed = static_cast<uint32_t>(turn);
  std::vector<Parameter> mine = make_parameters(c, seed, most), theirs = make_parameters(c, seed, most);
  for (auto* list : {&mine, &theirs}) {  // so long a dimension that its division needs 64 bits
    (*list)[13].sizes = {1, int64_t{1} << 33};
    (*list)[13].strides = {0, 1};
  }
  Table my_table(mine, c, hyper_of(c.rule, turn)), their_table(theirs, c, hyper_of(c.rule, turn));
  for (Table* table : {&my_table, &their_table}) {
    if (c.rule >= 0 && turn % 2 == 1) table->plan.grad_scale = &grad_scale;
    if (c.rule >= 0 && turn % 4 == 1) table->plan.found_inf = turn % 8 == 5 && !c.has_measures ? &is_inf : &is_finite;
  }
  put_text("case");
  char name[200];
  std::snprintf(name, sizeof name, "%s, rule %d, %s, turn %d, measure %d", kinds[static_cast<int>(c.kind)], c.rule,
                c.has_master ? "master" : "in place", turn, c.measure);
  put_text(name);
  put_text(kinds[static_cast<int>(c.kind)]);
  put(c.rule);
  put(static_cast<int>(c.has_master));
  put(static_cast<int>(c.has_measures));
  put_pieces(pieces_of(mine, c, my_table));
  for_each_launch(my_table, [&](const LaunchTable& launch) {
    put_text("step");
    put(launch.header.cta_count);
    put_bytes(&launch, sizeof launch);
  });
  for_each_finish(my_table, [&](const FinishTable& finish) {
    put_text("finish");
    put(finish.count);
    put_bytes(&finish, sizeof finish);
  });
  const auto no_places = std::vector<RecordPlace>{};
  const auto& places = c.rule == only_measure ? no_places : my_table.places;
  for_each_record_table(places, my_table.plan, [&](const RecordTable& table, bool writes, bool counts) {
    put_text("records");
    put(static_cast<int>(writes));
    put(static_cast<int>(counts));
    put_bytes(&table, sizeof table);
  });
  put_text("end");
  run_on_cpu(their_table);
  put_pieces(pieces_of(theirs, c, their_table));
}

static void record_noise() {
  const NoiseKey key{1, 2, 3, 4};
  for (int distribution = 0; distribution < distribution_count; ++distribution) {
    for (int64_t offset : {int64_t{0}, int64_t{131}, (int64_t{1} << 36) - 77}) {
      for (int64_t count : {1, 5, 128, 9999}) {
        alignas(16) static float values[10016];
        const FillArguments arguments{philox_schedule(key), values, offset, count, 0.5f, distribution, offset % 4 == 0};
        const int64_t superblocks = (offset + count + 127) / 128 - offset / 128;
        put_text("noise");
        put(static_cast<uint32_t>((superblocks + superblocks_per_round - 1) / superblocks_per_round));
        put_bytes(&arguments, sizeof arguments);
        put(reinterpret_cast<uint64_t>(values));
        portable_kernels.noise(key, distribution, 0.5f, offset, values, count);
        put_bytes(values, static_cast<size_t>(count) * 4);
      }
    }
  }
}

// These rules, noise alone and a measuring, with measures; what is measured and options take turns.
static void record_relative(const std::string& rules, ScalarKind kind, bool has_master, int turn) {
  const int distribution = turn % distribution_count;
  Case c{kind, has_master, 0, false, (distribution + 1) % distribution_count, distribution, 0.2f, 0.1f, turn % 5 == 0};
  c.has_measures = true;
  c.scales_on_device = turn % 3 == 2;
  c.hyper_on_device = turn % 2 == 1;
  c.leaves_sums = turn % 3 == 1;
  c.cycle = turn % 2 == 1;
  if (c.cycle) c.distribution_off = distribution;
  c.measure = turn % 2 == 1 ? measure_rms : measure_absmax;
  const auto record_rules = [&] {
    for (const char code : rules) {
      c.rule = code - '0';
      record(c, turn);
    }
  };
  record_rules();
  c.rule = only_measure;
  c.only_clean = turn % 2 == 1;
  record(c, turn);
  c.measure = measure_nothing;
  c.rule = no_rule;
  record(c, turn);
  // Noise that stays, on masters that have measures from before.
  c.keep_noise = true;
  c.cycle = false;
  if (has_master && turn % 2 == 0) record_rules();
}

static Case case_of(ScalarKind kind, bool has_master, int turn) {
  const int distribution = turn % distribution_count, other = (distribution + turn % 2) % distribution_count;
  Case c{kind, has_master, 0, turn % 4 == 3, other, distribution, 0.02f, 0.01f, turn % 5 == 0};
  c.denoise_every = turn % 4 == 1 ? 2 : 0;
  c.scales_on_device = turn % 3 == 2;
  c.hyper_on_device = turn % 2 == 1;
  // Twice in three; what comes off and what goes on is then mostly one draw.
  c.cycle = !c.keep_noise && turn % 3 != 0;
  if (c.cycle) c.distribution_off = distribution;
  return c;
}

// Every rule on every kind, with and without master weights; distributions and options take turns. The shortest rule
// has one turn more in place. Arguments: the file, turns without measures, turns with measures, the codes of the rules
// that get those, in one word, and their kinds.
int main(int argc, char** argv) {
  out = std::fopen(argv[1], "wb");
  const int turns = std::atoi(argv[2]), relative_turns = std::atoi(argv[3]);
  const std::vector<std::string> relative_kinds(argv + 5, argv + argc);
  record_noise();
  int turn = 0, relative_turn = 0;
  for (int k = 0; k < 4; ++k) {
    for (int master = 0; master < 2; ++master) {
      for (int n = 0; n < turns; ++n, ++turn) {
        Case c = case_of(static_cast<ScalarKind>(k), master != 0, turn);
        for (c.rule = 0; c.rule < rule_count; ++c.rule) record(c, turn);
        c.rule = no_rule;
        c.keep_noise = false;
        record(c, turn);
      }
      if (!master) record(case_of(static_cast<ScalarKind>(k), false, turn), turn);
      const bool is_relative = std::count(relative_kinds.begin(), relative_kinds.end(), kinds[k]) != 0;
      for (int n = 0; n < relative_turns && is_relative; ++n, ++relative_turn) {
        record_relative(argv[4], static_cast<ScalarKind>(k), master != 0, relative_turn);
      }
    }
  }
  put_text("done");
  return std::fclose(out);
}
