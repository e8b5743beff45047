// Blocking of float32 products with a thin factor: what is large is read where it lies, once.
#pragma once

#include <memory>
#include <new>

#include "../common/checks.h"
#include "skinny_tile.h"
#include "squares.h"

#if GX_HAS_AVX512
namespace gx {

constexpr int64_t kDepth = 512;      // at most so long are the sums of one pass
constexpr int64_t kLeft = 1 << 17;   // elements of the left operand that stay in L2
constexpr int64_t kGrain = 1 << 18;  // multiplications worth a thread
constexpr int64_t kPanel = kTileVectors * kLane;

// The part `i` of `parts` of nearly equal sizes of `n` things.
struct Share {
  int64_t begin, size;
};
inline Share share(int64_t n, int64_t parts, int64_t i) {
  const int64_t begin = n * i / parts;
  return {begin, n * (i + 1) / parts - begin};
}

// Memory for packed operands that a thread keeps.
struct Packed {
  float* left() { return data_.get(); }
  float* right() { return data_.get() + kLeft + kTileRows * kDepth; }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  static constexpr int64_t kSize = kLeft + kTileRows * kDepth + kDepth * kPanel;
  std::unique_ptr<float, Free> data_{
      static_cast<float*>(::operator new(kSize * sizeof(float), std::align_val_t{64}))};
};

// Rows of C times panels of columns, with both operands in cache.
inline void multiply_block(const Product& p, int64_t m, int64_t n, int64_t k, Packed& packed) {
  const int64_t blocks = num_blocks(m, kTileRows), lanes = num_blocks(n, kLane);
  const bool in_place = p.a.column == 1;
  if (!in_place) {
    for (int64_t i = 0; i < blocks; ++i) {
      const Share rows = share(m, blocks, i);
      pack_left({p.a.at(rows.begin, 0), 1, p.a.column}, rows.size, k,
                packed.left() + rows.begin * k);
    }
  }
  const int64_t panels = num_blocks(lanes, kTileVectors);
  for (int64_t j = 0; j < panels; ++j) {
    const Share run = share(lanes, panels, j);
    const int64_t column = run.begin * kLane, width = std::min(run.size * kLane, n - column);
    Product tile = p, next_tile = p;
    tile.b.data = p.b.at(0, column);
    Operand next{tile.b.data, 0, 0};  // of B
    float* keep = nullptr;
    const Operand kept{packed.right(), run.size * kLane, 1};
    if (p.b.column != 1) {
      pack_right(tile.b, k, width, run.size, packed.right());
      tile.b = kept;
    } else if (p.b.row > 2 * kPanel) {  // next the next panel or the next pass
      keep = packed.right();
      next = {j + 1 < panels ? p.b.at(0, column + width) : p.b.at(k, 0), p.b.row, 1};
    }
    for (int64_t i = 0; i < blocks; ++i) {
      const Share rows = share(m, blocks, i);
      tile.a = in_place ? Operand{p.a.at(rows.begin, 0), p.a.row, 1}
                        : Operand{packed.left() + rows.begin * k, 1, rows.size};
      tile.c = p.c, tile.d = p.d;
      tile.move(rows.begin, column);
      next_tile.c = p.c, next_tile.d = p.d;
      if (i + 1 < blocks) {
        next_tile.move(rows.begin + rows.size, column);
      } else if (j + 1 < panels) {
        next_tile.move(0, column + width);
      }
      next_tile.b = {next.at(share(k, blocks, i).begin, 0), next.row, next.column};
      tile_of(rows.size, run.size)(tile, k, first_lanes(width - (run.size - 1) * kLane),
                                   next_tile, keep);
      if (keep != nullptr) tile.b = kept, keep = nullptr;
      // While the operands are in cache.
      if (p.a_squares && j == 0) add_row_squares(tile.a, rows.size, k, p.a_squares + rows.begin);
      if (p.b_squares && i == 0) add_column_squares(tile.b, k, width, p.b_squares + column);
    }
  }
}

inline void multiply_part(const Product& p, int64_t m, int64_t n, int64_t k) {
  static thread_local Packed packed;
  const int64_t passes = std::max<int64_t>(1, num_blocks(k, kDepth));
  for (int64_t pass = 0; pass < passes; ++pass) {
    const Share depth = share(k, passes, pass);
    const bool once = p.a.column == 1 && n <= kPanel;  // nothing to keep in cache
    const int64_t most = once ? m : kLeft / std::max<int64_t>(1, depth.size);
    const int64_t chunks = num_blocks(m, most);
    for (int64_t i = 0; i < chunks; ++i) {
      const Share rows = share(m, chunks, i);
      Product block = p;
      block.a.data = p.a.at(rows.begin, depth.begin);
      block.b.data = p.b.at(depth.begin, 0);
      block.move(rows.begin, 0);
      if (pass > 0) block.beta = 1, block.d = nullptr;
      if (p.a_squares) block.a_squares = p.a_squares + rows.begin;
      if (i > 0) block.b_squares = nullptr;
      multiply_block(block, rows.size, n, depth.size, packed);
    }
  }
}

inline void multiply(const Product& p, int64_t m, int64_t n, int64_t k) {
  if (m == 0 || n == 0) return;
  const bool by_rows = m >= n;
  const int64_t length = by_rows ? m : n, unit = by_rows ? kTileRows : kLane;
  const int64_t units = num_blocks(length, unit);
  const int64_t parts = std::max<int64_t>(
      1, std::min<int64_t>({torch::stable::get_num_threads(), m * n * k / kGrain, units}));
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      const Share run = share(units, parts, begin);
      const int64_t from = run.begin * unit, size = std::min(run.size * unit, length - from);
      Product part = p;
      if (by_rows) {
        part.a.data = p.a.at(from, 0);
        part.move(from, 0);
        if (p.a_squares) part.a_squares = p.a_squares + from;
        if (begin > 0) part.b_squares = nullptr;
        multiply_part(part, size, n, k);
      } else {
        part.b.data = p.b.at(0, from);
        part.move(0, from);
        if (begin > 0) part.a_squares = nullptr;
        if (p.b_squares) part.b_squares = p.b_squares + from;
        multiply_part(part, m, size, k);
      }
    }
  });
}

}  // namespace gx
#endif
