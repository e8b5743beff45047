// CPU kernel of x P L M^-T for triangular factors, a stripe of rows of x after the other.
#include <array>
#include <atomic>
#include <optional>

#include "../registration.h"
#include "triangle_tile.h"

namespace gx {
namespace {

// What the reference makes of other dtypes, and on other processors.
using OptionalTensor = std::optional<Tensor>;

Tensor reference_turn(const Tensor& x, const Tensor& first, const Tensor& second, bool left,
                      const OptionalTensor& order) {
  using torch::stable::detail::from;
  std::array<StableIValue, 5> stack{from(x), from(first), from(second), from(left), from(order)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("gradtx::cholesky_turn_reference", "",
                                                      stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

#if GX_HAS_AVX512

// The factors of one matrix, packed.
class Turn {
 public:
  Turn(int64_t n, uint32_t* scratch)
      : n_(n),
        panels_((n + kTile - 1) / kTile),
        steps_(panels_ * kTile),
        first_(scratch),
        second_(first_ + panels_ * steps_ * kTile),
        inverses_(reinterpret_cast<float*>(second_ + panels_ * steps_ * kTile)) {}

  static int64_t words(int64_t n) {
    const int64_t panels = (n + kTile - 1) / kTile;
    return (2 * panels + 1) * panels * kTileSize;
  }
  // Of a stripe of rows before and after.
  int64_t stripe_words() const { return 2 * kBlock * steps_ * kTile; }

  // Columns of L from the diagonal on, rows of M up to it.
  void pack_factors(const float* first, const float* second) const {
    torch::stable::parallel_for(0, panels_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t at = p * kTile;
        uint32_t* columns = first_ + p * steps_ * kTile;
        pack<Factor::kFloat>({first, n_, n_, 1, n_}, at, at, steps_, columns);
        for (int64_t r = 0; r < kTile; ++r) {  // what lies above the diagonal is not L's
          std::fill_n(columns + (at + r) * kTile + r + 1, kTile - r - 1, 0u);
        }
        pack<Factor::kFloat>({second, n_, n_, n_, 1}, at, 0, at, second_ + p * steps_ * kTile);
        alignas(64) float tile[kTileSize];
        const auto place = static_cast<int32_t>(p);
        read_square(second, n_, {place, place, 0}, tile);
        transpose_tile(tile, tile);
        invert_tile(tile, inverses_ + p * kTileSize);
      }
    });
  }

  // Rows of x from `row` on; `out` is as it lies, with `left` transposed.
  void turn(const Rows16& x, const int32_t* order, int64_t row, bool left,
            const Plain<float>& out, uint32_t* scratch) const {
    const int64_t panels = std::min(kBlock, (x.rows - row + kTile - 1) / kTile);
    uint32_t* turned = scratch + kBlock * steps_ * kTile;
    for (int64_t p = 0; p < panels; ++p) {
      uint32_t* panel = scratch + p * steps_ * kTile;
      if (order != nullptr) {
        gather_steps(x, order, row + p * kTile, steps_, panel);
      } else {
        pack<Factor::kFloat>(x, row + p * kTile, 0, steps_, panel);
      }
    }
    const Panels old{scratch, steps_}, rows{turned, steps_}, first{first_, steps_},
        second{second_, steps_};
    Block block;
    block.row = 0;
    block.row_end = panels;
    for (int64_t column = 0; column < panels_; column += kBlock) {
      block.column = column;
      block.column_end = std::min(column + kBlock, panels_);
      const int64_t start = column * kTile;
      block.each(false, [](int64_t, int64_t, float* sums) { std::fill_n(sums, kTileSize, 0.0f); });
      add_products<false>(block, false, old, first, start, steps_,
                          [](int64_t, int64_t j) { return j * kTile; });
      add_products<true>(block, false, rows, second, 0, start,
                         [](int64_t, int64_t) { return int64_t{0}; });
      for (int64_t j = column; j < block.column_end; ++j) {
        for (int64_t i = 0; i < panels; ++i) {
          float* sums = block.at(i, j);
          if (j > column) {
            add_product<true>(rows.at(i, start), second.at(j, start), j * kTile - start, sums);
          }
          divide_tile(sums, inverses_ + j * kTileSize);
          pack_tile(sums, {static_cast<int32_t>(i), static_cast<int32_t>(j), 0},
                    {turned, nullptr}, panels_);
          write(sums, row + i * kTile, j * kTile, left, out);
        }
      }
    }
  }

 private:
  static void write(float* tile, int64_t row, int64_t column, bool left, const Plain<float>& out) {
    if (left) {
      transpose_tile(tile, tile);
      std::swap(row, column);
    }
    write_floats(out, row, column, tile);
  }

  int64_t n_, panels_, steps_;
  uint32_t *first_, *second_;
  float* inverses_;
};

Tensor turned(const Tensor& x, const Tensor& first, const Tensor& second, bool left,
              const OptionalTensor& order) {
  const int64_t batch = x.size(0), n = first.size(1), rows = x.size(left ? 2 : 1);
  const Tensor out = torch::stable::new_empty(x, {batch, x.size(1), x.size(2)});
  if (out.numel() == 0) return out;
  const bool lies = x.stride(1) == 1 || x.stride(2) == 1;
  const Tensor from = lies ? x : torch::stable::contiguous(x);
  const Tensor l = torch::stable::contiguous(first), m = torch::stable::contiguous(second);
  const auto data = [](const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); };
  auto* to = static_cast<float*>(out.mutable_data_ptr());
  const Orders orders(order, batch, n);
  const int64_t threads = torch::stable::get_num_threads(), stripe = kBlock * kTile;
  const int64_t stripes = (rows + stripe - 1) / stripe;
  const int64_t per_thread = Turn(n, nullptr).stripe_words();
  const Scratch scratch(Turn::words(n) + threads * per_thread);
  const Turn turn(n, scratch.data());
  uint32_t* buffers = scratch.data() + Turn::words(n);
  for (int64_t b = 0; b < batch; ++b) {
    turn.pack_factors(data(l) + b * n * n, data(m) + b * n * n);
    const Rows16 side{data(from) + b * from.stride(0), rows, n, from.stride(left ? 2 : 1),
                      from.stride(left ? 1 : 2)};
    const Plain<float> result{to + b * rows * n, left ? n : rows, left ? rows : n,
                              left ? rows : n};
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t s; (s = next++) < stripes;) {
          turn.turn(side, orders.of(b), s * stripe, left, result, buffers + t * per_thread);
        }
      }
    });
  }
  return out;
}
#endif

}  // namespace

