// What one launch is told about its tensors: a table that travels by value as a kernel argument, so that nothing has
// to be copied to the device first and a captured CUDA graph holds it.
#pragma once

#if __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>  // CUDART_VERSION, the same for the kernels and for the glue
#endif

#include "../math/tensor_table.h"
#include "element_map.h"

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

struct CudaTensor {
  void* data[operand_count];  // as in TensorEntry
  RecordPlace place;
  int64_t numel;
  int64_t offset;
  uint32_t first_cta;  // running count of the launch's CTAs before this tensor
  int16_t layout;      // position in the pool's list of layouts, or -1 when everything is contiguous
  bool takes_rows;     // every row of 4 is aligned in every operand
};

// Whether a GradScaler found infinite gradients: then nothing at all is written.
NVRM_INLINE bool is_skipped(const float* found_inf) { return found_inf != nullptr && *found_inf != 0; }

struct LaunchHeader {
  NewNoise noise;
  double hyper[max_hyper];     // the rule's, raw
  const double* hyper_tensor;  // the same on the device, read instead; may be null
  const float* grad_scale;     // the gradients are divided by it; may be null
  const float* found_inf;      // not 0: the step is skipped; may be null
  int tensor_count;
  int layout_count;
  int rounds;  // each CTA works through rounds * superblocks_per_round superblocks
  uint32_t cta_count;
};

// Tensors fill the pool from the front, layouts (few lists have any) from the back.
constexpr int pool_bytes = (argument_bytes - static_cast<int>(sizeof(LaunchHeader))) / 16 * 16 - 16;

struct LaunchTable {
  LaunchHeader header;
  alignas(16) unsigned char pool[pool_bytes];

  NVRM_INLINE const CudaTensor& tensor(int i) const { return reinterpret_cast<const CudaTensor*>(pool)[i]; }
  NVRM_INLINE const Layout& layout(int i) const { return reinterpret_cast<const Layout*>(pool + pool_bytes)[-1 - i]; }

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

static_assert(sizeof(CudaTensor) % 8 == 0 && sizeof(Layout) % 8 == 0, "both share one pool");
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

}  // namespace nvrm
