// Stochastic activations: the kernels around stochastic_thread.h.
#include "layer_launches.h"

namespace nvrm {
namespace {

// A bound on registers of 128, above what each instance needs: without one the compiler aims lower and spills.
template <Sums sums, bool backward>
__global__ void __launch_bounds__(threads_per_cta, 4) stochastic_kernel(const __grid_constant__ StochasticArguments a) {
  __shared__ StochasticStore<sums, backward> store;
  const int thread = static_cast<int>(threadIdx.x);
  stochastic_thread<sums, backward>(a, blockIdx.x, thread, store);
  if constexpr (!backward && are_of_objects<sums>) {
    __syncthreads();
    add_objects<sums>(a, blockIdx.x, thread, store);
  }
}

__global__ void __launch_bounds__(threads_per_cta) neuron_sums_kernel(const __grid_constant__ StochasticArguments a) {
  add_neurons(a, blockIdx.x, static_cast<int>(threadIdx.x));
}

template <Sums sums>
cudaError_t launch_instance(bool backward, const StochasticLaunch& launch, cudaStream_t stream) {
  const auto ctas = static_cast<unsigned>(launch.ctas);
  if (backward) {
    stochastic_kernel<sums, true><<<ctas, threads_per_cta, 0, stream>>>(launch.arguments);
  } else {
    stochastic_kernel<sums, false><<<ctas, threads_per_cta, 0, stream>>>(launch.arguments);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_stochastic(Sums sums, bool backward, const StochasticLaunch& launch, cudaStream_t stream) {
  if (launch.ctas > most_ctas) return cudaErrorInvalidConfiguration;
  switch (sums) {
    case Sums::nothing:
      return launch_instance<Sums::nothing>(backward, launch, stream);
    case Sums::neuron:
      return launch_instance<Sums::neuron>(backward, launch, stream);
    case Sums::sample:
      return launch_instance<Sums::sample>(backward, launch, stream);
    case Sums::element:
      return launch_instance<Sums::element>(backward, launch, stream);
    case Sums::divergence:
      return launch_instance<Sums::divergence>(backward, launch, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_neuron_sums(const StochasticLaunch& launch, cudaStream_t stream) {
  if (launch.ctas > most_ctas) return cudaErrorInvalidConfiguration;
  neuron_sums_kernel<<<static_cast<unsigned>(launch.ctas), threads_per_cta, 0, stream>>>(launch.arguments);
  return cudaGetLastError();
}

}  // namespace nvrm
