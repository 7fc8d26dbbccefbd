// Noise on direction and magnitude: the gradients of the pass, for each law of the angle.
#include "direction_kernel.cuh"

namespace nvrm {

cudaError_t launch_direction_backward(int law, const DirectionLaunch& launch, cudaStream_t stream) {
  return launch_law<true>(law, launch, stream);
}

}  // namespace nvrm
