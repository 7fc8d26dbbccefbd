// The quick root and quotient of csrc/math/lanes.h, and Adam's by them, for test_ptx.py: one pair of numbers a thread.
#include "../../csrc/cuda/lanes_cuda.h"
#include "../../csrc/math/update_rule.h"

using namespace nvrm;

extern "C" __global__ void __launch_bounds__(128)
    quotients(const float* a, const float* b, float* quotient, float* root) {
  const int i = static_cast<int>(blockIdx.x * 128 + threadIdx.x);
  quotient[i] = UsualLanes::divide(a[i], b[i]);
  root[i] = UsualLanes::sqrt(b[i]);
}

// scalars: epsilon, and 1 / sqrt(1 - beta2^step). exact: whether the rule takes the quick quotient.
extern "C" __global__ void __launch_bounds__(128)
    adam_quotients(const float* first, const float* second, const float* scalars, float* quotient, int* exact) {
  const int i = static_cast<int>(blockIdx.x * 128 + threadIdx.x);
  const float state[2] = {first[i], second[i]};
  Adam<false>::Hyper<float> hyper{};
  hyper.eps = scalars[0];
  const Adam<false>::Scalars<float> of_step{1.0f, scalars[1]};
  quotient[i] = Adam<false>::quotient<UsualLanes>(state, hyper, of_step);
  exact[i] = Adam<false>::has_quick_scalars(hyper, of_step) && Adam<false>::is_exact(state, quotient[i]);
}
