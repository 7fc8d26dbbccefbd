// The fused step: coat off, rule, coat on, one superblock after the other.
#pragma once

#include "strided.h"
#include "superblock.h"

namespace nvrm {
namespace {

template <class L, class V, class P>
NVRM_INLINE V load_as(const P* p) {
  V x;
  L::load(p, x);
  return x;
}

// Lanes of the type in which the rule computes: float, or double for float64 parameters.
template <class L, class Math>
struct MathLanes {
  using V = typename L::F;
  static constexpr int width = L::width;
};
template <class L>
struct MathLanes<L, double> {
  using V = typename L::D;
  static constexpr int width = sizeof(V) / sizeof(double);
};

// Where one superblock's operands lie; all contiguous.
template <class Param, class Math, bool master, int states>
struct Operands {
  using State = std::conditional_t<master, Math, Param>;
  Param* parameter;
  const Param* gradient;
  Math* clean;
  State* state[states + 1];
};

// The coats of one tensor, superblock after superblock.
template <class L>
class Coats {
 public:
  explicit Coats(const TensorEntry& entry)
      : off_{philox_schedule(entry.coat_off.key), entry.coat_off.distribution, entry.coat_off.scale},
        on_{philox_schedule(entry.coat_on.key), entry.coat_on.distribution, entry.coat_on.scale},
        wears_(off_.scale != 0),
        will_wear_(on_.scale != 0) {}

  // Draws what `off` and `on` return, for this superblock; they are to be asked for in ascending order.
  NVRM_INLINE void draw(uint64_t superblock) {
    if (wears_ && will_wear_) {
      fill_two<L>(off_, superblock, buffer_[0], on_, superblock, buffer_[1]);
    } else if (wears_ || will_wear_) {
      // One draw alone: the next superblock's goes with it, to keep the pair of chains.
      if (superblock == ahead_) {
        which_ = 1;
        ahead_ = none;
      } else {
        const Draw& draw = wears_ ? off_ : on_;
        fill_two<L>(draw, superblock, buffer_[0], draw, superblock + 1, buffer_[1]);
        which_ = 0;
        ahead_ = superblock + 1;
      }
    }
  }

  // 128 values, or null: nothing to take off, nothing to put on.
  const float* off() const { return wears_ ? buffer_[will_wear_ ? 0 : which_] : nullptr; }
  const float* on() const { return will_wear_ ? buffer_[wears_ ? 1 : which_] : nullptr; }

