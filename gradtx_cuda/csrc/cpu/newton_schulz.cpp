// CPU kernel of Newton-Schulz iterations: matrices stay packed between products, and a thread has
// its own where there are enough of them.
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "../common/arith.h"
#include "../registration.h"
#include "newton_schulz_tile.h"

namespace gx {
namespace {

struct Options {
  const Doubles& coefficients;  // triples
  const Ints& parts;            // iterations between two Gram matrices
  const std::string& scaling;
  double safety, eps;
  bool mixed;
  double scale;  // of the results
};

// What the reference makes of other dtypes, and on other processors.
Tensor reference_iterations(const Tensors& xs, const Options& o, ScalarType dtype) {
  using torch::stable::detail::from;
  std::array<StableIValue, 9> stack{from(xs),        from(o.coefficients), from(o.parts),
                                    from(o.scaling), from(o.safety),       from(o.eps),
                                    from(dtype),     from(o.mixed),       from(o.scale)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("gradtx::newton_schulz_reference", "",
                                                      stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

#if GX_HAS_AVX512

// What all matrices have in common. Y is the matrix, or its transpose where that is longer.
struct Shape {
  int64_t rows, columns;
  bool tall;
  int64_t long_panels, panels;  // of Y's rows, of its columns
  std::vector<Place> upper;     // tiles of Y^T Y

  Shape(int64_t rows, int64_t columns)
      : rows(rows),
        columns(columns),
        tall(rows > columns),
        long_panels((std::max(rows, columns) + kTile - 1) / kTile),
        panels((std::min(rows, columns) + kTile - 1) / kTile),
        upper(upper_tiles(panels)) {}
};

// A symmetric matrix: the tiles of `Shape::upper` in float32, and packed to be multiplied.
struct Square {
  float* tiles;
  uint32_t* packed;
};

// What an iteration works on.
struct Workspace {
  Long y;
  Square a;  // Y^T Y
  Square q;  // what Y is to be multiplied with
  uint32_t *z, *other;
};

template <bool kHalf>
class Layout {
 public:
  explicit Layout(const Shape& shape)
      : long_(shape.long_panels * shape.panels * kTile * step_words()),
        square_(shape.panels * shape.panels * kTile * step_words()),
        tiles_(shape.upper.size() * kTile * kTile),
        steps_(shape.long_panels * kTileSteps<kHalf>) {}

  int64_t words() const { return long_ + 4 * square_ + 2 * tiles_; }

  Workspace at(uint32_t* data) const {
    const auto take = [&](int64_t words) { return std::exchange(data, data + words); };
    const auto tiles = [&] { return reinterpret_cast<float*>(take(tiles_)); };
    Workspace w;
    w.y = {take(long_), steps_};
    w.a = {tiles(), take(square_)};
    w.q = {tiles(), take(square_)};
    w.z = take(square_);
    w.other = take(square_);
    return w;
  }

 private:
  static constexpr int64_t step_words() { return kTileSteps<kHalf>; }
  int64_t long_, square_, tiles_, steps_;
};

// Matrices from `first` on, whose products several threads share.
template <bool kHalf, typename T>
class Group {
 public:
  using Source = Plain<const T>;

  Group(const Shape& shape, const Options& options, const std::vector<Source>& sources, T* out,
        int64_t first, int64_t count, int64_t threads, uint32_t* scratch)
      : shape_(shape),
        options_(options),
        sources_(sources),
        out_(out),
        first_(first),
        threads_(threads) {
    const Layout<kHalf> layout(shape);
    for (int64_t m = 0; m < count; ++m) spaces_.push_back(layout.at(scratch + m * layout.words()));
  }

  void run() {
    read();
    const double* triple = options_.coefficients.data();
    for (size_t part = 0; part < options_.parts.size(); ++part) {
      const int64_t several = options_.parts[part];
      const bool rounds = !options_.mixed || several == 1;
      gram(rounds);
      square(triple, several > 1);
      for (int64_t i = 1; i < several; ++i) {
        if (i == 1) begin_factor(triple[0], rounds);
        advance(triple[0], rounds);
        triple += 3;
        square(triple, false);
        grow_factor(triple[0], rounds);
      }
      apply(several > 1 ? 0.0 : triple[0], several > 1, part + 1 == options_.parts.size());
      triple += 3;
    }
  }

 private:
  // units of all matrices, `per` products of rows and steps each.
  template <typename Body>
  void for_units(int64_t units, int64_t per, const Body& body) {
    const int64_t count = spaces_.size(), grain = std::max<int64_t>(1, kGrain / (per + 1));
    torch::stable::parallel_for(0, count * units, grain, [&](int64_t begin, int64_t end) {
      for (int64_t next; begin < end; begin = next) {
        const int64_t m = begin / units;
        next = std::min(end, (m + 1) * units);
        body(m, begin - m * units, next - m * units);
      }
    });
  }

  void read() {
    const int64_t stripes = (shape_.rows + kTile - 1) / kTile;
    const int64_t across = (shape_.columns + kTile - 1) / kTile;
    std::vector<double> sums(spaces_.size() * stripes);
    const int64_t measured = options_.scaling == "none" ? 0 : stripes;
    for_units(measured, shape_.columns, [&](int64_t m, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        sums[m * stripes + i] = squares<kHalf>(sources_[first_ + m], i * kTile,
                                               std::min((i + 1) * kTile, shape_.rows));
      }
    });
    for_units(stripes, shape_.columns, [&](int64_t m, int64_t begin, int64_t end) {
      const float size = size_of(sums.data() + m * stripes, stripes);
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < across; ++j) {
          read_tile<kHalf>(sources_[first_ + m], i, j, size, shape_.tall, spaces_[m].y);
        }
      }
    });
  }

  // What a matrix is divided by: everyone adds the same sums in the same order.
  float size_of(const double* sums, int64_t stripes) const {
    if (options_.scaling == "none") return 1.0f;
    double sum = 0.0;
    for (int64_t i = 0; i < stripes; ++i) sum += sums[i];
    const double norm = options_.safety * std::sqrt(sum);
    const double size =
        options_.scaling == "add" ? norm + options_.eps : std::fmax(norm, options_.eps);
    return kHalf ? bf16_nearest(static_cast<float>(size)) : static_cast<float>(size);
  }

  // A product of two packed matrices, and where it goes.
  struct Product {
    Panels rows, columns;
    SquareEnd<kHalf> end;
  };
  template <typename Of>
  void multiply_squares(int64_t steps, const Of& of) {
    for_units(shape_.upper.size(), kTile * steps, [&](int64_t m, int64_t begin, int64_t end) {
      const Product p = of(spaces_[m]);
      multiply_tiles<kHalf>(shape_.upper, begin, end, p.rows, p.columns, p.end);
    });
  }
  SquareEnd<kHalf> end(const float* c, double beta, double alpha, bool rounds, float* tiles,
                       uint32_t* packed) const {
    return {shape_.upper, c,     static_cast<float>(beta), static_cast<float>(alpha), false,
            rounds,       tiles, packed,                   steps()};
  }
  int64_t steps() const { return shape_.panels * kTileSteps<kHalf>; }

  // A <- Y^T Y.
  void gram(bool rounds) {
    multiply_squares(shape_.long_panels * kTileSteps<kHalf>, [&](const Workspace& w) {
      const Panels columns{w.y.data, w.y.steps};
      return Product{columns, columns, end(nullptr, 0.0, 1.0, rounds, w.a.tiles, w.a.packed)};
    });
  }

  // Z <- b A + c A^2 of A as it is multiplied, with which Z then commutes; to be Q's tiles too.
  void square(const double* triple, bool keeps) {
    multiply_squares(steps(), [&](const Workspace& w) {
      const Panels a{w.a.packed, steps()};
      SquareEnd<kHalf> to =
          end(w.a.tiles, triple[1], triple[2], true, keeps ? w.q.tiles : nullptr, w.z);
      to.rounds_c = true;
      return Product{a, a, to};
    });
  }

  // Q <- a + Z.
  void begin_factor(double a, bool rounds) {
    for_units(shape_.panels, kTile * steps(), [&](int64_t m, int64_t begin, int64_t end) {
      const Workspace& w = spaces_[m];
      const int64_t panel = steps() * kTile;
      std::copy(w.z + begin * panel, w.z + end * panel, w.q.packed + begin * panel);
    });
    for (const Workspace& w : spaces_) {
      for (size_t u = 0; u < shape_.upper.size(); ++u) {
        const Place& at = shape_.upper[u];
        if (at.row != at.column) continue;
        add_diagonal<kHalf>(static_cast<float>(a), rounds, w.q.tiles + u * kTile * kTile,
                            w.q.packed + place_of<kHalf>(at.row, steps(), at.row));
      }
    }
  }

  // A <- (a + Z) A (a + Z), all of which are polynomials of one matrix.
  void advance(double a, bool rounds) {
    multiply_squares(steps(), [&](const Workspace& w) {
      return Product{{w.a.packed, steps()},
                     {w.z, steps()},
                     end(w.a.tiles, a, 1.0, rounds, w.a.tiles, w.other)};
    });
    multiply_squares(steps(), [&](const Workspace& w) {
      return Product{{w.other, steps()},
                     {w.z, steps()},
                     end(w.a.tiles, a, 1.0, rounds, w.a.tiles, w.a.packed)};
    });
  }

  // Q <- a Q + Q Z.
  void grow_factor(double a, bool rounds) {
    multiply_squares(steps(), [&](const Workspace& w) {
      return Product{{w.q.packed, steps()},
                     {w.z, steps()},
                     end(w.q.tiles, a, 1.0, rounds, w.q.tiles, w.other)};
    });
    for (Workspace& w : spaces_) std::swap(w.q.packed, w.other);
  }

  // Y <- a Y + Y Z, or Y Q; at last the result.
  void apply(double a, bool by_factor, bool is_last) {
    const int64_t panels = shape_.long_panels * spaces_.size();
    const int64_t height = std::clamp<int64_t>(panels / threads_, 1, kBlock);
    const int64_t stripes = (shape_.long_panels + height - 1) / height;
    const int64_t work = height * shape_.panels * kTile * steps();
    for_units(stripes, work, [&](int64_t m, int64_t begin, int64_t end) {
      const Workspace& w = spaces_[m];
      const Memory rows(height * steps() * kTile);
      T* out = out_ + (first_ + m) * shape_.rows * shape_.columns;
      for (int64_t first = begin * height; first < std::min(end * height, shape_.long_panels);
           first += height) {
        const int64_t count = std::min(height, shape_.long_panels - first);
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t j = 0; j < shape_.panels; ++j) {
            turn_tile<kHalf>(w.y.tile<kHalf>(first + i, j),
                             rows.data() + place_of<kHalf>(i, steps(), j));
          }
        }
        const std::vector<Place> places = stripe_tiles(count, shape_.panels);
        const LongEnd<kHalf, T> to{places,
                                   first,
                                   static_cast<float>(a),
                                   w.y,
                                   is_last,
                                   shape_.tall,
                                   static_cast<float>(options_.scale),
                                   {out, shape_.rows, shape_.columns, shape_.columns}};
        multiply_tiles<kHalf>(places, 0, places.size(), {rows.data(), steps()},
                              {by_factor ? w.q.packed : w.z, steps()}, to);
      }
    });
  }

