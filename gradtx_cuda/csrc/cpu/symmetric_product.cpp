// CPU kernel of products that are symmetric: tiles on and above the diagonal, mirrored.
#include <array>
#include <optional>
#include <vector>

#include "../registration.h"
#include "symmetric_product_tile.h"

namespace gx {
namespace {

using OptionalTensor = std::optional<Tensor>;

// What the reference makes of other dtypes, and on other processors.
Tensor reference_product(const Tensor& x, const Tensor& y, const OptionalTensor& c, double beta,
                         double alpha, bool mixed) {
  using torch::stable::detail::from;
  std::array<StableIValue, 6> stack{from(x),    from(y),     from(c),
                                    from(beta), from(alpha), from(mixed)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("gradtx::symmetric_product_reference", "",
                                                      stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

#if GX_HAS_AVX512

constexpr int64_t kGroup = 1 << 20;      // words of packed matrices at a time
constexpr int64_t kPackGrain = 1 << 12;  // steps worth a thread

// Both factors of a matrix, packed: the panels of y follow those of x, of which they may be twins.
struct Layout {
  int64_t panels, steps, sides;

  Layout(int64_t n, int64_t depth, int64_t per, bool twins)
      : panels((n + kTile - 1) / kTile),
        steps(((depth + per - 1) / per + kTile - 1) / kTile * kTile),
        sides(twins ? 1 : 2) {}
  int64_t words() const { return panels * steps * kTile * sides; }
};

struct Packed : Layout {
  uint32_t* data;

  uint32_t* panel(int64_t matrix, int64_t side, int64_t p) const {
    return data + matrix * words() + (side % sides * panels + p) * steps * kTile;
  }
};

// A factor: its first matrix and the distance to the next in bytes.
struct Side {
  Rows16 rows;
  int64_t batch;
  Factor factor;
};

struct Job {
  Side x, y;
  int64_t c_batch, batch;
  bool twins;  // y is the transpose of x
};

void pack_panel(const Side& side, int64_t m, int64_t row, int64_t begin, int64_t end,
                uint32_t* panel) {
  Rows16 x = side.rows;
  x.data = static_cast<const char*>(x.data) + m * side.batch;
  switch (side.factor) {
    case Factor::kFloat: return pack<Factor::kFloat>(x, row, begin, end, panel);
    case Factor::kHalf: return pack<Factor::kHalf>(x, row, begin, end, panel);
    case Factor::kRounded: return pack<Factor::kRounded>(x, row, begin, end, panel);
  }
}

void pack_all(const Job& job, int64_t first, int64_t count, const Packed& packed) {
  const int64_t pairs = (packed.panels + 1) / 2, blocks = (packed.steps + kDepth - 1) / kDepth;
  const int64_t units = packed.sides * pairs * blocks;
  const int64_t grain = std::max<int64_t>(1, kPackGrain / (2 * std::min(kDepth, packed.steps) + 1));
  torch::stable::parallel_for(0, count * units, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t m = unit / units, side = unit % units / (pairs * blocks);
      const int64_t pair = unit % (pairs * blocks) / blocks, s = unit % blocks * kDepth;
      for (int64_t p = 2 * pair; p < std::min(2 * pair + 2, packed.panels); ++p) {
        pack_panel(side == 0 ? job.x : job.y, first + m, p * kTile, s,
                   std::min(s + kDepth, packed.steps), packed.panel(m, side, p));
      }
    }
  });
}

// The end of a tile of one matrix.
template <typename T>
struct Ends {
  const std::vector<Place>& places;
  Result<T> to;

  void fetch(int64_t u) const { prefetch(to, places[u]); }
  void finish(int64_t u, const float* sums) const { gx::finish(to, places[u], sums); }
};

template <bool kHalf, typename T>
void multiply_all(const Job& job, int64_t first, int64_t count, const Packed& packed,
                  const std::vector<Place>& places, const Result<T>& result) {
  const int64_t tiles = places.size();
  const int64_t grain = std::max<int64_t>(1, kGrain / (kTile * packed.steps + 1));
  torch::stable::parallel_for(0, count * tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t next; begin < end; begin = next) {
      const int64_t m = begin / tiles;
      next = std::min(end, (m + 1) * tiles);
      Ends<T> ends{places, result};
      ends.to.out += (first + m) * result.n * result.n;
      if (result.c != nullptr) {
        ends.to.c = static_cast<const char*>(result.c) +
                    (first + m) * job.c_batch * (result.half_c ? 2 : 4);
      }
      const Panels rows{packed.panel(m, 0, 0), packed.steps};
      const Panels columns{packed.panel(m, 1, 0), packed.steps};
      multiply_tiles<kHalf>(places, begin - m * tiles, next - m * tiles, rows, columns, ends);
    }
  });
}

template <bool kHalf, typename T>
void run(const Job& job, const Result<T>& result) {
  const Layout layout(result.n, job.x.rows.depth, per_step(job.x.factor), job.twins);
  const std::vector<Place> places = upper_tiles(layout.panels);
  const int64_t words = std::max<int64_t>(layout.words(), 16);
  const int64_t group = std::clamp<int64_t>(kGroup / words, 1, job.batch);
  const Scratch scratch(group * words);
  const Packed packed{layout, scratch.data()};
  for (int64_t first = 0; first < job.batch; first += group) {
    const int64_t count = std::min(group, job.batch - first);
    pack_all(job, first, count, packed);
    multiply_all<kHalf>(job, first, count, packed, places, result);
  }
}

Tensor with_unit_stride(const Tensor& x) {
  return x.stride(1) == 1 || x.stride(2) == 1 ? x : torch::stable::contiguous(x);
}

Side side_of(const Tensor& x, int64_t row_dim, bool rounds) {
  const bool half = x.scalar_type() == ScalarType::BFloat16;
  const int64_t step_dim = 3 - row_dim;
  return {{x.const_data_ptr(), x.size(row_dim), x.size(step_dim), x.stride(row_dim),
           x.stride(step_dim)},
          x.stride(0) * (half ? 2 : 4),
          half ? Factor::kHalf : (rounds ? Factor::kRounded : Factor::kFloat)};
}

Tensor upper_product(const Tensor& x, const Tensor& y, const OptionalTensor& c, double beta,
                     double alpha, bool mixed) {
  const int64_t n = x.size(1);
  const Tensor out = torch::stable::new_empty(
      x, {x.size(0), n, n}, mixed ? ScalarType::Float : x.scalar_type());
  if (out.numel() == 0) return out;
  const Tensor a = with_unit_stride(x), b = with_unit_stride(y);
  OptionalTensor added;
  if (c.has_value()) added = c->stride(2) == 1 ? *c : torch::stable::contiguous(*c);
  const Side rows = side_of(a, 1, mixed), columns = side_of(b, 2, mixed);
  const bool twins = rows.rows.data == columns.rows.data && rows.batch == columns.batch &&
                     rows.rows.row == columns.rows.row && rows.rows.step == columns.rows.step &&
                     rows.factor == columns.factor;
  const Job job{rows, columns, added.has_value() ? added->stride(0) : 0, x.size(0), twins};
  const void* sum = added.has_value() ? added->const_data_ptr() : nullptr;
  const int64_t row = added.has_value() ? added->stride(1) : 0;
  const bool half_c = added.has_value() && added->scalar_type() == ScalarType::BFloat16;
  const auto result = [&](auto* data) {
    return Result<std::remove_pointer_t<decltype(data)>>{
        data, n, sum, row, half_c, static_cast<float>(beta), static_cast<float>(alpha)};
  };
  if (rows.factor == Factor::kHalf && !mixed) {
    run<true>(job, result(static_cast<uint16_t*>(out.mutable_data_ptr())));
  } else if (mixed) {
    run<true>(job, result(static_cast<float*>(out.mutable_data_ptr())));
  } else {
    run<false>(job, result(static_cast<float*>(out.mutable_data_ptr())));
  }
  return out;
}
#endif

}  // namespace

