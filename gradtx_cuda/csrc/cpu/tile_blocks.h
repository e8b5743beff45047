// Tiles of a product in an order that uses packed panels again while they are in cache.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "../registration.h"
#include "large_pages.h"
#include "tiles.h"

#if GX_HAS_AVX512
namespace gx {

constexpr int64_t kDepth = 256;      // steps that a panel in the first-level cache has
constexpr int64_t kBlock = 8;        // panels a side of what the second-level cache holds
constexpr int64_t kGrain = 1 << 16;  // products of rows and steps worth a thread

// A tile's row and column among tiles, and the block that it belongs to.
struct Place {
  int32_t row, column, block;
};

// Tiles on and above the diagonal, block by block.
inline std::vector<Place> upper_tiles(int64_t panels) {
  std::vector<Place> places;
  places.reserve(panels * (panels + 1) / 2);
  int32_t block = 0;
  for (int64_t column = 0; column < panels; column += kBlock) {
    for (int64_t row = 0; row <= column; row += kBlock, ++block) {
      for (int64_t i = row; i < std::min(row + kBlock, panels); ++i) {
        for (int64_t j = std::max(i, column); j < std::min(column + kBlock, panels); ++j) {
          places.push_back({static_cast<int32_t>(i), static_cast<int32_t>(j), block});
        }
      }
    }
  }
  return places;
}

// All tiles, block by block.
inline std::vector<Place> all_tiles(int64_t panels) {
  std::vector<Place> places;
  places.reserve(panels * panels);
  int32_t block = 0;
  for (int64_t column = 0; column < panels; column += kBlock) {
    for (int64_t row = 0; row < panels; row += kBlock, ++block) {
      for (int64_t i = row; i < std::min(row + kBlock, panels); ++i) {
        for (int64_t j = column; j < std::min(column + kBlock, panels); ++j) {
          places.push_back({static_cast<int32_t>(i), static_cast<int32_t>(j), block});
        }
      }
    }
  }
  return places;
}

// All tiles of a stripe, block by block.
inline std::vector<Place> stripe_tiles(int64_t rows, int64_t columns) {
  std::vector<Place> places;
  places.reserve(rows * columns);
  for (int64_t column = 0; column < columns; column += kBlock) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = column; j < std::min(column + kBlock, columns); ++j) {
        places.push_back({static_cast<int32_t>(i), static_cast<int32_t>(j),
                          static_cast<int32_t>(column / kBlock)});
      }
    }
  }
  return places;
}

// A packed factor.
struct Panels {
  const uint32_t* data;
  int64_t steps;

  const uint32_t* at(int64_t panel, int64_t step) const {
    return data + (panel * steps + step) * kTile;
  }
};

// Multiply tiles begin, ..., end - 1. `to.fetch(tile)` is called before the last stretch of a tile,
// `to.finish(tile, sums)` after it.
template <bool kHalf, typename To>
void multiply_tiles(const std::vector<Place>& places, int64_t begin, int64_t end, const Panels& a,
                    const Panels& b, const To& to) {
  alignas(64) float sums[kBlock * kBlock][kTile * kTile];
  while (begin < end) {
    int64_t stop = begin + 1;
    while (stop < end && places[stop].block == places[begin].block) ++stop;
    for (int64_t s = 0; s == 0 || s < a.steps; s += kDepth) {
      const int64_t steps = std::min(kDepth, a.steps - s);
      const bool ends = s + steps == a.steps;
      for (int64_t u = begin; u < stop; ++u) {
        if (ends) to.fetch(u);
        multiply<kHalf>(a.at(places[u].row, s), b.at(places[u].column, s), steps, s == 0,
                        sums[u - begin]);
        if (ends) to.finish(u, sums[u - begin]);
      }
    }
    begin = stop;
  }
}

// Memory for packed matrices.
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t words) : words_(words) {
    const size_t bytes = words * sizeof(uint32_t), unit = bytes < kLargePage ? 64 : kLargePage;
    const size_t size = (bytes + unit - 1) / unit * unit;
    data_.reset(static_cast<uint32_t*>(std::aligned_alloc(unit, size)));
    require(data_ != nullptr, "products: out of memory");
    use_large_pages(data_.get(), size, false);
  }
  uint32_t* data() const { return data_.get(); }
  int64_t words() const { return words_; }

 private:
  struct Free {
    void operator()(uint32_t* data) const { std::free(data); }
  };
  std::unique_ptr<uint32_t, Free> data_;
  int64_t words_ = 0;
};

// The same, of which a thread keeps what is not large: new pages cost as much as packing.
class Scratch {
 public:
  explicit Scratch(int64_t words) {
    thread_local Memory kept;
    Memory& memory = words <= kKept ? kept : own_;
    if (memory.words() < words) {
      memory = Memory();
      memory = Memory(words);
    }
    data_ = memory.data();
  }
  uint32_t* data() const { return data_; }

 private:
  static constexpr int64_t kKept = 1 << 23;
  Memory own_;
  uint32_t* data_;
};

}  // namespace gx
#endif
