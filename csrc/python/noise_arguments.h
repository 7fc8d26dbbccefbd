// From operator arguments to the noise contract's integers.
#pragma once

#include "../math/distribution.h"
#include "../math/philox.h"
#include "tensor.h"

namespace nvrm {

// Fewest superblocks worth a thread of their own: 8 Ki elements take about as long as waking one.
constexpr int64_t superblocks_per_task = 64;

// Raises ValueError for one outside 32 bits.
void check_stream(int64_t stream);

// seed: 64 bits in two's complement. Raises ValueError for a stream outside 32 bits; step wraps at 2^32.
NoiseKey noise_key(int64_t seed, int64_t stream, int64_t step);

// Raises ValueError for an unknown code.
void check_distribution(int64_t distribution, const char* argument);

// The checks of fill_noise_ on any device, and its key.
NoiseKey checked_fill(const Tensor& self, int64_t seed, int64_t stream, int64_t step, int64_t distribution,
                      int64_t offset);

// out[0..numel) = elements [offset, offset + numel) of scale * distribution(key), on the CPU, by torch's threads.
void fill_noise(const NoiseKey& key, int distribution, float scale, int64_t offset, float* out, int64_t numel);

// The same on the tensor's CUDA device and torch's current stream there.
void fill_noise_on_cuda(const NoiseKey& key, int distribution, float scale, int64_t offset, const Tensor& out);

}  // namespace nvrm
