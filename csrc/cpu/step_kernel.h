// The fused step: old noise off, rule, new noise on, one superblock after the other.
#pragma once

#include "strided.h"
#include "noise_kernel.h"
#include "row_measures.h"

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

// Of unit scale where each row has its own.
inline Draw make_draw(const NoiseDraw& noise, const ScaleOf& scale) {
  return {philox_schedule(noise.key), noise.distribution, scale.line != nullptr ? 1 : scale.b, noise.turn};
}

// The old and the new noise of one tensor, superblock after superblock.
template <class L>
class TensorNoise {
 public:
  TensorNoise(const NoiseDraw& old_noise, const ScaleOf& old_scale, const NoiseDraw& new_noise,
              const ScaleOf& new_scale, const MeasurePlace& measure)
      : off_(make_draw(old_noise, old_scale)),
        on_(make_draw(new_noise, new_scale)),
        old_scale_(old_scale),
        new_scale_(new_scale),
        measure_(measure),
        rows_(measure),
        has_off_(off_.first_scale != 0),
        has_on_(on_.first_scale != 0),
        is_one_draw_(is_one_draw(old_noise, new_noise)) {}

  // Draws what `off` and `on` return, for this superblock; they are to be asked for in ascending order.
  NVRM_INLINE void draw(uint64_t superblock) {
    const bool by_rows = old_scale_.line != nullptr || new_scale_.line != nullptr;
    bool in_one_row = false;
    if (has_off_ && has_on_ && !is_one_draw_) {
      if (by_rows) in_one_row = take_row_scales(static_cast<int64_t>(superblock));
      fill_two<L>(off_, superblock, off_buffer_[0], on_, superblock, on_buffer_[0]);
    } else if (superblock == ahead_) {
      which_ = 1;
      ahead_ = none;
    } else if (has_off_ || has_on_) {
      // One draw alone: the next superblock's goes with it, to keep the pair of chains.
      float *off = off_buffer_[0], *on = on_buffer_[0], *next_off = off_buffer_[1], *next_on = on_buffer_[1];
      if (has_off_ && has_on_) {
        fill_turns<L>(off_, on_, superblock, off, on, superblock + 1, next_off, next_on);
      } else if (has_off_) {
        fill_two<L>(off_, superblock, off, off_, superblock + 1, next_off);
      } else {
        fill_two<L>(on_, superblock, on, on_, superblock + 1, next_on);
      }
      which_ = 0;
      ahead_ = superblock + 1;
    }
    if (by_rows && !in_one_row) scale_by_rows(static_cast<int64_t>(superblock));
  }

  // 128 values, or null: nothing to take off, nothing to put on.
  const float* off() const { return has_off_ ? off_buffer_[which_] : nullptr; }
  const float* on() const { return has_on_ ? on_buffer_[which_] : nullptr; }

 private:
  static constexpr uint64_t none = ~uint64_t{0};

  // Whether a superblock lies in one row. Then its draws are by the row's scales, else of unit scale.
  NVRM_INLINE bool take_row_scales(int64_t superblock) {
    rows_.find(superblock * superblock_size);
    const bool in_one_row = rows_.end() - superblock * superblock_size >= superblock_size;
    const auto scale_of_row = [&](const ScaleOf& scale) {
      return in_one_row ? relative_scale(scale.b, scale.line[rows_.row()]) : 1.0f;
    };
    if (old_scale_.line != nullptr) off_.set_scale(scale_of_row(old_scale_));
    if (new_scale_.line != nullptr) on_.set_scale(scale_of_row(new_scale_));
    return in_one_row;
  }

  NVRM_NOINLINE void scale_by_rows(int64_t superblock) {
    if (has_off_ && old_scale_.line != nullptr) {
      scale_rows(old_scale_, rows_, measure_, superblock, off_buffer_[which_]);
    }
    if (has_on_ && new_scale_.line != nullptr) {
      scale_rows(new_scale_, rows_, measure_, superblock, on_buffer_[which_]);
    }
  }

  Draw off_;
  Draw on_;
  ScaleOf old_scale_;
  ScaleOf new_scale_;
  MeasurePlace measure_;
  RowFinder rows_;
  bool has_off_;
  bool has_on_;
  bool is_one_draw_;
  int which_ = 0;
  uint64_t ahead_ = none;
  // Of this superblock and, where one draw is made alone, of the next.
  alignas(64) float off_buffer_[2][superblock_size];
  alignas(64) float on_buffer_[2][superblock_size];
};

