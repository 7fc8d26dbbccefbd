#include "select.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace nvrm {
namespace {

std::vector<const CpuKernels*> available() {
  std::vector<const CpuKernels*> kernels = {&portable_kernels};
#if defined(__x86_64__)
  bool all = true;
  for (const auto& [name, there] : cpu_features()) {
    all = all && there;
    if (all && name == "f16c") kernels.push_back(&avx2_kernels);
    if (all && name == "avx512vl") kernels.push_back(&avx512_kernels);
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
#if defined(__x86_64__)
  // By cpuid itself: __builtin_cpu_supports knows other names in each compiler, and needs a library that clang does not
  // link on Windows.
  unsigned a, b, c, d, leaf1 = 0, leaf7 = 0, saved = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) leaf1 = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) leaf7 = b;
  if (leaf1 & bit_OSXSAVE) __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
  // Whether the system saves the registers: xmm and ymm, and besides the mask registers and both parts of zmm.
  const bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6;
  // Those of AVX2's kernels first: available() counts on it.
  return {{"avx2", ymm && (leaf7 & bit_AVX2)},         {"fma", ymm && (leaf1 & bit_FMA)},
          {"f16c", ymm && (leaf1 & bit_F16C)},         {"avx512f", zmm && (leaf7 & bit_AVX512F)},
          {"avx512bw", zmm && (leaf7 & bit_AVX512BW)}, {"avx512dq", zmm && (leaf7 & bit_AVX512DQ)},
          {"avx512vl", zmm && (leaf7 & bit_AVX512VL)}};
#else
  return {};
#endif
}

const CpuKernels& cpu_kernels() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const CpuKernels* kernels : available()) names.emplace_back(kernels->name);
  return names;
}

void use_instruction_set(const std::string& name) { current().store(find(name), std::memory_order_relaxed); }

}  // namespace nvrm
