// Where the entries of a block lie in a row of a window, on host and device alike.
#pragma once

#include "arith.h"

namespace gx {

struct Entries {
  int64_t begin, end;
};

// Of blocks that keep `k` entries each, until all columns are taken; k may be any positive number.
GX_HD Entries entries_of(int64_t block, int64_t k, int64_t columns) {
  if (columns == 0 || block > (columns - 1) / k) return {columns, columns};
  const int64_t begin = block * k;
  return {begin, k < columns - begin ? begin + k : columns};
}

// Columns that one thread, or one CTA, multiplies at a time: some of those of one block.
constexpr int64_t kPieceColumns = 8192;

GX_HD int64_t pieces_of_block(int64_t k, int64_t columns) {
  const int64_t most = k < columns ? k : columns;
  return most <= kPieceColumns ? 1 : (most - 1) / kPieceColumns + 1;
}

// Part `piece` of the entries of a block.
GX_HD Entries piece_of(int64_t block, int64_t piece, int64_t k, int64_t columns) {
  const Entries all = entries_of(block, k, columns);
  const int64_t rest = all.end - all.begin, skipped = piece * kPieceColumns;
  if (skipped >= rest) return {all.end, all.end};
  const int64_t begin = all.begin + skipped;
  return {begin, rest - skipped > kPieceColumns ? begin + kPieceColumns : all.end};
}

}  // namespace gx