  const Shape& shape_;
  const Options& options_;
  const std::vector<Source>& sources_;
  T* out_;
  int64_t first_, threads_;
  std::vector<Workspace> spaces_;
};

template <typename T>
std::vector<Plain<const T>> sources_of(const Tensors& xs) {
  std::vector<Plain<const T>> sources;
  for (const Tensor& x : xs) {
    const T* data = static_cast<const T*>(x.const_data_ptr());
    for (int64_t m = 0; m < x.size(0); ++m) {
      sources.push_back({data + m * x.stride(0), x.size(1), x.size(2), x.stride(1)});
    }
  }
  return sources;
}

template <bool kHalf, typename T>
void iterate(const Tensors& xs, const Options& options, const Tensor& out) {
  const std::vector<Plain<const T>> sources = sources_of<T>(xs);
  const Shape shape(out.size(1), out.size(2));
  const int64_t words = Layout<kHalf>(shape).words(), total = sources.size();
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t alone = total / threads * threads;  // matrices that a thread has to itself
  const Scratch scratch(std::min(threads, total) * words);
  T* data = static_cast<T*>(out.mutable_data_ptr());
  const auto run = [&](int64_t first, int64_t count, int64_t threads, uint32_t* memory) {
    Group<kHalf, T>(shape, options, sources, data, first, count, threads, memory).run();
  };
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t m = t; m < alone; m += threads) run(m, 1, 1, scratch.data() + t * words);
    }
  });
  if (alone < total) run(alone, total - alone, threads, scratch.data());
}

