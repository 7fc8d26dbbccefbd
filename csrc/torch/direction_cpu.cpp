// nvrm_fast::direction_noise, direction_noise_backward and gaussian_like on the CPU; nvrm_fast/ops/direction.py has
// the schemas.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../cpu/select.h"
#include "../math/angle_law.h"
#include "../math/layer_scalars.h"
#include "noise_arguments.h"
#include "parallel.h"
#include "scalar_kind.h"

namespace nvrm {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct GammaConstants {
  double d, c, sure;
  explicit GammaConstants(double shape)
      : d((shape >= 1 ? shape : shape + 1) - 1.0 / 3), c(1 / std::sqrt(9 * d)), sure(d >= 12 ? 1 / (54 * d) : 0) {}
  GammaScalars scalars() const { return {static_cast<float>(d), static_cast<float>(c), static_cast<float>(sure)}; }
};

float rate(int64_t dimension_less_two) {
  return dimension_less_two > 0 ? static_cast<float>(1.0 / static_cast<double>(dimension_less_two)) : 0.0f;
}

LayerScalars layer_scalars(int64_t fan_in, double alpha, double low, double high) {
  const double freedom = static_cast<double>(fan_in - 1);
  const GammaConstants chi(freedom > 0 ? freedom / 2 : 1);
  const GammaConstants gamma(alpha > 0 ? 1 / alpha : 1);
  LayerScalars at;
  at.fan_in = static_cast<int>(fan_in);
  at.tangent_rate = rate(fan_in - 3);
  at.sphere_rate = rate(fan_in - 2);
  at.fan_in_less_one = static_cast<float>(freedom);
  at.chi = chi.scalars();
  at.chi_two_d = static_cast<float>(2 * chi.d);
  at.gamma = gamma.scalars();
  at.gamma_scale = static_cast<float>(alpha * gamma.d);
  at.gamma_alpha = static_cast<float>(alpha);
  at.gamma_boost = alpha > 1;
  at.low = static_cast<float>(low);
  at.high = static_cast<float>(high);
  return at;
}

// The operators' arguments besides tensors, in the schema's order.
struct Settings {
  int64_t stream, step, offset, direction, magnitude, fan_in;
  double alpha, low, high;
  bool tangent_given;
};

void check(const Tensor& s, const Tensor& sq_norm, const Tensor& key, const Settings& at) {
  TORCH_CHECK_VALUE(s.dim() == 3, "s must have shape (outer, neurons, inner), got ", s.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(s.scalar_type()), "s must be a floating-point tensor, got ", s.scalar_type());
  TORCH_CHECK_TYPE(key.scalar_type() == at::kLong && key.numel() == 1, "key must be an int64 tensor with one element");
  TORCH_CHECK_VALUE(at.direction >= 0 && at.direction < law_count, "law must be a code in [0, ", law_count - 1,
                    "], got ", at.direction);
  TORCH_CHECK_VALUE(at.magnitude >= 0 && at.magnitude <= 2, "magnitude must be a code in [0, 2], got ", at.magnitude);
  TORCH_CHECK_VALUE(at.offset >= 0 && at.offset + s.numel() <= (int64_t{1} << 56),
                    "offset must be in [0, 2^56 - activations], got ", at.offset);
  if (at.direction == 0) return;
  TORCH_CHECK_VALUE(at.fan_in >= 2,
                    "a weight vector of one element has no direction to turn: fan_in must be at least 2");
  TORCH_CHECK_VALUE(at.fan_in <= (int64_t{1} << 30), "fan_in must be at most 2^30, got ", at.fan_in);
  if (at.tangent_given) {
    TORCH_CHECK_VALUE(sq_norm.sizes() == s.sizes(), "a given tangent part must have s's shape ", s.sizes(), ", got ",
                      sq_norm.sizes());
    return;
  }
  TORCH_CHECK_VALUE(sq_norm.dim() == 3 && sq_norm.size(0) == s.size(0) && sq_norm.size(2) == s.size(2),
                    "sq_norm must have shape (", s.size(0), ", groups, ", s.size(2), "), got ", sq_norm.sizes());
  TORCH_CHECK_VALUE(sq_norm.size(1) > 0 && s.size(1) % sq_norm.size(1) == 0,
                    "sq_norm must have a number of groups that divides ", s.size(1), ", got ", sq_norm.size(1));
}

// Parameters of all neurons for the kernels, rows padded to whole vectors with the last neuron's, so that lanes beyond
// the end compute something finite.
class Parameters {
 public:
  Parameters(int64_t neurons, int64_t rows)
      : neurons_(neurons), padded_(std::max<int64_t>((neurons + 15) / 16, 1) * 16), memory_((4 + rows) * padded_) {}
  int64_t padded() const { return padded_; }
  const float* row(int64_t i) const { return memory_.data() + i * padded_; }
  void set(int64_t first, int64_t rows, const Tensor& values, const char* name) {
    TORCH_CHECK_TYPE(values.scalar_type() == at::kFloat, name, " must be float32, got ", values.scalar_type());
    TORCH_CHECK_VALUE(values.numel() == rows * neurons_, name, " must have ", rows * neurons_, " elements, got ",
                      values.numel());
    if (neurons_ == 0) return;
    const Tensor source = values.contiguous();
    const float* from = source.const_data_ptr<float>();
    for (int64_t i = first; i < first + rows; ++i, from += neurons_) {
      float* to = memory_.data() + i * padded_;
      std::copy(from, from + neurons_, to);
      std::fill(to + neurons_, to + padded_, from[neurons_ - 1]);
    }
  }

