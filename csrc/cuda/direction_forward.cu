// Noise on direction and magnitude: the pass after the product, for each law of the angle.
#include "direction_kernel.cuh"

namespace nvrm {

cudaError_t launch_direction(int law, const DirectionLaunch& launch, cudaStream_t stream) {
  return launch_law<false>(law, launch, stream);
}

}  // namespace nvrm
