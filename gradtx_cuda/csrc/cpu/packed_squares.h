// Square matrices that stay packed while they are iterated: whose threads share them, and in what
// memory they are.
#pragma once

#include <atomic>
#include <utility>
#include <vector>

#include "root_tile.h"

#if GX_HAS_AVX512
namespace gx {

// Products of matrices (n, n), which several threads share or one makes alone. The sums of a tile
// are taken in one order always.
class SquareProducts {
 public:
  SquareProducts(int64_t n, bool alone)
      : n(n),
        panels((n + kTile - 1) / kTile),
        all(all_tiles(panels)),
        upper(upper_tiles(panels)),
        alone_(alone) {}

  // Words of a matrix, packed.
  template <bool kHalf>
  static int64_t words(int64_t n) {
    const int64_t panels = (n + kTile - 1) / kTile;
    return panels * panels * kTileSteps<kHalf> * kTile;
  }

  // `to` says which tiles there are and what is done with them.
  template <bool kHalf, typename End>
  void multiply(const uint32_t* left, const uint32_t* right, const End& to) const {
    const int64_t steps = panels * kTileSteps<kHalf>;
    for_tiles(to.places.size(), kTile * steps, [&](int64_t begin, int64_t end) {
      multiply_tiles<kHalf>(to.places, begin, end, {left, steps}, {right, steps}, to);
    });
  }

  // The same with the matrix itself for the product.
  template <typename End>
  void read(const float* x, const End& to) const {
    for_tiles(to.places.size(), kTile * kTile, [&](int64_t begin, int64_t end) {
      alignas(64) float tile[kTile * kTile];
      for (int64_t u = begin; u < end; ++u) {
        read_square(x, n, to.places[u], tile);
        to.finish(u, tile);
      }
    });
  }

  // The same with zeros for the product.
  template <typename End>
  void fill(const End& to) const {
    alignas(64) const float tile[kTile * kTile] = {};
    for (size_t u = 0; u < to.places.size(); ++u) to.finish(u, tile);
  }

  void write(const uint32_t* left, float* out) const {
    for_tiles(all.size(), kTile * kTile, [&](int64_t begin, int64_t end) {
      for (int64_t u = begin; u < end; ++u) write_square(left, panels, all[u], out, n);
    });
  }

  // Tiles worth `per` products of rows and steps each.
  template <typename Body>
  void for_tiles(int64_t tiles, int64_t per, const Body& body) const {
    if (alone_) return body(0, tiles);
    torch::stable::parallel_for(0, tiles, std::max<int64_t>(1, kGrain / per), body);
  }

  // The same for what takes unequal times, the longest first: threads take one after the other.
  template <typename Body>
  void for_each(int64_t units, int64_t per, const Body& body) const {
    std::atomic<int64_t> next{0};
    const auto some = [&](int64_t, int64_t) {
      for (int64_t u; (u = next++) < units;) body(u);
    };
    const int64_t threads =
        alone_ ? 1 : std::min<int64_t>(torch::stable::get_num_threads(), units * per / kGrain);
    if (threads < 2) return some(0, 1);
    torch::stable::parallel_for(0, threads, 1, some);
  }

  const int64_t n, panels;
  const std::vector<Place> all, upper;

 private:
  bool alone_;
};

// Call `run(products, scratch, m)` for every matrix m of a stack of (n, n): a thread has one to
// itself while there are enough of them, the rest are shared.
template <typename Run>
void for_squares(int64_t count, int64_t n, int64_t words, const Run& run) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t alone = count / threads * threads;
  const Scratch scratch(std::min(threads, count) * words);
  std::atomic<int64_t> next{0};
  if (alone > 0) {
    torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      const SquareProducts products(n, true);
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t m; (m = next++) < alone;) run(products, scratch.data() + t * words, m);
      }
    });
  }
  const SquareProducts shared(n, false);
  for (int64_t m = alone; m < count; ++m) run(shared, scratch.data(), m);
}

}  // namespace gx
#endif
