// The kernels for every processor.
#include <type_traits>

#include "../math/lanes_portable.h"
#include "direction_kernel.h"
#include "step_kernel.h"
#include "stochastic_kernel.h"

namespace nvrm {

extern const CpuKernels portable_kernels = {
    "portable",
    noise_kernel<PortableLanes>,
    rule_kernel<PortableLanes>,
    reperturb_kernel<PortableLanes>,
    measure_kernel<PortableLanes>,
    direction_kernel<PortableLanes, false>,
    direction_kernel<PortableLanes, true>,
    stochastic_kernel<PortableLanes, false>,
    stochastic_kernel<PortableLanes, true>,
};

}  // namespace nvrm
