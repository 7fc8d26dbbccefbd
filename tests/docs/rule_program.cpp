// One step of the rule of docs/extend_rule.md by the CPU's own kernel. tests/docs/test_extend_rule.py compiles it with
// -DRULE_FILE="..." (the file with the struct), -DRULE=... (its name) and -DELEMENTS=... Standard input: float64
// hyper-parameters, then float32 vectors: parameters, gradients and each state. Standard output: parameters and states.
#include <cstdio>
#include <type_traits>
#include <vector>

// clang-format off: the kernel needs its lanes first
#include "math/lanes_portable.h"
#include "cpu/step_kernel.h"
// clang-format on

namespace nvrm {
#include RULE_FILE
}

using namespace nvrm;

int main() {
  constexpr int elements = ELEMENTS;
  double hyper[RULE::hyper_count];
  std::vector<std::vector<float>> data(2 + RULE::states, std::vector<float>(elements));
  if (std::fread(hyper, sizeof hyper, 1, stdin) != 1) return 1;
  for (auto& values : data) {
    if (std::fread(values.data(), 4, elements, stdin) != elements) return 1;
  }

  int64_t record[record_words] = {}, step = 0;
  TensorEntry entry{};
  entry.data[parameter_operand] = data[0].data();
  entry.data[gradient_operand] = data[1].data();
  for (int k = 0; k < RULE::states; ++k) entry.data[state_operand + k] = data[static_cast<size_t>(2 + k)].data();
  entry.numel = elements;
  entry.place.record = record;
  entry.place.step = &step;
  const int64_t first_superblock[] = {0, (elements + superblock_size - 1) / superblock_size};
  StepPlan plan{};
  plan.entries = &entry;
  plan.first_superblock = first_superblock;
  plan.entry_count = 1;
  plan.kind = ScalarKind::float32;
  plan.hyper = hyper;
  step_kernel<PortableLanes, RULE>(plan, 0, first_superblock[1]);

  for (size_t i = 0; i < data.size(); ++i) {
    if (i != 1) std::fwrite(data[i].data(), 4, elements, stdout);
  }
}
