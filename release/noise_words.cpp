// Random words, their lowest bits or bytes of Gaussian values, in one of the orders in which the library uses them, as
// raw bytes on standard output without end: `noise_words ORDER KIND SEED`. release/noise_battery.py compiles it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../csrc/math/distribution.h"
#include "../csrc/math/philox.h"

namespace {

using nvrm::NoiseKey;
using nvrm::PhiloxSchedule;
using nvrm::ScalarLanes;

struct Block {
  uint32_t word[4];
};

Block block_of(uint64_t block, const NoiseKey& key) {
  uint64_t wide[4];
  nvrm::philox4x32<ScalarLanes>(uint64_t{static_cast<uint32_t>(block)}, static_cast<uint32_t>(block >> 32),
                                nvrm::philox_schedule(key), wide);
  Block words;
  for (int k = 0; k < 4; ++k) words.word[k] = static_cast<uint32_t>(wide[k]);
  return words;
}

// Word k of `run` blocks, for one k after the other: so an element meets its own words, not its block's.
void by_element(const Block* blocks, int run, std::vector<uint32_t>& out) {
  for (int k = 0; k < 4; ++k) {
    for (int j = 0; j < run; ++j) out.push_back(blocks[j].word[k]);
  }
}

constexpr int chunk = 1 << 14;

// The words of one more chunk of counters.
using Order = void (*)(uint64_t seed, uint64_t number, std::vector<uint32_t>& out);

NoiseKey key_of(uint64_t seed, uint32_t stream, uint32_t step) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), stream, step};
}

// One tensor at one step, element after element: 16 blocks make a superblock.
void elements(uint64_t seed, uint64_t number, std::vector<uint32_t>& out) {
  Block blocks[16];
  const NoiseKey key = key_of(seed, 3, 5);
  for (int first = 0; first < chunk; first += 16) {
    for (int j = 0; j < 16; ++j) blocks[j] = block_of(number * chunk + first + j, key);
    by_element(blocks, 16, out);
  }
}

// The same element at one step after the other; after 2^14 of them the next element.
void steps(uint64_t seed, uint64_t number, std::vector<uint32_t>& out) {
  static Block blocks[chunk];
  for (int i = 0; i < chunk; ++i) {
    blocks[i] = block_of(number % 4096, key_of(seed, 3, static_cast<uint32_t>(number / 4096) * chunk + i));
  }
  by_element(blocks, chunk, out);
}

// The same element of tensors whose streams are neighbors.
void streams(uint64_t seed, uint64_t number, std::vector<uint32_t>& out) {
  static Block blocks[chunk];
  for (int i = 0; i < chunk; ++i) {
    blocks[i] = block_of(number % 4096, key_of(seed, static_cast<uint32_t>(number / 4096) * chunk + i, 5));
  }
  by_element(blocks, chunk, out);
}

// The same element under a seed and the 64 seeds that differ from it in one bit, then the next element.
void seeds(uint64_t seed, uint64_t number, std::vector<uint32_t>& out) {
  Block blocks[65];
  for (int first = 0; first < chunk / 64; ++first) {
    const uint64_t block = number * (chunk / 64) + first;
    for (int bit = 0; bit < 65; ++bit) {
      blocks[bit] = block_of(block, key_of(bit == 0 ? seed : seed ^ (uint64_t{1} << (bit - 1)), 3, 5));
    }
    by_element(blocks, 65, out);
  }
}

// 16 streams at 16 steps, block after block, each block's four words together.
void interleaved(uint64_t seed, uint64_t number, std::vector<uint32_t>& out) {
  for (int i = 0; i < chunk; ++i) {
    const uint64_t n = number * chunk + i;
    const Block block = block_of(n >> 8, key_of(seed, n & 15, (n >> 4) & 15));
    out.insert(out.end(), block.word, block.word + 4);
  }
}

// The byte floor(256 Phi(x)) of a value x.
class ByteOfNormal {
 public:
  ByteOfNormal() {
    for (int b = 1; b < 256; ++b) {
      double low = -10, high = 10;
      while (high - low > 1e-12) {
        const double middle = (low + high) / 2;
        (std::erfc(-middle * std::sqrt(0.5)) / 2 < b / 256.0 ? low : high) = middle;
      }
      threshold_[b] = static_cast<float>(low);
    }
    threshold_[256] = 100;
    // Thresholds are more than a cell apart.
    for (int i = 0; i < cells; ++i) {
      int byte = 0;
      while (threshold_[byte + 1] <= (i - cells / 2) * cell) ++byte;
      first_[i] = static_cast<uint8_t>(byte);
    }
  }
  uint8_t operator()(float x) const {
    const int byte = first_[static_cast<int>(x * (1 / cell) + cells / 2)];
    return static_cast<uint8_t>(byte + (x >= threshold_[byte + 1]));
  }

 private:
  static constexpr int cells = 8192;
  static constexpr float cell = 1.0f / 512;
  float threshold_[257];
  uint8_t first_[cells];
};

void to_gaussian_bytes(const std::vector<uint32_t>& words, std::vector<uint32_t>& out) {
  static const ByteOfNormal byte_of;
  static std::vector<float> first, second;
  first.resize(words.size());
  second.resize(words.size());
  for (size_t i = 0; i < words.size(); ++i) {
    nvrm::Gaussian::values<ScalarLanes>(words[i], &first[i], &second[i]);
  }
  // Rows of elements: the first values of 16 words, then their second ones.
  out.resize(words.size() / 2);
  uint8_t* byte = reinterpret_cast<uint8_t*>(out.data());
  for (size_t row = 0; row + 16 <= words.size(); row += 16) {
    for (size_t i = row; i < row + 16; ++i) *byte++ = byte_of(first[i]);
    for (size_t i = row; i < row + 16; ++i) *byte++ = byte_of(second[i]);
  }
}

// The lowest bit of each word: the products' low halves mix it last.
void to_lowest_bits(const std::vector<uint32_t>& words, std::vector<uint32_t>& out) {
  out.assign(words.size() / 32, 0);
  for (size_t i = 0; i < out.size(); ++i) {
    for (int bit = 0; bit < 32; ++bit) out[i] |= (words[i * 32 + bit] & 1u) << bit;
  }
}

}  // namespace

int main(int count, char** arguments) {
  const struct {
    const char* name;
    Order order;
  } orders[] = {
      {"elements", elements}, {"steps", steps}, {"streams", streams}, {"seeds", seeds}, {"interleaved", interleaved}};
  if (count != 4) return 2;
  const std::string name = arguments[1], kind = arguments[2];
  const uint64_t seed = std::strtoull(arguments[3], nullptr, 0);
  const auto found = std::find_if(std::begin(orders), std::end(orders), [&](const auto& o) { return name == o.name; });
  if (found == std::end(orders) || (kind != "words" && kind != "lowest" && kind != "gaussian")) return 2;
  std::vector<uint32_t> words, out;
  for (uint64_t number = 0;; ++number) {
    words.clear();
    found->order(seed, number, words);
    if (kind != "words") {
      (kind == "lowest" ? to_lowest_bits : to_gaussian_bytes)(words, out);
      words.swap(out);
    }
    if (std::fwrite(words.data(), sizeof(uint32_t), words.size(), stdout) != words.size()) return 0;
  }
}
