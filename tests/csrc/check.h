// What the emulations check: a failure is printed, and after twenty the program ends.
#pragma once

#include <cstdio>
#include <cstdlib>

static int failures = 0;
#define CHECK(condition, ...)                     \
  do {                                            \
    if (!(condition)) {                           \
      std::printf("%s:%d: ", __FILE__, __LINE__); \
      std::printf(__VA_ARGS__);                   \
      std::printf("\n");                          \
      if (++failures > 20) std::exit(1);          \
    }                                             \
  } while (0)
