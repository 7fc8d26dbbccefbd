// Loops on torch's own threads.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace nvrm {

// torch_parallel_for of torch's C library (torch/csrc/stable/c/shim.h, since 2.10; a stable ABI). Returns 0.
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, void (*run)(int64_t, int64_t, void*),
                                void* context);

// To be set before the first loop.
inline ParallelFor torch_parallel_for = nullptr;

// run(begin, end) on disjoint parts of [begin, end), each at least `grain` long, by the threads that
// torch.set_num_threads governs. run must not throw.
template <class Run>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Run& run) {
  const auto call = [](int64_t from, int64_t to, void* context) { (*static_cast<const Run*>(context))(from, to); };
  if (torch_parallel_for(begin, end, grain, call, const_cast<Run*>(&run)) != 0) {
    throw std::runtime_error("the parallel loop failed");
  }
}

}  // namespace nvrm
