// The record of a parameter: which noise its weights carry. Eight int64 words in the memory of the parameter's own
// device, read and written by the operators that change the weights (nvrm_fast/contract/record.py names them too).
#pragma once

#include "philox.h"
#include "turn.h"

namespace nvrm {

enum RecordWord {
  record_scale,         // float32 bits of the scale b of the noise that is on the weights; 0: they are clean. With
                        // relative_bit they are those of its factor: b is that times the measures (measure.h)
  record_seed,          // 64 bits, two's complement
  record_distribution,  // its code (distribution.h)
  record_stream,        // in [0, 2^32): which stream the parameter draws from, now and next time
  record_step,          // step number of the draw; its low 32 bits are the counter's word
  record_turn,          // of the draw, in quarters, 0 to 3 (turn.h); 0 for noise that is drawn in no cycles
  record_rule_steps,    // steps that the rule's state has seen; 0: the next gradient is its first
  record_numel,         // elements of the full, unsharded parameter
  record_words
};

constexpr int64_t relative_bit = int64_t{1} << 32;  // of the word record_scale

// One draw of noise on a parameter: scale * distribution(key, element), turned. scale 0 means none.
struct NoiseDraw {
  NoiseKey key;
  int distribution;
  float scale;
  int turn;
};

// Where a parameter's record lies, and what else tells which noise it is to carry: all in its device's memory.
struct RecordPlace {
  int64_t* record;
  int64_t* step;          // steps done before this one; null where no step is made and only the noise changes
  const float* scale;     // in a step: b of the noise to put on; null: the list's
  const int64_t* target;  // without a step: the record of the noise to put on
};

// What a step is told about the noise to put on, for its whole list of parameters.
struct NewNoise {
  uint64_t seed;
  int64_t denoise_every;  // k > 0: every k-th step puts nothing on
  int distribution;
  float scale;
  bool keep_noise;  // it stays in the weights for good (perturbed SGD, SGLD): nothing ever comes off
  int measure;      // not 0: b is scale times this measure of the clean weights
  bool cycle;       // one draw serves four steps

  NVRM_INLINE int64_t draw_of(int64_t step) const { return cycle ? step >> 2 : step; }
  NVRM_INLINE int turn_of(int64_t step) const { return cycle ? static_cast<int>(step & 3) : 0; }
};

NVRM_INLINE bool is_relative(const int64_t* record) { return (record[record_scale] & relative_bit) != 0; }

NVRM_INLINE NoiseKey key_of(uint64_t seed, int64_t stream, int64_t step) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(stream),
          static_cast<uint32_t>(step)};
}

// The noise that a record tells of.
NVRM_INLINE NoiseDraw recorded_noise(const int64_t* record) {
  return {key_of(static_cast<uint64_t>(record[record_seed]), record[record_stream], record[record_step]),
          static_cast<int>(record[record_distribution]),
          ScalarLanes::float_from_bits(static_cast<uint32_t>(record[record_scale])),
          static_cast<int>(record[record_turn]) & (turn_count - 1)};
}

// The noise to take off the parameter's values. is_clean: there is none in what the rule reads (master weights).
NVRM_INLINE NoiseDraw old_noise(const RecordPlace& at, const NewNoise& noise, bool is_clean) {
  NoiseDraw draw = recorded_noise(at.record);
  if (is_clean || noise.keep_noise) draw.scale = 0;
  return draw;
}

// The noise to put on.
NVRM_INLINE NoiseDraw new_noise(const RecordPlace& at, const NewNoise& noise) {
  if (at.target != nullptr) return recorded_noise(at.target);
  const int64_t step = *at.step + 1;
  const bool denoises = noise.denoise_every > 0 && step % noise.denoise_every == 0;
  const float scale = at.scale != nullptr ? *at.scale : noise.scale;
  return {key_of(noise.seed, at.record[record_stream], noise.draw_of(step)), noise.distribution, denoises ? 0 : scale,
          noise.turn_of(step)};
}

// Whether both noises are turns of one draw, so that its values need to be made only once.
NVRM_INLINE bool is_one_draw(const NoiseDraw& a, const NoiseDraw& b) {
  return a.key.seed_low == b.key.seed_low && a.key.seed_high == b.key.seed_high && a.key.stream == b.key.stream &&
         a.key.step == b.key.step && a.distribution == b.distribution;
}

// Whether there is no noise to take off and none to put on without a step. The parameter is then not even written: it
// is the user's, and with master weights it may be newer than they are.
NVRM_INLINE bool stays_clean(const RecordPlace& at) {
  return at.target != nullptr && recorded_noise(at.record).scale == 0 && recorded_noise(at.target).scale == 0;
}

// Whether the rule's state has not seen a gradient yet.
NVRM_INLINE bool is_first_gradient(const RecordPlace& at) { return at.record[record_rule_steps] == 0; }

// After the weights were written, and before the step counter is: what they carry now.
NVRM_INLINE void write_record(const RecordPlace& at, const NewNoise& noise) {
  if (at.target != nullptr) {
    for (int word = record_scale; word <= record_turn; ++word) at.record[word] = at.target[word];
    return;
  }
  const float scale = noise.keep_noise ? 0.0f : new_noise(at, noise).scale;
  const auto bits = static_cast<int64_t>(ScalarLanes::bits_of(scale));
  at.record[record_scale] = noise.measure != 0 && bits != 0 ? bits | relative_bit : bits;
  at.record[record_seed] = static_cast<int64_t>(noise.seed);
  at.record[record_distribution] = noise.distribution;
  at.record[record_step] = noise.draw_of(*at.step + 1);
  at.record[record_turn] = noise.turn_of(*at.step + 1);
  at.record[record_rule_steps] += 1;
}

}  // namespace nvrm
