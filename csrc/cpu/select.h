// Which of the kernels runs: the widest that this processor has, unless the user names one.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cpu_kernels.h"

namespace nvrm {

const CpuKernels& cpu_kernels();

// The processor's features that decide, and whether it has them.
std::vector<std::pair<std::string, bool>> cpu_features();

// Names that use_instruction_set accepts here, narrowest first.
std::vector<std::string> available_instruction_sets();

// Raises std::invalid_argument for a name that is not available.
void use_instruction_set(const std::string& name);

}  // namespace nvrm
