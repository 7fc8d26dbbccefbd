// The laws of the angle, as the host knows them: codes and sizes, no arithmetic. The laws themselves: angle_law.h.
#pragma once

namespace nvrm {

// Code in operator arguments (never renumber; nvrm_fast/reference/angles.py has the same), struct in angle_law.h,
// rows of constants for each neuron, parameters that have gradients.
// clang-format off
#define NVRM_FOR_EACH_LAW(visit)  \
  visit(0, NoDirection, 0, 0)     \
  visit(1, Projected, 1, 1)       \
  visit(2, Tangent, 1, 1)         \
  visit(3, Rotation, 9, 2)        \
  visit(4, BetaRotation, 1, 1)    \
  visit(5, VonMisesFisher, 2, 0)
// clang-format on

#define NVRM_SIZE(code, Law, rows_, parameters_)   \
  struct Law##Size {                               \
    static constexpr int rows = rows_;             \
    static constexpr int parameters = parameters_; \
  };
NVRM_FOR_EACH_LAW(NVRM_SIZE)
#undef NVRM_SIZE

struct LawSize {
  int code, rows, parameters;
};

constexpr LawSize law_sizes[] = {
#define NVRM_SIZE(code, Law, rows, parameters) {code, rows, parameters},
    NVRM_FOR_EACH_LAW(NVRM_SIZE)
#undef NVRM_SIZE
};
constexpr int law_count = sizeof(law_sizes) / sizeof(law_sizes[0]);

constexpr bool codes_count_up() {
  for (int i = 0; i < law_count; ++i) {
    if (law_sizes[i].code != i) return false;
  }
  return true;
}
static_assert(codes_count_up(), "the laws are listed in the order of their codes, from 0");

}  // namespace nvrm
