// The scalar path of csrc/math without torch and without Python: prints what tests/csrc/test_headers.py expects.
#include <cstdio>

#include "distribution.h"
#include "philox.h"

using nvrm::ScalarLanes;

static void print_block(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  uint64_t words[4];
  nvrm::philox4x32<ScalarLanes>(uint64_t{c0}, c1, nvrm::philox_schedule({k0, k1, c2, c3}), words);
  for (uint64_t word : words) std::printf("%08x ", static_cast<uint32_t>(word));
  std::printf("\n");
}

int main() {
  print_block(0, 0, 0, 0, 0, 0);
  print_block(~0u, ~0u, ~0u, ~0u, ~0u, ~0u);
  print_block(0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u, 0xa4093822u, 0x299f31d0u);
  float first, second;
  nvrm::Uniform::values<ScalarLanes>(0x0000ffffu, &first, &second);
  std::printf("%a %a\n", first, second);
  return 0;
}