// What update gets beside an element, in the type in which the rule computes.
template <class Rule, class Math>
struct RuleArguments {
  typename Rule::template Hyper<Math> hyper;
  typename Rule::template Scalars<Math> scalars;
  bool is_first;
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
// measured: the clean weights that are left go to `kept`.
template <class L, class Rule, class Param, class Math, bool master, bool plain, bool measured>
NVRM_INLINE void step_superblock(const TensorNoise<L>& noise, const RuleArguments<Rule, Math>& rule,
                                 const Operands<Param, Math, master, Rule::states>& at, const StepPlan& plan,
                                 Math* kept) {
  using V = typename MathLanes<L, Math>::V;
  constexpr int width = MathLanes<L, Math>::width;
  const float* off = noise.off();
  const float* on = noise.on();
  const auto hyper = plain ? Rule::defaults(rule.hyper) : rule.hyper;
  const auto scalars = rule.scalars;
  const bool is_first = !plain && rule.is_first;
  const bool stream = plan.stream_parameters && (reinterpret_cast<uintptr_t>(at.parameter) & 63) == 0;
  const bool scaled = !plain && Rule::reads_gradient && plan.grad_scale != nullptr;
  const Math divisor = scaled ? static_cast<Math>(*plan.grad_scale) : Math(1);

  for (int i = 0; i < superblock_size; i += width) {
    V x = master ? load_as<L, V>(at.clean + i) : load_as<L, V>(at.parameter + i);
    V s[Rule::states + 1];
    for (int k = 0; k < Rule::states; ++k) s[k] = load_as<L, V>(at.state[k] + i);
    if (off != nullptr) x = x - load_as<L, V>(off + i);
    V g = load_as<L, V>(at.gradient + i);
    if (scaled) g = g / divisor;
    Rule::template update<L, V, Math>(x, g, s, hyper, scalars, is_first);
    for (int k = 0; k < Rule::states; ++k) L::store(at.state[k] + i, s[k]);
    if (master && !plan.noise.keep_noise) L::store(at.clean + i, x);
    if (measured && master) L::store(kept + i, x);
    if (on != nullptr) x = x + load_as<L, V>(on + i);
    if (master && plan.noise.keep_noise) L::store(at.clean + i, x);
    if constexpr (master && std::is_same_v<Param, float>) {
      if (stream) {
        L::stream(at.parameter + i, x);
        continue;
      }
    }
    L::store(at.parameter + i, x);
    if (measured && !master) {
      // Without masters the clean weights are what is left when the noise is taken off again.
      V left = x;
      if constexpr (!std::is_same_v<Param, Math>) left = load_as<L, V>(at.parameter + i);
      if (on != nullptr) left = left - load_as<L, V>(on + i);
      L::store(kept + i, left);
    }
  }
}

// The same for part of a superblock or for tensors that are not contiguous: through buffers, so that no element ever
// sees other arithmetic than the body's.
template <class L, class Rule, class Param, class Math, bool master>
void step_buffered(const TensorEntry& entry, const TensorNoise<L>& noise, const RuleArguments<Rule, Math>& rule,
                   int64_t begin, int64_t count, const StepPlan& plan, Measurer<L>& measurer) {
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
  if (measurer.is_on()) {
    alignas(64) Math kept[superblock_size];
    step_superblock<L, Rule, Param, Math, master, false, true>(noise, rule, at, plan, kept);
    measurer.add((entry.offset + begin) / superblock_size, kept, static_cast<int>(skip),
                 static_cast<int>(skip + count));
  } else {
    step_superblock<L, Rule, Param, Math, master, false, false>(noise, rule, at, plan, nullptr);
  }
  scatter<Param>(entry, parameter_operand, begin, count, parameter + skip);
  if (master) scatter<Math>(entry, master_operand, begin, count, clean + skip);
  for (int k = 0; k < Rule::states; ++k) scatter<State>(entry, state_operand + k, begin, count, state[k] + skip);
}

// Superblocks [begin, end) of one tensor, counted from the superblock in which it starts.
template <class L, class Rule, class Param, class Math, bool master>
void step_tensor(const TensorEntry& entry, const RuleArguments<Rule, Math>& rule, int64_t begin, int64_t end,
                 const StepPlan& plan) {
  using Ops = Operands<Param, Math, master, Rule::states>;
  using State = typename Ops::State;
  const NoiseDraw off = old_noise(entry.place, plan.noise, master), on = new_noise(entry.place, plan.noise);
  TensorNoise<L> noise(off, old_scale(off, entry.place, entry.measure), on,
                       new_scale(on, entry.place, entry.measure, plan.noise), entry.measure);
  Measurer<L> measurer(entry.measure, plan.noise.measure);
  alignas(64) Math kept[superblock_size];
  const int64_t first = entry.offset / superblock_size;
  const bool plain = plan.grad_scale == nullptr && !rule.is_first && Rule::has_defaults(rule.hyper);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t superblock = first + b;
    int64_t local = superblock * superblock_size - entry.offset;
    int64_t local_end = local + superblock_size;
    if (entry.layout == nullptr && local >= 0 && local_end + superblock_size <= entry.numel) {
      prefetch_superblock<Rule, Param, Math, master>(entry, local_end);
    }
    noise.draw(static_cast<uint64_t>(superblock));
    const bool whole = local >= 0 && local_end <= entry.numel;
    if (whole && entry.layout == nullptr) {
      Ops at{static_cast<Param*>(entry.data[parameter_operand]) + local,
             static_cast<const Param*>(entry.data[gradient_operand]) + local,
             master ? static_cast<Math*>(entry.data[master_operand]) + local : nullptr,
             {}};
      for (int k = 0; k < Rule::states; ++k) at.state[k] = static_cast<State*>(entry.data[state_operand + k]) + local;
      if (measurer.is_on()) {
        if (plain) {
          step_superblock<L, Rule, Param, Math, master, true, true>(noise, rule, at, plan, kept);
        } else {
          step_superblock<L, Rule, Param, Math, master, false, true>(noise, rule, at, plan, kept);
        }
        measurer.add(superblock, kept, 0, superblock_size);
      } else if (plain) {
        step_superblock<L, Rule, Param, Math, master, true, false>(noise, rule, at, plan, nullptr);
      } else {
        step_superblock<L, Rule, Param, Math, master, false, false>(noise, rule, at, plan, nullptr);
      }
    } else {
      if (local < 0) local = 0;
      if (local_end > entry.numel) local_end = entry.numel;
      step_buffered<L, Rule, Param, Math, master>(entry, noise, rule, local, local_end - local, plan, measurer);
    }
  }
}