 private:
  int64_t neurons_, padded_;
  std::vector<float> memory_;
};

struct Pass {
  Tensor s, sq_norm;
  LayerScalars scalars;
  Parameters parameters;
  DirectionPlan plan;

  Pass(const Tensor& s_, const Tensor& sq_norm_, const Tensor& scale, const Tensor& magnitude_mean,
       const OptionalTensor& magnitude_std, const OptionalTensor& bias, const Tensor& constants, const Tensor& key,
       const Settings& at)
      : s(s_.contiguous()),
        sq_norm(sq_norm_.contiguous()),
        scalars(layer_scalars(at.fan_in, at.alpha, at.low, at.high)),
        parameters(s.size(1), law_sizes[at.direction].rows) {
    parameters.set(0, 1, scale, "scale");
    parameters.set(1, 1, magnitude_mean, "magnitude_mean");
    if (at.magnitude != 0) {
      TORCH_CHECK_VALUE(magnitude_std.has_value(), "magnitude noise needs magnitude_std");
      parameters.set(2, 1, *magnitude_std, "magnitude_std");
    }
    if (bias.has_value()) parameters.set(3, 1, *bias, "bias");
    parameters.set(4, law_sizes[at.direction].rows, constants, "constants");
    plan = {};
    plan.key = philox_schedule(noise_key(key.item<int64_t>(), at.stream, at.step));
    plan.offset = at.offset;
    plan.scalars = &scalars;
    plan.magnitude = static_cast<int>(at.magnitude);
    plan.tangent_given = at.tangent_given;
    plan.outer = s.size(0);
    plan.neurons = s.size(1);
    plan.inner = s.size(2);
    plan.groups = at.direction == 0 || at.tangent_given ? 1 : sq_norm.size(1);
    plan.padded = parameters.padded();
    plan.scale = parameters.row(0);
    plan.magnitude_mean = parameters.row(1);
    plan.magnitude_std = parameters.row(2);
    plan.bias = parameters.row(3);
    plan.constants = parameters.row(4);
    plan.storage = scalar_kind(s.scalar_type(), "s");
    plan.s = s.const_data_ptr();
    if (at.direction != 0) {
      TORCH_CHECK_TYPE(sq_norm.scalar_type() == at::kFloat, "sq_norm must be float32, got ", sq_norm.scalar_type());
      plan.sq_norm = sq_norm.const_data_ptr<float>();
    }
  }

  void run(bool backward, int64_t law) const {
    if (s.numel() == 0) return;
    const auto kernel = backward ? cpu_kernels().direction_backward : cpu_kernels().direction_forward;
    parallel_for(0, plan.tiles(), 1,
                 [&](int64_t begin, int64_t end) { kernel(static_cast<int>(law), plan, begin, end); });
  }
};

// float64 goes on to the reference, whose formulas are torch's functions.
Tensor direction_noise(const Tensor& s, const Tensor& sq_norm, const Tensor& scale, const Tensor& magnitude_mean,
                       const OptionalTensor& magnitude_std, const OptionalTensor& bias,
                       const OptionalTensor& law_param_0, const OptionalTensor& law_param_1, const Tensor& constants,
                       const Tensor& key, int64_t stream, int64_t step, int64_t offset, int64_t direction,
                       int64_t magnitude, int64_t fan_in, double alpha, double low, double high, bool tangent_given) {
  const Settings at{stream, step, offset, direction, magnitude, fan_in, alpha, low, high, tangent_given};
  check(s, sq_norm, key, at);
  if (s.scalar_type() == at::kDouble) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("nvrm_fast::direction_noise", "reference")
                               .typed<decltype(direction_noise)>();
    return op.call(s, sq_norm, scale, magnitude_mean, magnitude_std, bias, law_param_0, law_param_1, constants, key,
                   stream, step, offset, direction, magnitude, fan_in, alpha, low, high, tangent_given);
  }
  Pass pass(s, sq_norm, scale, magnitude_mean, magnitude_std, bias, constants, key, at);
  Tensor y = pass.s.new_empty(pass.s.sizes());
  pass.plan.out = y.mutable_data_ptr();
  pass.run(false, direction);
  return y;
}