Tensor tile_iterations(Tensors xs, const Options& options, bool half) {
  int64_t total = 0;
  for (Tensor& x : xs) {
    total += x.size(0);
    if (x.stride(2) != 1) x = torch::stable::contiguous(x);
  }
  const Tensor out = torch::stable::new_empty(xs[0], {total, xs[0].size(1), xs[0].size(2)});
  if (out.numel() == 0) return out;
  if (!half) {
    iterate<false, float>(xs, options, out);
  } else if (out.scalar_type() == ScalarType::Float) {
    iterate<true, float>(xs, options, out);
  } else {
    iterate<true, uint16_t>(xs, options, out);
  }
  return out;
}
#endif

}  // namespace

Tensor newton_schulz_cpu(const Tensors& xs, const Doubles& coefficients, const Ints& parts,
                         const std::string& scaling, double safety, double eps, ScalarType dtype,
                         bool mixed, double scale) {
  require(!xs.empty() && !parts.empty(), "newton_schulz: there must be a matrix and a part");
  for (const Tensor& x : xs) {
    require(x.dim() == 3 && x.size(1) == xs[0].size(1) && x.size(2) == xs[0].size(2) &&
                x.scalar_type() == xs[0].scalar_type(),
            "newton_schulz: batches must have matrices of one shape and dtype");
  }
  require(is_native(xs[0].scalar_type()) && is_native(dtype),
          "newton_schulz: dtypes must be float64, float32, float16 or bfloat16");
  require(!mixed || dtype == ScalarType::BFloat16, "newton_schulz: mixed is for bfloat16");
  require(scaling == "add" || scaling == "clamp" || scaling == "none",
          "newton_schulz: scaling must be 'add', 'clamp' or 'none', got '", scaling, "'");
  for (const double c : coefficients) {
    require(std::isfinite(dtype == ScalarType::Double ? c : single(c)),
            "newton_schulz: coefficients must be finite in the dtype of the iterations");
  }
  const int64_t triples = coefficients.size() / 3;
  int64_t left = triples;
  for (const int64_t part : parts) {
    require(part > 0, "newton_schulz: parts must be positive, got ", part);
    require(part <= left, "newton_schulz: parts have more iterations than the ", triples,
            " that there are coefficients for");
    left -= part;
  }
  require(left == 0 && coefficients.size() % 3 == 0,
          "newton_schulz: there must be three coefficients an iteration");
  const Options options{coefficients, parts, scaling, safety, eps, mixed, scale};
#if GX_HAS_AVX512
  const ScalarType given = xs[0].scalar_type();
  const bool half = dtype == ScalarType::BFloat16 && has_half_tiles() &&
                    (given == ScalarType::BFloat16 || given == ScalarType::Float);
  const bool whole =
      dtype == ScalarType::Float && given == ScalarType::Float && has_float_tiles();
  if (half || whole) return tile_iterations(xs, options, half);
#endif
  return reference_iterations(xs, options, dtype);
}

}  // namespace gx
