// Launches of usual steps over one tensor, as a CTA of a long list runs them, for the cost model
// (helpers/gpu_model.py): Gaussian noise, which comes off and goes on; no option. Arguments: the file.
#include "../csrc/emulated_launch.h"
#include "recording.h"

static const char* const kinds[] = {"float32", "float64", "bfloat16", "float16"};
static const char* const orders[] = {"contiguous", "channels_last", "channels_last, gradient contiguous",
                                     "contiguous, not aligned"};

static Parameter make_parameter(const Case& c, int order) {
  Parameter p{};
  p.numel = order == 0 || order == 3 ? most_cta_elements : 14 * 576;  // of one CTA, in all of its rounds
  p.step = 5;
  NewNoise noise{};
  noise.cycle = c.cycle;
  write_words(p.record, c.scale_off, new_seed, c.distribution_off, 0, noise.draw_of(p.step), noise.turn_of(p.step));
  p.record[record_rule_steps] = p.step;
  p.record[record_numel] = p.numel;
  write_words(p.target, c.scale_on, new_seed, c.distribution_on, 0, noise.draw_of(p.step + 1),
              noise.turn_of(p.step + 1));
  p.misaligned = order == 3;
  if (order == 1 || order == 2) {  // 14 x 64 filters of 3 x 3
    p.sizes = {14, 64, 9};
    p.strides = {576, 1, 64};
    p.has_row_major_gradient = order == 2;
  }
  for (int o = 0; o < operand_count; ++o) {
    if (!has_operand(c, o)) continue;
    const int bytes = operand_bytes(c, o);
    p.data[o].resize(static_cast<size_t>(p.numel * bytes) + 2 * Parameter::margin + 16);
    for (int64_t i = 0; i < p.numel; ++i) {
      write_number(c, o, start(p, c, o) + i * bytes, static_cast<float>(i % 1000) * 1e-3f + 1e-3f);
    }
  }
  return p;
}

static std::vector<Piece> pieces_of(std::vector<Parameter>& list, const Case& c) {
  Parameter& p = list[0];
  std::vector<Piece> found = {{p.record, sizeof p.record}, {&p.step, sizeof p.step}, {p.target, sizeof p.target}};
  for (int o = 0; o < operand_count; ++o) {
    if (has_operand(c, o)) found.push_back({start(p, c, o), static_cast<size_t>(p.numel * operand_bytes(c, o))});
  }
  return found;
}

static void record(const Case& c, int order) {
  std::vector<Parameter> list;
  list.push_back(make_parameter(c, order));
  std::vector<double> raw = c.rule < 0 ? std::vector<double>{} : hyper_of(c.rule, 1);
  Table table(list, c, raw);
  put_text("case");
  put_text(std::string(orders[order]) + (c.cycle ? ", cycle" : ", independent"));
  put_text(kinds[static_cast<int>(c.kind)]);
  put(c.rule);
  put(static_cast<int>(c.has_master));
  put(0);
  put_pieces(pieces_of(list, c));
  for_each_launch(table, [&](const LaunchTable& planned) {
    static LaunchTable launch;
    launch = planned;
    launch.header.rounds = most_rounds;
    launch.header.cta_count = 1;
    put_text("step");
    put(launch.header.cta_count);
    put_bytes(&launch, sizeof launch);
  });
  put_text("end");
  const Parameter before = list[0];
  run_on_cpu(table);
  // Records and counters are another launch's.
  memcpy(list[0].record, before.record, sizeof before.record);
  list[0].step = before.step;
  put_pieces(pieces_of(list, c));
}

int main(int, char** argv) {
  out = std::fopen(argv[1], "wb");
  for (int kind = 0; kind < 4; ++kind) {
    for (const bool master : {false, true}) {
      Case c{static_cast<ScalarKind>(kind), master, 0, false, 0, 0, 0.02f, 0.02f, false};
      for (c.rule = no_rule; c.rule < rule_count; ++c.rule) {
        for (int order = 0; order < 4; ++order) {
          for (const bool cycle : {false, true}) {
            // Orders and cycles are shown of float32 in place.
            if ((order > 0 || cycle) && (kind > 0 || master || c.rule == no_rule)) continue;
            if (order > 0 && cycle) continue;
            c.cycle = cycle;
            record(c, order);
          }
        }
      }
    }
  }
  put_text("done");
  return std::fclose(out);
}
