// The layers' launches, for the glue that knows torch. Every function returns the launch's own error, to be checked.
#pragma once

#include <cuda_runtime_api.h>

#include "direction_launch.h"
#include "stochastic_launch.h"

namespace nvrm {

// Activations, or the gradient for z; and the parts of the sums where objects have them, or adds_neurons().
cudaError_t launch_stochastic(Sums, bool backward, const StochasticLaunch&, cudaStream_t);

// The parts of the neurons' sums, where the pass does not add them.
cudaError_t launch_neuron_sums(const StochasticLaunch&, cudaStream_t);

// The pass with the law of this code (NVRM_FOR_EACH_LAW), and its gradients.
cudaError_t launch_direction(int law, const DirectionLaunch&, cudaStream_t);
cudaError_t launch_direction_backward(int law, const DirectionLaunch&, cudaStream_t);

}  // namespace nvrm