// The entry in which superblock `begin` of the plan falls: binary search in the running count.
inline int64_t entry_of(const StepPlan& plan, int64_t begin) {
  int64_t low = 0, high = plan.entry_count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (plan.first_superblock[middle] <= begin ? low : high) = middle;
  }
  return low;
}

template <class L, class Rule, class Param, class Math, bool master>
void step_range(const StepPlan& plan, int64_t begin, int64_t end) {
  const int64_t low = entry_of(plan, begin);
  const double* raw = plan.hyper_tensor != nullptr ? plan.hyper_tensor : plan.hyper;
  RuleArguments<Rule, Math> rule{Rule::template combine<Math>(raw), {}, false};
  int64_t known_step = -1;  // whose scalars `rule` holds: neighbors nearly always share their step
  for (int64_t e = low; e < plan.entry_count && plan.first_superblock[e] < end; ++e) {
    const int64_t start = plan.first_superblock[e], stop = plan.first_superblock[e + 1];
    const int64_t from = begin > start ? begin - start : 0;
    const int64_t to = (end < stop ? end : stop) - start;
    const TensorEntry& entry = plan.entries[e];
    if (from >= to || stays_clean(entry.place)) continue;
    if (entry.place.step != nullptr && *entry.place.step != known_step) {
      known_step = *entry.place.step;
      rule.scalars = Rule::template scalars<Math>(raw, known_step + 1);
    }
    rule.is_first = Rule::has_special_first_gradient && is_first_gradient(entry.place);
    step_tensor<L, Rule, Param, Math, master>(entry, rule, from, to, plan);
  }
  if (plan.stream_parameters) L::end_stream();
}

