// The kernels for every processor.
#include <type_traits>

#include "../math/lanes_portable.h"
#include "step_kernel.h"

namespace nvrm {

extern const CpuKernels portable_kernels = {
    "portable",
    noise_kernel<PortableLanes>,
    rule_kernel<PortableLanes>,
    reperturb_kernel<PortableLanes>,
};

}  // namespace nvrm
