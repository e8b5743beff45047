// Steps of compression to columns, on memory.
#pragma once

#include <cstdint>
#include <vector>

namespace gx {

// The positions of the k largest columns of a contiguous matrix, or rows, ascending; weights of
// scores or null.
std::vector<int64_t> largest_of(const float* x, int64_t rows, int64_t columns, int64_t k,
                                bool by_column, bool squares, const float* weights);

// The DCT by halves of a contiguous matrix along a dimension, into another one.
void dct_halves_of(const float* x, int64_t rows, int64_t columns, const float* table, bool inverse,
                   int64_t dim, float* out);

}  // namespace gx
