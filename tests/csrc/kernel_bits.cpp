// Prints hashes of what the portable kernels compute: noise of each distribution, then steps of each rule and type. For
// release/aarch64.sh, which compiles it for two processors and holds one output against the other.
#include "emulated_launch.h"

static uint64_t hash = 0;

// FNV-1a
static void add(const void* bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) hash = (hash ^ static_cast<const unsigned char*>(bytes)[i]) * 0x100000001b3u;
}

static void print(const char* what, int a, int b, int c) {
  std::printf("%s %d %d %d %016llx\n", what, a, b, c, static_cast<unsigned long long>(hash));
  hash = 0xcbf29ce484222325u;
}

static void add(std::vector<Parameter>& list, const Case& c) {
  for (Parameter& p : list) {
    for (int o = 0; o < operand_count; ++o) {
      if (has_operand(c, o)) add(start(p, c, o), static_cast<size_t>(p.numel * operand_bytes(c, o)));
    }
    add(p.record, sizeof p.record);
  }
}

int main() {
  std::vector<float> noise(100003);
  for (int distribution = 0; distribution < distribution_count; ++distribution) {
    portable_kernels.noise(key_of(7, 3, 5), distribution, 0.5f, 11, noise.data(), static_cast<int64_t>(noise.size()));
    add(noise.data(), noise.size() * sizeof noise[0]);
    print("noise", distribution, 0, 0);
  }
  int turn = 0;
  for (ScalarKind kind : {ScalarKind::float32, ScalarKind::float64, ScalarKind::bfloat16, ScalarKind::float16}) {
    for (const bool master : {false, true}) {
      for (int rule = 0; rule < rule_count; ++rule, ++turn) {
        const Case c{kind, master, rule, false, turn % 3, turn % distribution_count, 0.02f, 0.01f, turn % 2 == 0};
        std::vector<Parameter> list = make_parameters(c, 1);
        add(list, c);
        print("before", static_cast<int>(kind), master, rule);
        Table table(list, c, hyper_of(rule, turn));
        for (int step = 0; step < 3; ++step) run_on_cpu(table);
        add(list, c);
        print("three-steps", static_cast<int>(kind), master, rule);
      }
    }
  }
  return failures != 0;
}