Tensor cholesky_turn_cpu(const Tensor& x, const Tensor& first, const Tensor& second, bool left,
                         const std::optional<Tensor>& order) {
  const ScalarType dtype = x.scalar_type();
  const auto fits = [&](const Tensor& t) {
    return t.dim() == 3 && t.size(0) == x.size(0) && t.size(1) == x.size(left ? 1 : 2) &&
           t.size(2) == t.size(1) && t.scalar_type() == dtype;
  };
  require(x.dim() == 3 && fits(first) && fits(second),
          "cholesky_turn: x must be (batch, k, n), or (batch, n, k) from the left, first and second "
          "(batch, n, n) of its dtype");
  require(dtype == ScalarType::Float || dtype == ScalarType::Double,
          "cholesky_turn: x must be float32 or float64");
  require(!order.has_value() || (order->dim() == 2 && order->size(0) == x.size(0) &&
                                 order->size(1) == first.size(1) &&
                                 order->scalar_type() == ScalarType::Long),
          "cholesky_turn: order must be (batch, n) of int64");
#if GX_HAS_AVX512
  if (dtype == ScalarType::Float && has_float_tiles()) {
    return turned(x, first, second, left, order);
  }
#endif
  return reference_turn(x, first, second, left, order);
}

}  // namespace gx
