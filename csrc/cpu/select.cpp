#include "select.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace nvrm {
namespace {

#if defined(__x86_64__)
// Not every compiler's __builtin_cpu_supports knows this name (clang 14 does not). AVX2, which is asked for beside it,
// says that the system saves the registers.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

std::vector<const CpuKernels*> available() {
  std::vector<const CpuKernels*> kernels = {&portable_kernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    kernels.push_back(&avx2_kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      kernels.push_back(&avx512_kernels);
    }
  }
#endif
  return kernels;
}

const CpuKernels* find(const std::string& name) {
  std::string names;
  for (const CpuKernels* kernels : available()) {
    if (name == kernels->name) return kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("instruction set '" + name +
                              "' is not available on this processor; choose one of: " + names);
}

const CpuKernels* initial() {
  const char* wanted = std::getenv("NVRM_FAST_INSTRUCTION_SET");
  return wanted != nullptr && *wanted != '\0' ? find(wanted) : available().back();
}

std::atomic<const CpuKernels*>& current() {
  static std::atomic<const CpuKernels*> kernels{initial()};
  return kernels;
}

}  // namespace

std::vector<std::pair<std::string, bool>> cpu_features() {
  std::vector<std::pair<std::string, bool>> features;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define NVRM_FEATURE(name) features.emplace_back(name, static_cast<bool>(__builtin_cpu_supports(name)));
  NVRM_FEATURE("avx2")
  NVRM_FEATURE("fma")
  features.emplace_back("f16c", has_f16c());
  NVRM_FEATURE("avx512f")
  NVRM_FEATURE("avx512bw")
  NVRM_FEATURE("avx512dq")
  NVRM_FEATURE("avx512vl")
#undef NVRM_FEATURE
#endif
  return features;
}

const CpuKernels& cpu_kernels() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const CpuKernels* kernels : available()) names.emplace_back(kernels->name);
  return names;
}

void use_instruction_set(const std::string& name) { current().store(find(name), std::memory_order_relaxed); }

}  // namespace nvrm