template <class L, class Rule, class Param, class Math>
void step_storage(const StepPlan& plan, int64_t begin, int64_t end) {
  static_assert(Rule::noise_scale == NoiseScale::per_tensor, "these kernels know one scale a tensor");
  if (plan.has_master) {
    step_range<L, Rule, Param, Math, true>(plan, begin, end);
  } else {
    step_range<L, Rule, Param, Math, false>(plan, begin, end);
  }
}

template <class L, class Rule>
void step_kernel(const StepPlan& plan, int64_t begin, int64_t end) {
  switch (plan.kind) {
    case ScalarKind::float32:
      return step_storage<L, Rule, float, float>(plan, begin, end);
    case ScalarKind::float64:
      return step_storage<L, Rule, double, double>(plan, begin, end);
    case ScalarKind::bfloat16:
      return step_storage<L, Rule, BFloat16, float>(plan, begin, end);
    case ScalarKind::float16:
      return step_storage<L, Rule, Float16, float>(plan, begin, end);
  }
}

template <class L>
void rule_kernel(int rule, const StepPlan& plan, int64_t begin, int64_t end) {
  switch (rule) {
#define NVRM_CASE(code, Rule) \
  case code:                  \
    return step_kernel<L, Rule>(plan, begin, end);
    NVRM_FOR_EACH_RULE(NVRM_CASE)
#undef NVRM_CASE
  }
}

template <class L>
void reperturb_kernel(const StepPlan& plan, int64_t begin, int64_t end) {
  step_kernel<L, NoUpdate>(plan, begin, end);
}

// Superblocks [begin, end) of one tensor: its clean weights, without writing any.
template <class L, class Param, class Math>
void measure_tensor(const TensorEntry& entry, int64_t begin, int64_t end, const StepPlan& plan) {
  using V = typename MathLanes<L, Math>::V;
  constexpr int width = MathLanes<L, Math>::width;
  const NoiseDraw off = old_noise(entry.place, plan.noise, plan.has_master);
  TensorNoise<L> noise(off, old_scale(off, entry.place, entry.measure), NoiseDraw{}, ScaleOf{}, entry.measure);
  Measurer<L> measurer(entry.measure, plan.noise.measure);
  alignas(64) Param parameter[superblock_size] = {};
  alignas(64) Math kept[superblock_size] = {};
  for (int64_t b = begin; b < end; ++b) {
    const int64_t superblock = entry.offset / superblock_size + b;
    const int64_t local = superblock * superblock_size - entry.offset;
    const int64_t from = local < 0 ? 0 : local;
    const int64_t to = local + superblock_size < entry.numel ? local + superblock_size : entry.numel;
    const int skip = static_cast<int>(from - local);
    if (plan.has_master) {
      gather<Math>(entry, master_operand, from, to - from, kept + skip);
    } else {
      gather<Param>(entry, parameter_operand, from, to - from, parameter + skip);
      noise.draw(static_cast<uint64_t>(superblock));
      for (int i = 0; i < superblock_size; i += width) {
        V x = load_as<L, V>(parameter + i);
        if (noise.off() != nullptr) x = x - load_as<L, V>(noise.off() + i);
        L::store(kept + i, x);
      }
    }
    measurer.add(superblock, kept, skip, static_cast<int>(to - local));
  }
}

template <class L>
void measure_kernel(const StepPlan& plan, bool only_clean, int64_t begin, int64_t end) {
  for (int64_t e = entry_of(plan, begin); e < plan.entry_count && plan.first_superblock[e] < end; ++e) {
    const int64_t start = plan.first_superblock[e], stop = plan.first_superblock[e + 1];
    const int64_t from = begin > start ? begin - start : 0;
    const int64_t to = (end < stop ? end : stop) - start;
    const TensorEntry& entry = plan.entries[e];
    if (from >= to || (only_clean && recorded_noise(entry.place.record).scale != 0)) continue;
    switch (plan.kind) {
      case ScalarKind::float32:
        measure_tensor<L, float, float>(entry, from, to, plan);
        break;
      case ScalarKind::float64:
        measure_tensor<L, double, double>(entry, from, to, plan);
        break;
      case ScalarKind::bfloat16:
        measure_tensor<L, BFloat16, float>(entry, from, to, plan);
        break;
      case ScalarKind::float16:
        measure_tensor<L, Float16, float>(entry, from, to, plan);
        break;
    }
  }
}

}  // namespace
}  // namespace nvrm
