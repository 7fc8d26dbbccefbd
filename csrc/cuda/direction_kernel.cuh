// The kernel around direction_thread.h, and the choice of its instance. Forward and backward have a file each, so that
// they compile side by side; a law comes to both by the list in math/angle_law.h.
#pragma once

#include "layer_launches.h"

namespace nvrm {
namespace {

// The bound on registers that follows, 128 or 80, is above what each instance needs: without one the compiler aims
// lower and spills.
template <class Law, bool backward>
__global__ void __launch_bounds__(threads_per_cta, backward ? 4 : 6)
    direction_kernel(const __grid_constant__ DirectionArguments a) {
  __shared__ DirectionTile<backward> tile;
  const PhiloxSchedule key = philox_schedule(a.key.read());
  DirectionThread<Law, backward> thread(a, key, tile, blockIdx.x, static_cast<int>(threadIdx.x));
  NVRM_UNROLL(1)
  for (int turn = 0; thread.has_turn(turn); ++turn) {
    thread.read_tile(turn);
    __syncthreads();
    thread.compute(turn);
    __syncthreads();
    thread.write_tile(turn);
    if (thread.adds_columns()) {
      __syncthreads();
      thread.add_columns(turn);
    }
  }
  thread.write_sums();
}

template <bool backward>
cudaError_t launch_law(int law, const DirectionLaunch& launch, cudaStream_t stream) {
  if (launch.ctas > most_ctas) return cudaErrorInvalidConfiguration;
  const auto ctas = static_cast<unsigned>(launch.ctas);
  switch (law) {
#define NVRM_CASE(code, Law)                                                                 \
  case code:                                                                                 \
    direction_kernel<Law, backward><<<ctas, threads_per_cta, 0, stream>>>(launch.arguments); \
    return cudaGetLastError();
    NVRM_FOR_EACH_LAW(NVRM_CASE)
#undef NVRM_CASE
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace
}  // namespace nvrm