using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Eight direction_noise_backward(const Tensor& grad, const Tensor& s, const Tensor& sq_norm, const Tensor& scale,
                               const Tensor& magnitude_mean, const OptionalTensor& magnitude_std,
                               const OptionalTensor& bias, const OptionalTensor& law_param_0,
                               const OptionalTensor& law_param_1, const Tensor& constants, const Tensor& key,
                               int64_t stream, int64_t step, int64_t offset, int64_t direction, int64_t magnitude,
                               int64_t fan_in, double alpha, double low, double high, bool tangent_given, bool slopes) {
  const Settings at{stream, step, offset, direction, magnitude, fan_in, alpha, low, high, tangent_given};
  check(s, sq_norm, key, at);
  TORCH_CHECK_VALUE(grad.sizes() == s.sizes(), "grad must have s's shape ", s.sizes(), ", got ", grad.sizes());
  if (s.scalar_type() == at::kDouble) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("nvrm_fast::direction_noise_backward", "reference")
                               .typed<decltype(direction_noise_backward)>();
    return op.call(grad, s, sq_norm, scale, magnitude_mean, magnitude_std, bias, law_param_0, law_param_1, constants,
                   key, stream, step, offset, direction, magnitude, fan_in, alpha, low, high, tangent_given, slopes);
  }
  Pass pass(s, sq_norm, scale, magnitude_mean, magnitude_std, bias, constants, key, at);
  DirectionPlan& plan = pass.plan;
  const Tensor dy = grad.to(s.scalar_type()).contiguous();
  Tensor ds = pass.s.new_empty(pass.s.sizes());
  plan.grad = dy.const_data_ptr();
  plan.out = ds.mutable_data_ptr();
  plan.slopes = slopes;
  const Tensor nothing = scale.new_empty({0});
  Tensor d_sq_norm = nothing.clone(), sq_norm_part;
  if (direction != 0 && tangent_given) {
    d_sq_norm = pass.sq_norm.new_empty(pass.sq_norm.sizes());
    plan.tangent = d_sq_norm.mutable_data_ptr<float>();
  } else if (direction != 0) {
    sq_norm_part = scale.new_empty({plan.sq_norm_parts(), plan.outer, plan.inner});
    plan.sq_norm_part = sq_norm_part.mutable_data_ptr<float>();
  }
  Tensor neuron_part = scale.new_empty({plan.neuron_parts(), neuron_sums, plan.neurons});
  plan.neuron_part = neuron_part.mutable_data_ptr<float>();
  pass.run(true, direction);

  if (s.numel() == 0) {
    neuron_part = scale.new_zeros({1, neuron_sums, plan.neurons});
    if (direction != 0) d_sq_norm.resize_(sq_norm.sizes()).zero_();
  } else if (direction != 0 && !tangent_given) {
    // Parts of one group are neighbors: (groups, blocks, outer, inner) to (outer, groups, inner).
    d_sq_norm =
        sq_norm_part.reshape({plan.groups, -1, plan.outer, plan.inner}).sum(1).mul_(0.5).transpose(0, 1).contiguous();
  }
  const Tensor sum = neuron_part.sum(0);
  const auto of = [&](int64_t k, bool wanted) { return wanted ? sum.select(0, k).clone() : nothing.clone(); };
  const int64_t count = slopes ? law_sizes[direction].parameters : 0;
  return {ds,
          d_sq_norm,
          of(sum_scale, true),
          of(sum_magnitude_mean, true),
          of(sum_magnitude_std, magnitude != 0),
          of(sum_bias, bias.has_value()),
          of(sum_law_param_0, count > 0 && law_param_0.has_value()),
          of(sum_law_param_1, count > 1 && law_param_1.has_value())};
}

Tensor gaussian_like(const Tensor& like, const Tensor& key, int64_t stream, int64_t step, int64_t offset) {
  TORCH_CHECK_TYPE(key.scalar_type() == at::kLong && key.numel() == 1, "key must be an int64 tensor with one element");
  TORCH_CHECK_VALUE(offset >= 0, "offset must not be negative, got ", offset);
  const NoiseKey place = noise_key(key.item<int64_t>(), stream, step);
  Tensor out = like.new_empty(like.sizes(), at::kFloat);
  fill_noise(place, 0, 1.0f, offset, out.mutable_data_ptr<float>(), out.numel());
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(nvrm_fast, CPU, m) {
  m.impl("direction_noise.native", &direction_noise);
  m.impl("direction_noise_backward.native", &direction_noise_backward);
  m.impl("gaussian_like.native", &gaussian_like);
}

}  // namespace nvrm
