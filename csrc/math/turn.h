// Quarter turns of a draw: a word's two values (x, y) become (-y, x), (-x, -y), (y, -x). One draw serves four steps so
// (nvrm_fast/contract/cycles.py).
#pragma once

#include "lanes.h"

namespace nvrm {

constexpr int turn_count = 4;

// Signs cost nothing: they go into the scale that multiplies the values anyway, and the product's bits are the same.
struct TurnedScale {
  float even;     // of the value that the word's even lane gets
  float odd;      // of that of the odd one
  bool exchange;  // the even lane gets the word's second value, the odd one its first
};

NVRM_INLINE TurnedScale turned_scale(float scale, int turn) {
  return {turn == 1 || turn == 2 ? -scale : scale, turn >= 2 ? -scale : scale, (turn & 1) != 0};
}

}  // namespace nvrm
