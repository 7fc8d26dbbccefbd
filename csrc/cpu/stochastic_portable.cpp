// Stochastic activations for every processor.
#include "../math/lanes_portable.h"

#include "stochastic_kernel.h"

namespace nvrm {

extern const StochasticKernels portable_stochastic = {
    "portable",
    stochastic_kernel<PortableLanes, false>,
    stochastic_kernel<PortableLanes, true>,
};

}  // namespace nvrm
