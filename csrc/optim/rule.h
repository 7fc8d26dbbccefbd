// The update rules, one element (or one vector of elements) at a time: exactly torch.optim's, in one fixed order of
// correctly rounded operations, products and sums rounded apart, so that plain torch gives the same bits.
//
// A rule names its state tensors by position; `update` gets the clean weight x, the gradient g and the state s, and
// leaves their new values. Hyper-parameters come combined and rounded once, on the host. Add a rule here, in
// nvrm_fast/reference/rule.py, and to the operators.
#pragma once

#include "../noise/lanes.h"

namespace nvrm {

// V is L::F or L::D, T its element: float, or double for float64 parameters.
template <class T>
struct SgdHyper {
  T lr;
  T momentum;
  T one_minus_dampening;
  T weight_decay;
  bool nesterov;
  bool maximize;
};

// Hyper-parameters are combined in float64 and rounded once, to the type in which the rule computes.
template <class T>
SgdHyper<T> rounded_to(const SgdHyper<double>& h) {
  return {static_cast<T>(h.lr),
          static_cast<T>(h.momentum),
          static_cast<T>(h.one_minus_dampening),
          static_cast<T>(h.weight_decay),
          h.nesterov,
          h.maximize};
}

template <bool with_momentum>
struct Sgd {
  static constexpr int states = with_momentum ? 1 : 0;  // momentum_buffer
  static constexpr bool reads_gradient = true;
  template <class T>
  using Hyper = SgdHyper<T>;

  // Whether every option that update asks about has its default; defaults() then says so in constants, and the
  // compiler leaves the questions out.
  template <class T>
  static bool has_defaults(const Hyper<T>& h) {
    return h.weight_decay == 0 && !h.nesterov && !h.maximize;
  }
  template <class T>
  NVRM_INLINE static Hyper<T> defaults(const Hyper<T>& h) {
    return {h.lr, h.momentum, h.one_minus_dampening, 0, false, false};
  }

  // is_first: the momentum buffer holds nothing yet and becomes the gradient (torch.optim.SGD does so too).
  template <class L, class V, class T>
  NVRM_INLINE static void update(V& x, V g, V* s, const Hyper<T>& h, bool is_first, T, T) {
    if (h.maximize) g = -g;
    if (h.weight_decay != 0) g = g + h.weight_decay * x;
    if constexpr (with_momentum) {
      if (is_first) {
        s[0] = g;
      } else {
        s[0] = h.momentum * s[0] + h.one_minus_dampening * g;
      }
      g = h.nesterov ? g + h.momentum * s[0] : s[0];
    }
    x = x - h.lr * g;
  }
};

// No rule at all: only the coat changes.
struct NoHyper {};

struct NoUpdate {
  static constexpr int states = 0;
  static constexpr bool reads_gradient = false;
  template <class T>
  using Hyper = NoHyper;

  static bool has_defaults(const NoHyper&) { return true; }
  NVRM_INLINE static NoHyper defaults(const NoHyper& h) { return h; }

  template <class L, class V, class T>
  NVRM_INLINE static void update(V&, V, V*, const NoHyper&, bool, T, T) {}
};

template <class T>
struct AdamHyper {
  T beta1;
  T one_minus_beta1;
  T beta2;
  T one_minus_beta2;
  T eps;
  T weight_decay;  // added to the gradient (Adam), or 0
  T shrink;        // 1 - lr * weight_decay, multiplies the weight (AdamW), or 1, which changes nothing
  bool maximize;
};

inline AdamHyper<double> adam_hyper(double lr, double beta1, double beta2, double eps, double weight_decay,
                                    bool decoupled_weight_decay, bool maximize) {
  return {beta1,
          1 - beta1,
          beta2,
          1 - beta2,
          eps,
          decoupled_weight_decay ? 0 : weight_decay,
          decoupled_weight_decay ? 1 - lr * weight_decay : 1,
          maximize};
}

template <class T>
NoHyper rounded_to(const NoHyper& h) {
  return h;
}

template <class T>
AdamHyper<T> rounded_to(const AdamHyper<double>& h) {
  return {static_cast<T>(h.beta1),  static_cast<T>(h.one_minus_beta1),
          static_cast<T>(h.beta2),  static_cast<T>(h.one_minus_beta2),
          static_cast<T>(h.eps),    static_cast<T>(h.weight_decay),
          static_cast<T>(h.shrink), h.maximize};
}

// What Adam's bias corrections follow from.
struct AdamCorrections {
  double lr;
  double beta1;
  double beta2;
};

struct AdamScalars {
  double step_size;
  double root_scale;
};

// base^exponent by repeated squaring: the same multiplications on every device, where libraries' pow differ in the last
// bit. Off by at most `exponent` half units in the last place, relative to the power.
NVRM_INLINE double power(double base, int64_t exponent) {
  double result = 1;
  NVRM_UNROLL(1)
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    base *= base;
  }
  return result;
}

// step counts from 1.
NVRM_INLINE AdamScalars adam_scalars(const AdamCorrections& adam, int64_t step) {
  return {adam.lr / (1 - power(adam.beta1, step)), 1 / ScalarLanes::sqrt(1 - power(adam.beta2, step))};
}

template <bool amsgrad>
struct Adam {
  static constexpr int states = amsgrad ? 3 : 2;  // exp_avg, exp_avg_sq, max_exp_avg_sq
  static constexpr bool reads_gradient = true;
  template <class T>
  using Hyper = AdamHyper<T>;

  template <class T>
  static bool has_defaults(const Hyper<T>& h) {
    return h.weight_decay == 0 && !h.maximize;
  }
  template <class T>
  NVRM_INLINE static Hyper<T> defaults(const Hyper<T>& h) {
    return {h.beta1, h.one_minus_beta1, h.beta2, h.one_minus_beta2, h.eps, 0, h.shrink, false};
  }

  // step_size = lr / (1 - beta1^t) and root_scale = 1 / sqrt(1 - beta2^t) differ from tensor to tensor: adam_scalars.
  template <class L, class V, class T>
  NVRM_INLINE static void update(V& x, V g, V* s, const Hyper<T>& h, bool, T step_size, T root_scale) {
    if (h.maximize) g = -g;
    x = x * h.shrink;
    if (h.weight_decay != 0) g = g + h.weight_decay * x;
    s[0] = h.beta1 * s[0] + h.one_minus_beta1 * g;
    s[1] = h.beta2 * s[1] + (h.one_minus_beta2 * g) * g;
    V second_moment = s[1];
    if constexpr (amsgrad) {
      s[2] = s[2] >= s[1] ? s[2] : s[1];
      second_moment = s[2];
    }
    const V denominator = L::sqrt(second_moment) * root_scale + h.eps;
    x = x - step_size * (s[0] / denominator);
  }
};

}  // namespace nvrm
