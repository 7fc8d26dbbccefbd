#include "select.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace nvrm {
namespace {

std::vector<const CpuKernels*> available() {
  std::vector<const CpuKernels*> kernels = {&portable_kernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
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

const CpuKernels& cpu_kernels() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> available_instruction_sets() {
  std::vector<std::string> names;
  for (const CpuKernels* kernels : available()) names.emplace_back(kernels->name);
  return names;
}

void use_instruction_set(const std::string& name) { current().store(find(name), std::memory_order_relaxed); }

}  // namespace nvrm
