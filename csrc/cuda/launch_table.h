// What one launch is told about its tensors: a table that travels by value as a kernel argument, so that nothing has
// to be copied to the device first and a captured CUDA graph holds it.
#pragma once

#if __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>  // CUDART_VERSION, the same for the kernels and for the glue
#endif

#include "../optim/step.h"
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
  const int64_t* step;        // device memory: steps done before this one
  int64_t numel;
  int64_t offset;
  float scale_off;
  float scale_on;
  uint32_t stream;
  uint32_t first_group;  // running count of the launch's groups before this tensor
  int16_t layout;        // position in the pool's list of layouts, or -1 when everything is contiguous
  bool is_first;
  bool takes_rows;  // every row of 4 is aligned in every operand
};

// One draw of the whole list; stream and step of the schedule are each tensor's own.
struct ListCoat {
  PhiloxSchedule key;
  int distribution;
};

// Whether a GradScaler found infinite gradients: then nothing at all is written.
NVRM_INLINE bool is_skipped(const float* found_inf) { return found_inf != nullptr && *found_inf != 0; }

struct LaunchHeader {
  ListCoat coat_off;
  ListCoat coat_on;
  AdamCorrections adam;
  const float* grad_scale;  // the gradients are divided by it; may be null
  const float* found_inf;   // not 0: the step is skipped; may be null
  int tensor_count;
  int layout_count;
  int rounds;  // each group works through rounds * superblocks_per_round superblocks
  uint32_t group_count;
  bool draws_next;  // the new coat is drawn at step + 1, else at step
  bool keep_noise;
};

// Tensors fill the pool from the front, layouts (few lists have any) from the back.
constexpr int hyper_bytes = 64;  // the rule's, the kernel's second argument
constexpr int pool_bytes = (argument_bytes - hyper_bytes - static_cast<int>(sizeof(LaunchHeader))) / 16 * 16 - 16;

struct LaunchTable {
  LaunchHeader header;
  alignas(16) unsigned char pool[pool_bytes];

  NVRM_INLINE const CudaTensor& tensor(int i) const { return reinterpret_cast<const CudaTensor*>(pool)[i]; }
  NVRM_INLINE const Layout& layout(int i) const { return reinterpret_cast<const Layout*>(pool + pool_bytes)[-1 - i]; }

  // The tensor that a group works on: binary search in the running count.
  NVRM_INLINE int tensor_of(uint32_t group) const {
    int low = 0, high = header.tensor_count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (tensor(middle).first_group <= group) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

static_assert(sizeof(CudaTensor) % 16 == 0 && sizeof(Layout) % 8 == 0, "both share one pool");
static_assert(sizeof(LaunchTable) + hyper_bytes <= argument_bytes, "kernel arguments have a limit");

// Pointers of step counters, for the launch that increases them: few bytes, because it follows every step.
constexpr int counters_per_launch = 480;
struct CounterTable {
  int64_t* counter[counters_per_launch];
  const float* found_inf;
  int count;

  // What one thread of the counting launch does.
  NVRM_INLINE void add_one(int thread) const {
    if (thread < count && !is_skipped(found_inf)) *counter[thread] += 1;
  }
};

}  // namespace nvrm
