// Several calls of nvrm_fast::step_ straight from Python. torch's dispatcher takes most of a step's time over a hundred
// small tensors, to make its own lists of Python's; and here all calls are checked before the first one writes.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

namespace nvrm {

// calls: StepArguments of nvrm_fast/contract/arguments.py. Every tensor must be torch.Tensor or Parameter itself, and
// no transform or mode may be at work that has to see the operator: whoever calls has made sure of it.
// Raises as step_, and TypeError for other tensors and for fields of another type; nothing has been written then.
// Returns a number for each call that tells (nearly always) whether its parameters lie where they lay before.
std::vector<int64_t> steps_from_python(const pybind11::list& calls);

}  // namespace nvrm
