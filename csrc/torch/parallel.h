// Loops on torch's own threads.
#pragma once

#include <c10/util/Exception.h>
#include <torch/csrc/stable/c/shim.h>

namespace nvrm {

// run(begin, end) on disjoint parts of [begin, end), each at least `grain` long, by the threads that
// torch.set_num_threads governs.
//
// Not at::parallel_for: its loop lies in a header, and is parallel only if this module is compiled with the same
// OpenMP as torch was. This one is compiled into torch. run must not throw.
template <class Run>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Run& run) {
  const auto call = [](int64_t from, int64_t to, void* context) { (*static_cast<const Run*>(context))(from, to); };
  TORCH_CHECK(torch_parallel_for(begin, end, grain, call, const_cast<Run*>(&run)) == 0, "the parallel loop failed");
}

}  // namespace nvrm
