// The layers' kernels for every processor.
#include "../math/lanes_portable.h"

#include "direction_kernel.h"

namespace nvrm {
namespace {

struct PortableMasks : PortableLanes {
  using M = bool;
  NVRM_INLINE static bool all(bool mask) { return mask; }
};

}  // namespace

extern const LayerKernels portable_layers = {
    "portable",
    local_kernel<PortableMasks, false>,
    local_kernel<PortableMasks, true>,
};

}  // namespace nvrm
