// What a MicroAdam step overwrites before all gradients are known to be finite, kept so that it can
// be taken back.
#pragma once

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#include "avx512.h"
#include "microadam_block.h"

namespace gx {

constexpr int64_t kUndoBytes = int64_t{64} << 20;  // at most, which the process then keeps
constexpr int64_t kLine = 64;

struct Piece {
  char* data;
  int64_t bytes;

  int64_t lines() const { return (bytes + kLine - 1) / kLine * kLine; }
};

// Everything that the compression of a block overwrites.
GX_INLINE std::array<Piece, 5> overwritten(const Leaf& leaf, int64_t block, int64_t quant) {
  const int64_t start = block * leaf.block_size, column = block * leaf.k;
  const int64_t n = std::min(leaf.block_size, leaf.numel - start);
  const int64_t kept = std::min(leaf.k, leaf.columns - column), bounds = num_blocks(n, quant);
  const int64_t row = leaf.row * leaf.columns + column;
  return {{{reinterpret_cast<char*>(leaf.codes + start / 2), num_bytes(n, kBits)},
           {reinterpret_cast<char*>(leaf.lo + start / quant), 2 * bounds},
           {reinterpret_cast<char*>(leaf.hi + start / quant), 2 * bounds},
           {reinterpret_cast<char*>(leaf.indices + row), 2 * kept},
           {reinterpret_cast<char*>(leaf.values + row), 2 * kept}}};
}

// Bytes that a block's copy has room for.
inline int64_t undo_bytes(const Leaf& leaf, int64_t quant) {
  int64_t bytes = 0;
  for (const Piece& piece : overwritten(leaf, 0, quant)) bytes += piece.lines();
  return bytes;
}

// Copy whole lines past the caches, where that is possible: they are hardly ever read.
GX_INLINE void save(const Piece& piece, char* to) {
  int64_t done = 0;
#if defined(__SSE2__)
  for (; done + kLine <= piece.bytes; done += kLine) {
    for (int64_t i = done; i < done + kLine; i += 16) {
      const auto* from = reinterpret_cast<const __m128i*>(piece.data + i);
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(from));
    }
  }
#endif
  std::memcpy(to + done, piece.data + done, static_cast<size_t>(piece.bytes - done));
}

inline void save_block(const Leaf& leaf, int64_t block, int64_t quant) {
  char* to = leaf.undo + block * undo_bytes(leaf, quant);
  for (const Piece& piece : overwritten(leaf, block, quant)) {
    save(piece, to);
    to += piece.lines();
  }
}

// What has been saved may be read by other threads after this.
inline void finish_saving() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

inline void restore_block(const Leaf& leaf, int64_t block, int64_t quant) {
  const char* from = leaf.undo + block * undo_bytes(leaf, quant);
  for (const Piece& piece : overwritten(leaf, block, quant)) {
    std::memcpy(piece.data, from, static_cast<size_t>(piece.bytes));
    from += piece.lines();
  }
}

// Memory for the first blocks of the leaves. One step has it at a time, others have none.
class UndoMemory {
 public:
  // Take the memory and give leaves their places. Returns how many blocks have one.
  int64_t assign(std::vector<Leaf>& leaves, int64_t quant) {
    if (!lock_.try_lock()) return 0;
    int64_t blocks = 0, bytes = 0;
    std::vector<int64_t> starts;
    for (const Leaf& leaf : leaves) {
      const int64_t each = leaf.numel == 0 ? 1 : undo_bytes(leaf, quant);
      const int64_t all = num_blocks(leaf.numel, leaf.block_size);
      const int64_t fit = std::min(all, (kUndoBytes - bytes) / each);
      starts.push_back(bytes);
      blocks += fit;
      bytes += fit * each;
      if (fit < all) break;
    }
    if (!grow(bytes)) return 0;
    for (size_t i = 0; i < starts.size(); ++i) leaves[i].undo = memory_.get() + starts[i];
    return blocks;
  }

 private:
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };

  static bool grow(int64_t bytes) {
    bytes = (bytes + kLine - 1) / kLine * kLine;
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<char*>(std::aligned_alloc(kLine, static_cast<size_t>(bytes))));
      if (memory_ != nullptr) size_ = bytes;
    }
    return bytes <= size_;
  }

  inline static std::mutex mutex_;
  inline static std::unique_ptr<char, Free> memory_;
  inline static int64_t size_ = 0;
  std::unique_lock<std::mutex> lock_{mutex_, std::defer_lock};
};

}  // namespace gx