 private:
  static constexpr uint64_t none = ~uint64_t{0};
  Draw off_;
  Draw on_;
  bool wears_;
  bool will_wear_;
  int which_ = 0;
  uint64_t ahead_ = none;
  alignas(64) float buffer_[2][superblock_size];
};

NVRM_INLINE void prefetch(const void* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(at) + i, 0, 2);
}

// Asks for what the superblock at `local` will read, so that it arrives while noise is drawn: else memory waits then.
template <class Rule, class Param, class Math, bool master>
NVRM_INLINE void prefetch_superblock(const TensorEntry& entry, int64_t local) {
  using State = std::conditional_t<master, Math, Param>;
  if constexpr (master) {
    prefetch(static_cast<const Math*>(entry.data[master_operand]) + local, superblock_size * sizeof(Math));
  } else {
    prefetch(static_cast<const Param*>(entry.data[parameter_operand]) + local, superblock_size * sizeof(Param));
  }
  if (Rule::reads_gradient) {
    prefetch(static_cast<const Param*>(entry.data[gradient_operand]) + local, superblock_size * sizeof(Param));
  }
  for (int k = 0; k < Rule::states; ++k) {
    prefetch(static_cast<const State*>(entry.data[state_operand + k]) + local, superblock_size * sizeof(State));
  }
}

// plain: no option that is off by default is on, and nothing is scaled; then the loop holds no branch for it.
template <class L, class Rule, class Param, class Math, bool master, bool plain>
NVRM_INLINE void step_superblock(const TensorEntry& entry, const Coats<L>& coats,
                                 const typename Rule::template Hyper<Math>& given,
                                 const Operands<Param, Math, master, Rule::states>& at, const StepPlan& plan) {
  using V = typename MathLanes<L, Math>::V;
  constexpr int width = MathLanes<L, Math>::width;
  const float* off = coats.off();
  const float* on = coats.on();
  const auto hyper = plain ? Rule::defaults(given) : given;
  const bool is_first = !plain && entry.is_first;
  const bool stream = plan.stream_parameters && (reinterpret_cast<uintptr_t>(at.parameter) & 63) == 0;
  const Math step_size = static_cast<Math>(entry.step_size);
  const Math root_scale = static_cast<Math>(entry.root_scale);
  const bool scaled = !plain && Rule::reads_gradient && plan.grad_scale != nullptr;
  const Math divisor = scaled ? static_cast<Math>(*plan.grad_scale) : Math(1);

  for (int i = 0; i < superblock_size; i += width) {
    V x = master ? load_as<L, V>(at.clean + i) : load_as<L, V>(at.parameter + i);
    V s[Rule::states + 1];
    for (int k = 0; k < Rule::states; ++k) s[k] = load_as<L, V>(at.state[k] + i);
    if (off != nullptr) x = x - load_as<L, V>(off + i);
    V g = load_as<L, V>(at.gradient + i);
    if (scaled) g = g / divisor;
    Rule::template update<L>(x, g, s, hyper, is_first, step_size, root_scale);
    for (int k = 0; k < Rule::states; ++k) L::store(at.state[k] + i, s[k]);
    if (master && !plan.keep_noise) L::store(at.clean + i, x);
    if (on != nullptr) x = x + load_as<L, V>(on + i);
    if (master && plan.keep_noise) L::store(at.clean + i, x);
    if constexpr (master && std::is_same_v<Param, float>) {
      if (stream) {
        L::stream(at.parameter + i, x);
        continue;
      }
    }
    L::store(at.parameter + i, x);
  }
}

// The same for part of a superblock or for tensors that are not contiguous: through buffers, so that no element ever
// sees other arithmetic than the body's.
template <class L, class Rule, class Param, class Math, bool master>
void step_buffered(const TensorEntry& entry, Coats<L>& coats, const typename Rule::template Hyper<Math>& hyper,
                   int64_t begin, int64_t count, const StepPlan& plan) {
  using Ops = Operands<Param, Math, master, Rule::states>;
  using State = typename Ops::State;
  alignas(64) Param parameter[superblock_size] = {};
  alignas(64) Param gradient[superblock_size] = {};
  alignas(64) Math clean[superblock_size] = {};
  alignas(64) State state[Rule::states + 1][superblock_size] = {};
  const int64_t skip = (entry.offset + begin) % superblock_size;

  Ops at{parameter, gradient, clean, {}};
  gather<Param>(entry, parameter_operand, begin, count, parameter + skip);
  gather<Param>(entry, gradient_operand, begin, count, gradient + skip);
  if (master) gather<Math>(entry, master_operand, begin, count, clean + skip);
  for (int k = 0; k < Rule::states; ++k) {
    at.state[k] = state[k];
    gather<State>(entry, state_operand + k, begin, count, state[k] + skip);
  }
  step_superblock<L, Rule, Param, Math, master, false>(entry, coats, hyper, at, plan);
  scatter<Param>(entry, parameter_operand, begin, count, parameter + skip);
  if (master) scatter<Math>(entry, master_operand, begin, count, clean + skip);
  for (int k = 0; k < Rule::states; ++k) scatter<State>(entry, state_operand + k, begin, count, state[k] + skip);
}

// Superblocks [begin, end) of one tensor, counted from the superblock in which it starts.
template <class L, class Rule, class Param, class Math, bool master>
void step_tensor(const TensorEntry& entry, const typename Rule::template Hyper<Math>& hyper, int64_t begin, int64_t end,
                 const StepPlan& plan) {
  using Ops = Operands<Param, Math, master, Rule::states>;
  using State = typename Ops::State;
  Coats<L> coats(entry);
  const int64_t first = entry.offset / superblock_size;
  const bool plain = plan.grad_scale == nullptr && !entry.is_first && Rule::has_defaults(hyper);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t superblock = first + b;
    int64_t local = superblock * superblock_size - entry.offset;
    int64_t local_end = local + superblock_size;
    if (entry.layout == nullptr && local >= 0 && local_end + superblock_size <= entry.numel) {
      prefetch_superblock<Rule, Param, Math, master>(entry, local_end);
    }
    coats.draw(static_cast<uint64_t>(superblock));
    const bool whole = local >= 0 && local_end <= entry.numel;
    if (whole && entry.layout == nullptr) {
      Ops at{static_cast<Param*>(entry.data[parameter_operand]) + local,
             static_cast<const Param*>(entry.data[gradient_operand]) + local,
             master ? static_cast<Math*>(entry.data[master_operand]) + local : nullptr,
             {}};
      for (int k = 0; k < Rule::states; ++k) at.state[k] = static_cast<State*>(entry.data[state_operand + k]) + local;
      if (plain) {
        step_superblock<L, Rule, Param, Math, master, true>(entry, coats, hyper, at, plan);
      } else {
        step_superblock<L, Rule, Param, Math, master, false>(entry, coats, hyper, at, plan);
      }
    } else {
      if (local < 0) local = 0;
      if (local_end > entry.numel) local_end = entry.numel;
      step_buffered<L, Rule, Param, Math, master>(entry, coats, hyper, local, local_end - local, plan);
    }
  }
}

