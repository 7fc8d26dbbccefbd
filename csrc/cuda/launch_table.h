// What one launch is told about its tensors: a table that travels by value as a kernel argument, so that nothing has
// to be copied to the device first and a captured CUDA graph holds it.
#pragma once

#if __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>  // CUDART_VERSION, the same for the kernels and for the glue
#endif

#include "../math/tensor_table.h"
#include "element_map.h"
#include "walk.h"

namespace nvrm {

// 32 764 bytes of arguments need CUDA 12.1, and a driver as new. A program built with CUDA 12.x may meet an older
// driver of the same major version, so the large table is for builds with CUDA 13, whose every driver takes it.
#if defined(NVRM_ARGUMENT_BYTES)
constexpr int argument_bytes = NVRM_ARGUMENT_BYTES;
#elif defined(CUDART_VERSION) && CUDART_VERSION < 13000
constexpr int argument_bytes = 4096;
#else
constexpr int argument_bytes = 32764;
#endif

// In the place of a layout: everything is contiguous, and in the second case every row of 4 is aligned in every
// operand.
constexpr int16_t contiguous = -1;
constexpr int16_t contiguous_in_rows = -2;
// Added to the place of a Walk, which is there instead of a Layout where it can be.
constexpr int16_t walked = 1 << 14;

// Where a layout or a measure lies in the pool is counted in this many bytes.
constexpr int pool_unit = 8;

struct CudaTensor {
  void* data[operand_count];  // as in TensorEntry
  RecordPlace place;
  int64_t numel;
  int64_t offset;
  uint32_t first_cta;  // running count of the launch's CTAs before this tensor
  int16_t layout;      // the place of its Layout or Walk in the pool, or one of those above
  int16_t measure;     // the place of its MeasurePlace in the pool, where the launch has measures

  NVRM_INLINE bool takes_rows() const { return layout == contiguous_in_rows; }
  NVRM_INLINE bool is_walked() const { return layout >= walked; }
};

// Whether a GradScaler found infinite gradients: then nothing at all is written.
NVRM_INLINE bool is_skipped(const float* found_inf) { return found_inf != nullptr && *found_inf != 0; }

struct LaunchHeader {
  NewNoise noise;
  double hyper[max_hyper];     // the rule's, raw
  const double* hyper_tensor;  // the same on the device, read instead; may be null
  const float* grad_scale;     // the gradients are divided by it; may be null
  const float* found_inf;      // not 0: the step is skipped; may be null
  bool only_clean;             // of a measuring: tensors that carry noise are left out
  int tensor_count;
  int rounds;  // each CTA works through rounds * superblocks_per_round superblocks
  uint32_t cta_count;
};

// Tensors fill the pool from the front, layouts and measures (few lists have any) from the back.
constexpr int pool_bytes = (argument_bytes - static_cast<int>(sizeof(LaunchHeader))) / 16 * 16 - 16;

struct LaunchTable {
  LaunchHeader header;
  alignas(16) unsigned char pool[pool_bytes];

  NVRM_INLINE const CudaTensor& tensor(int i) const { return reinterpret_cast<const CudaTensor*>(pool)[i]; }
  NVRM_INLINE const Layout& layout(int16_t place) const {
    return *reinterpret_cast<const Layout*>(pool + place * pool_unit);
  }
  NVRM_INLINE const Walk& walk(int16_t layout) const {
    return *reinterpret_cast<const Walk*>(pool + (layout - walked) * pool_unit);
  }
  NVRM_INLINE const MeasurePlace& measure(int16_t place) const {
    return *reinterpret_cast<const MeasurePlace*>(pool + place * pool_unit);
  }

  // The tensor that a CTA works on: binary search in the running count.
  NVRM_INLINE int tensor_of(uint32_t cta) const {
    int low = 0, high = header.tensor_count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (tensor(middle).first_cta <= cta) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

static_assert(sizeof(CudaTensor) % pool_unit == 0 && sizeof(Layout) % pool_unit == 0 && sizeof(Walk) % pool_unit == 0 &&
                  sizeof(MeasurePlace) % pool_unit == 0,
              "they share one pool");
static_assert(pool_bytes / pool_unit < walked, "a place in the pool and the mark of a Walk are one number");
static_assert(sizeof(LaunchTable) <= argument_bytes, "kernel arguments have a limit");

// For the launch that writes the records and the step counters: few bytes, because it follows every step.
constexpr int places_per_launch = 124;
struct RecordTable {
  RecordPlace place[places_per_launch];
  NewNoise noise;
  const float* found_inf;
  int count;

  // What one thread of the launch does; all threads' first half comes before anyone's second.
  NVRM_INLINE void write_record_of(int thread) const {
    if (thread < count && !is_skipped(found_inf)) write_record(place[thread], noise);
  }
  template <class Add>
  NVRM_INLINE void count_step_of(int thread, Add add_one) const {
    if (thread < count && place[thread].step != nullptr && !is_skipped(found_inf)) add_one(place[thread].step);
  }
};
static_assert(sizeof(RecordTable) <= 4096, "kernel arguments have a limit");

// For the launch that makes measures of sums.
constexpr int finishes_per_launch = 60;
struct FinishTable {
  FinishPlace place[finishes_per_launch];
  const float* found_inf;
  int count;
  int measure;
  bool moves;       // the line of the clean weights becomes that of the noise that is on
  bool only_clean;  // parameters that carry noise are left as they are

  // What one thread of so many does for a parameter: every so many-th row.
  NVRM_INLINE void finish_rows_of(int position, int thread, int threads) const {
    const FinishPlace& mine = place[position];
    if (is_skipped(found_inf) || (only_clean && recorded_noise(mine.record).scale != 0)) return;
    NVRM_UNROLL(1)
    for (int64_t row = thread; row < mine.at.rows; row += threads) {
      const int64_t* sum = mine.at.sums + row * sum_words;
      if (moves) mine.at.measures[row] = mine.at.clean()[row];
      if (mine.left == nullptr) {
        mine.at.clean()[row] = finished_measure(sum, measure, mine.count);
      } else {
        NVRM_UNROLL(4)
        for (int word = 0; word < sum_words; ++word) mine.left[row * sum_words + word] = sum[word];
      }
    }
  }
};
static_assert(sizeof(FinishTable) <= 4096, "kernel arguments have a limit");

}  // namespace nvrm
