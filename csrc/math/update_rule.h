// The update rules, one element (or one vector of elements) at a time: exactly torch.optim's, in one fixed order of
// correctly rounded operations, products and sums rounded apart, so that plain torch gives the same bits.
//
// A rule is a struct that declares what it is; the kernels of every device, their launches and the operator follow from
// the list at the end of this file. Add a rule here and in nvrm_fast/contract/rules.py, which says the same in Python.
//
//     enum {..., hyper_count}    its hyper-parameters, as the operator gets them: float64, flags as 0 or 1
//     states                     how many state tensors it has
//     Hyper<T>, combine<T>       what the elements need of the hyper-parameters, combined in float64 and rounded once
//                                to T: float, or double for float64 parameters
//     update<L, V, T>            the clean weight x, the gradient g and the state s become their new values; V is L::F
//     or
//                                L::D, with elements of type T
//
// and, where it differs from what AnyRule says:
//
//     Scalars<T>, scalars<T>     numbers that depend on the tensor's step count (from 1), rounded once too
//     has_special_first_gradient whether update must know that the state has not seen a gradient yet
//     has_flags, without_flags   whether one of the flags is set that update asks about; without_flags says in
//     constants
//                                that none is, and the compiler leaves the questions out
//     has_defaults, defaults     the same of every option that update asks about
//     divides                    whether update is collect, quotient<L> by L::sqrt and L::divide, and move; then
//                                has_quick_scalars and is_exact say where quotient by CUDA's quick ones has the same
//                                bits
//     refused                    why these hyper-parameters are not valid
//     noise_scale                where the scale of the noise comes from
#pragma once

#include "lanes.h"

namespace nvrm {

constexpr int max_states = 3;
constexpr int max_hyper = 8;

// base^exponent by repeated squaring: the same few multiplications on every device.
NVRM_INLINE double power(double base, int64_t exponent) {
  double result = 1;
  NVRM_UNROLL(1)
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    base *= base;
  }
  return result;
}

// The kernels know one number a tensor so far. Room is left for one number a row, and for scales that are a function of
// the state (the old noise then comes off with the old state).
enum class NoiseScale { per_tensor, per_row, from_states };

struct NoScalars {};

// Why hyper-parameters are not valid; null: they are.
struct Refusal {
  const char* reason;
  double value;
};

inline Refusal refused_betas(double beta1, double beta2) {
  if (!(beta1 >= 0 && beta1 < 1)) return {"beta1 must be in [0, 1)", beta1};
  if (!(beta2 >= 0 && beta2 < 1)) return {"beta2 must be in [0, 1)", beta2};
  return {};
}

struct AnyRule {
  static constexpr bool reads_gradient = true;
  static constexpr bool writes = true;
  static constexpr bool has_special_first_gradient = false;
  static constexpr bool divides = false;
  static constexpr NoiseScale noise_scale = NoiseScale::per_tensor;

  template <class T>
  using Scalars = NoScalars;
  template <class T>
  NVRM_INLINE static NoScalars scalars(const double*, int64_t) {
    return {};
  }
  template <class Hyper>
  NVRM_INLINE static bool has_flags(const Hyper&) {
    return false;
  }
  template <class Hyper>
  NVRM_INLINE static Hyper without_flags(const Hyper& h) {
    return h;
  }
  template <class Hyper>
  NVRM_INLINE static bool has_defaults(const Hyper&) {
    return true;
  }
  template <class Hyper>
  NVRM_INLINE static Hyper defaults(const Hyper& h) {
    return h;
  }
  static Refusal refused(const double*) { return {}; }
};

// No rule at all: only the noise changes.
struct NoUpdate : AnyRule {
  enum { hyper_count };
  static constexpr int states = 0;
  static constexpr bool reads_gradient = false;

  template <class T>
  struct Hyper {};
  template <class T>
  NVRM_INLINE static Hyper<T> combine(const double*) {
    return {};
  }
  template <class L, class V, class T>
  NVRM_INLINE static void update(V&, V, V*, const Hyper<T>&, const NoScalars&, bool) {}
};

// Not even that: clean weights are read, to be measured.
struct OnlyMeasure : NoUpdate {
  static constexpr bool writes = false;
};

template <bool with_momentum>
struct Sgd : AnyRule {
  enum { lr, momentum, dampening, weight_decay, nesterov, maximize, hyper_count };
  static constexpr int states = with_momentum ? 1 : 0;  // momentum_buffer
  static constexpr bool has_special_first_gradient = with_momentum;

  template <class T>
  struct Hyper {
    T lr;
    T momentum;
    T one_minus_dampening;
    T weight_decay;
    bool nesterov;
    bool maximize;
  };