template <class L, class Rule, class Param, class Math, bool master>
void step_range(const StepPlan& plan, const typename Rule::template Hyper<Math>& hyper, int64_t begin, int64_t end) {
  // The entry in which `begin` falls: binary search in the running count.
  int64_t low = 0, high = plan.entry_count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (plan.first_superblock[middle] <= begin ? low : high) = middle;
  }
  for (int64_t e = low; e < plan.entry_count && plan.first_superblock[e] < end; ++e) {
    const int64_t start = plan.first_superblock[e], stop = plan.first_superblock[e + 1];
    const int64_t from = begin > start ? begin - start : 0;
    const int64_t to = (end < stop ? end : stop) - start;
    if (from < to) step_tensor<L, Rule, Param, Math, master>(plan.entries[e], hyper, from, to, plan);
  }
  if (plan.stream_parameters) L::end_stream();
}

template <class L, class Rule, class Param, class Math>
void step_storage(const StepPlan& plan, const typename Rule::template Hyper<double>& hyper, int64_t begin,
                  int64_t end) {
  const auto rounded = rounded_to<Math>(hyper);
  if (plan.has_master) {
    step_range<L, Rule, Param, Math, true>(plan, rounded, begin, end);
  } else {
    step_range<L, Rule, Param, Math, false>(plan, rounded, begin, end);
  }
}

template <class L, class Rule>
void step_kernel(const StepPlan& plan, const typename Rule::template Hyper<double>& hyper, int64_t begin, int64_t end) {
  switch (plan.kind) {
    case ScalarKind::float32:
      return step_storage<L, Rule, float, float>(plan, hyper, begin, end);
    case ScalarKind::float64:
      return step_storage<L, Rule, double, double>(plan, hyper, begin, end);
    case ScalarKind::bfloat16:
      return step_storage<L, Rule, BFloat16, float>(plan, hyper, begin, end);
    case ScalarKind::float16:
      return step_storage<L, Rule, Float16, float>(plan, hyper, begin, end);
  }
}

template <class L>
void sgd_kernel(const StepPlan& plan, const SgdHyper<double>& hyper, bool with_momentum, int64_t begin, int64_t end) {
  if (with_momentum) {
    step_kernel<L, Sgd<true>>(plan, hyper, begin, end);
  } else {
    step_kernel<L, Sgd<false>>(plan, hyper, begin, end);
  }
}

template <class L>
void adam_kernel(const StepPlan& plan, const AdamHyper<double>& hyper, bool amsgrad, int64_t begin, int64_t end) {
  if (amsgrad) {
    step_kernel<L, Adam<true>>(plan, hyper, begin, end);
  } else {
    step_kernel<L, Adam<false>>(plan, hyper, begin, end);
  }
}

template <class L>
void change_coat_kernel(const StepPlan& plan, int64_t begin, int64_t end) {
  step_kernel<L, NoUpdate>(plan, NoHyper{}, begin, end);
}

}  // namespace
}  // namespace nvrm
