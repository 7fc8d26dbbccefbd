// The file of launches that tests/helpers/ptx/recording.py reads.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

static FILE* out;

template <class T>
static void put(const T& value) {
  fwrite(&value, sizeof value, 1, out);
}
static void put_bytes(const void* data, size_t size) {
  put(static_cast<uint64_t>(size));
  fwrite(data, 1, size, out);
}
static void put_text(const std::string& text) { put_bytes(text.data(), text.size()); }

// Memory that a launch may touch.
struct Piece {
  const void* address;
  size_t size;
  bool is_sums = false;  // words that may hold carries: their integers count
};

static void put_pieces(const std::vector<Piece>& pieces) {
  put(static_cast<uint64_t>(pieces.size()));
  for (const Piece& piece : pieces) {
    put(reinterpret_cast<uint64_t>(piece.address));
    put(static_cast<int>(piece.is_sums));
    put_bytes(piece.address, piece.size);
  }
}