Tensor symmetric_product_cpu(const Tensor& x, const Tensor& y, const OptionalTensor& c,
                             double beta, double alpha, bool mixed) {
  const auto fits = [&](const Tensor& t) {
    const ScalarType dtype = t.scalar_type();
    return mixed ? dtype == ScalarType::BFloat16 || dtype == ScalarType::Float
                 : dtype == x.scalar_type();
  };
  require(x.dim() == 3 && y.dim() == 3 && x.size(0) == y.size(0) && x.size(1) == y.size(2) &&
              x.size(2) == y.size(1) && fits(x) && fits(y),
          "symmetric_product: x and y must be (batch, n, k) and (batch, k, n) of one dtype");
  require(!c.has_value() || (c->dim() == 3 && c->size(0) == x.size(0) && c->size(1) == x.size(1) &&
                             c->size(2) == x.size(1) && fits(*c)),
          "symmetric_product: c must be (batch, n, n) of the dtype of x");
  const OptionalTensor added = beta == 0.0 ? std::nullopt : c;
#if GX_HAS_AVX512
  const bool half = x.scalar_type() == ScalarType::BFloat16;
  const bool whole = x.scalar_type() == ScalarType::Float;
  if (half || mixed ? has_half_tiles() : whole && has_float_tiles()) {
    return upper_product(x, y, added, beta, alpha, mixed);
  }
#endif
  return reference_product(x, y, added, beta, alpha, mixed);
}

}  // namespace gx