  template <class T>
  NVRM_INLINE static Hyper<T> combine(const double* raw) {
    return {static_cast<T>(raw[lr]),
            static_cast<T>(raw[momentum]),
            static_cast<T>(1 - raw[dampening]),
            static_cast<T>(raw[weight_decay]),
            raw[nesterov] != 0,
            raw[maximize] != 0};
  }
  template <class T>
  NVRM_INLINE static bool has_flags(const Hyper<T>& h) {
    return with_momentum && (h.nesterov || h.maximize);  // without momentum it is one question that does no harm
  }
  template <class T>
  NVRM_INLINE static Hyper<T> without_flags(const Hyper<T>& h) {
    return {h.lr, h.momentum, h.one_minus_dampening, h.weight_decay, false, !with_momentum && h.maximize};
  }
  template <class T>
  NVRM_INLINE static bool has_defaults(const Hyper<T>& h) {
    return h.weight_decay == 0 && !h.nesterov && !h.maximize;
  }
  template <class T>
  NVRM_INLINE static Hyper<T> defaults(const Hyper<T>& h) {
    return {h.lr, h.momentum, h.one_minus_dampening, 0, false, false};
  }

  // is_first: the momentum buffer holds nothing yet and becomes the gradient (torch.optim.SGD does so too).
  template <class L, class V, class T>
  NVRM_INLINE static void update(V& x, V g, V* s, const Hyper<T>& h, const NoScalars&, bool is_first) {
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

// Adam and, with decoupled_weight_decay, AdamW.
template <bool amsgrad>
struct Adam : AnyRule {
  enum { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize, hyper_count };
  static constexpr int states = amsgrad ? 3 : 2;  // exp_avg, exp_avg_sq, max_exp_avg_sq

  template <class T>
  struct Hyper {
    T beta1;
    T one_minus_beta1;
    T beta2;
    T one_minus_beta2;
    T eps;
    T weight_decay;  // added to the gradient (Adam), or 0
    T shrink;        // 1 - lr * weight_decay, multiplies the weight (AdamW), or 1, which changes nothing
    bool maximize;
  };

  template <class T>
  NVRM_INLINE static Hyper<T> combine(const double* raw) {
    const bool decoupled = raw[decoupled_weight_decay] != 0;
    return {static_cast<T>(raw[beta1]),
            static_cast<T>(1 - raw[beta1]),
            static_cast<T>(raw[beta2]),
            static_cast<T>(1 - raw[beta2]),
            static_cast<T>(raw[eps]),
            static_cast<T>(decoupled ? 0 : raw[weight_decay]),
            static_cast<T>(decoupled ? 1 - raw[lr] * raw[weight_decay] : 1),
            raw[maximize] != 0};
  }
  template <class T>
  NVRM_INLINE static bool has_flags(const Hyper<T>& h) {
    return h.maximize;
  }
  template <class T>
  NVRM_INLINE static Hyper<T> without_flags(const Hyper<T>& h) {
    return {h.beta1, h.one_minus_beta1, h.beta2, h.one_minus_beta2, h.eps, h.weight_decay, h.shrink, false};
  }
  template <class T>
  NVRM_INLINE static bool has_defaults(const Hyper<T>& h) {
    return h.weight_decay == 0 && !has_flags(h);
  }
  template <class T>
  NVRM_INLINE static Hyper<T> defaults(const Hyper<T>& h) {
    return {h.beta1, h.one_minus_beta1, h.beta2, h.one_minus_beta2, h.eps, 0, h.shrink, false};
  }
  static Refusal refused(const double* raw) { return refused_betas(raw[beta1], raw[beta2]); }

  // The bias corrections.
  template <class T>
  struct Scalars {
    T step_size;   // lr / (1 - beta1^step)
    T root_scale;  // 1 / sqrt(1 - beta2^step)
  };
  template <class T>
  NVRM_INLINE static Scalars<T> scalars(const double* raw, int64_t step) {
    return {static_cast<T>(raw[lr] / (1 - power(raw[beta1], step))),
            static_cast<T>(1 / ScalarLanes::sqrt(1 - power(raw[beta2], step)))};
  }

  static constexpr bool divides = true;

  // The moments.
  template <class V, class T>
  NVRM_INLINE static void collect(V& x, V g, V* s, const Hyper<T>& h) {
    if (h.maximize) g = -g;
    x = x * h.shrink;
    if (h.weight_decay != 0) g = g + h.weight_decay * x;
    s[0] = h.beta1 * s[0] + h.one_minus_beta1 * g;
    s[1] = h.beta2 * s[1] + (h.one_minus_beta2 * g) * g;
    if constexpr (amsgrad) s[2] = s[2] >= s[1] ? s[2] : s[1];
  }

  template <class L, class V, class T>
  NVRM_INLINE static V quotient(const V* s, const Hyper<T>& h, const Scalars<T>& scalars) {
    return L::divide(s[0], L::sqrt(s[amsgrad ? 2 : 1]) * scalars.root_scale + h.eps);
  }
  template <class V, class T>
  NVRM_INLINE static void move(V& x, V quotient, const Scalars<T>& scalars) {
    x = x - scalars.step_size * quotient;
  }

  // With a root from 2^-51 to 2^64 the denominator is from 2^-51 to 2^85, and with a quotient from 2^-40 on all that
  // its steps leave of the numerator are multiples of 2^-137, so nothing underflows. What overflows, or is not finite
  // before, makes the quick quotient NaN.
  template <class T>
  NVRM_INLINE static bool has_quick_scalars(const Hyper<T>& h, const Scalars<T>& scalars) {
    return h.eps >= 0 && h.eps < T(0x1p20) && scalars.root_scale >= 1 && scalars.root_scale < T(0x1p20);
  }
  template <class T>
  NVRM_INLINE static bool is_exact(const T* s, T quick_quotient) {
    return s[amsgrad ? 2 : 1] >= T(0x1p-101) && (quick_quotient < 0 ? -quick_quotient : quick_quotient) >= T(0x1p-40);
  }

  template <class L, class V, class T>
  NVRM_INLINE static void update(V& x, V g, V* s, const Hyper<T>& h, const Scalars<T>& scalars, bool) {
    collect(x, g, s, h);
    move(x, quotient<L>(s, h, scalars), scalars);
  }
};

// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2).
struct Lion : AnyRule {
  enum { lr, beta1, beta2, weight_decay, maximize, hyper_count };
  static constexpr int states = 1;  // exp_avg

  template <class T>
  struct Hyper {
    T lr;
    T beta1;
    T one_minus_beta1;
    T beta2;
    T one_minus_beta2;
    T shrink;  // 1 - lr * weight_decay
    bool maximize;
  };

  template <class T>
  NVRM_INLINE static Hyper<T> combine(const double* raw) {
    return {static_cast<T>(raw[lr]),    static_cast<T>(raw[beta1]),     static_cast<T>(1 - raw[beta1]),
            static_cast<T>(raw[beta2]), static_cast<T>(1 - raw[beta2]), static_cast<T>(1 - raw[lr] * raw[weight_decay]),
            raw[maximize] != 0};
  }
  static Refusal refused(const double* raw) { return refused_betas(raw[beta1], raw[beta2]); }

  template <class T>
  NVRM_INLINE static bool has_flags(const Hyper<T>& h) {
    return h.maximize;
  }
  template <class T>
  NVRM_INLINE static Hyper<T> without_flags(const Hyper<T>& h) {
    return {h.lr, h.beta1, h.one_minus_beta1, h.beta2, h.one_minus_beta2, h.shrink, false};
  }

  template <class L, class V, class T>
  NVRM_INLINE static void update(V& x, V g, V* s, const Hyper<T>& h, const NoScalars&, bool) {
    if (h.maximize) g = -g;
    x = x * h.shrink;
    const V u = h.beta1 * s[0] + h.one_minus_beta1 * g;
    const V one = V{} + T(1);
    const V sign = u > V{} ? one : (u < V{} ? -one : V{});
    x = x - h.lr * sign;
    s[0] = h.beta2 * s[0] + h.one_minus_beta2 * g;
  }
};

// Code of each rule in operator arguments and checkpoints: never renumber.
// clang-format off
#define NVRM_FOR_EACH_RULE(visit) \
  visit(0, Sgd<false>)            \
  visit(1, Sgd<true>)             \
  visit(2, Adam<false>)           \
  visit(3, Adam<true>)            \
  visit(4, Lion)
// clang-format on

// In the place of a code: NoUpdate, OnlyMeasure.
constexpr int no_rule = -1;
constexpr int only_measure = -2;

#define NVRM_COUNT(code, Rule) +1
constexpr int rule_count = NVRM_FOR_EACH_RULE(NVRM_COUNT);
#undef NVRM_COUNT

// What an operator must know of a rule without its types.
struct RuleFacts {
  int states;
  int hyper_count;
  Refusal (*refused)(const double* raw);
};

// Of the rule with this code, or null for an unknown one.
inline const RuleFacts* facts_of_rule(int64_t code) {
  switch (code) {
#define NVRM_CASE(code, Rule)                                                                                      \
  case code: {                                                                                                     \
    static_assert(Rule::states <= max_states && Rule::hyper_count <= max_hyper, "the tables have so many places"); \
    static constexpr RuleFacts facts{Rule::states, Rule::hyper_count, Rule::refused};                              \
    return &facts;                                                                                                 \
  }
    NVRM_FOR_EACH_RULE(NVRM_CASE)
#undef NVRM_CASE
    default:
      return nullptr;
  }
}

}  // namespace nvrm
