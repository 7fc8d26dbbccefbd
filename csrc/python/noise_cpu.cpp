// What every operator checks of its noise, and fill_noise_ on the CPU.
#include <algorithm>

#include "../cpu/select.h"
#include "noise_arguments.h"
#include "parallel.h"

namespace nvrm {

void check_stream(int64_t stream) {
  NVRM_CHECK_VALUE(stream >= 0 && stream <= 0xffffffffLL, "stream must be in [0, 2^32), got ", stream);
}

NoiseKey noise_key(int64_t seed, int64_t stream, int64_t step) {
  check_stream(stream);
  const uint64_t bits = static_cast<uint64_t>(seed);
  return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32), static_cast<uint32_t>(stream),
          static_cast<uint32_t>(step)};
}

void check_distribution(int64_t distribution, const char* argument) {
  NVRM_CHECK_VALUE(distribution >= 0 && distribution < distribution_count, argument, " must be a code in [0, ",
                   distribution_count, "), got ", distribution);
}

NoiseKey checked_fill(const Tensor& self, int64_t seed, int64_t stream, int64_t step, int64_t distribution,
                      int64_t offset) {
  NVRM_CHECK_TYPE(self.type() == ElementType::float32, "self must be float32, got ", self.type());
  NVRM_CHECK_VALUE(self.is_contiguous(), "self must be contiguous");
  NVRM_CHECK_VALUE(offset >= 0, "offset must not be negative, got ", offset);
  check_distribution(distribution, "distribution");
  return noise_key(seed, stream, step);
}

void fill_noise(const NoiseKey& key, int distribution, float scale, int64_t offset, float* out, int64_t numel) {
  const CpuKernels& kernels = cpu_kernels();
  // Threads share whole superblocks, so that none is drawn twice.
  const int64_t first = offset / superblock_size;
  const int64_t last = (offset + numel + superblock_size - 1) / superblock_size;
  parallel_for(first, last, superblocks_per_task, [&](int64_t begin, int64_t end) {
    const int64_t from = std::max(begin * superblock_size, offset);
    const int64_t to = std::min(end * superblock_size, offset + numel);
    if (from < to) kernels.noise(key, distribution, scale, from, out + (from - offset), to - from);
  });
}

}  // namespace nvrm
