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

}  // namespace gx
