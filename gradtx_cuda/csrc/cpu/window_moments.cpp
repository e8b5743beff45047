// CPU kernel of the moments of a window of sparse rows, parallel over blocks.
#include "../common/window_moments_op.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <atomic>

#include "../common/window_entries.h"
#include "../registration.h"

namespace gx {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t kGrain = 32768;  // elements worth a thread

struct Job {
  const void* indices;
  const void* values;
  const void* weights1;
  const void* weights2;
  void* first;
  void* second;
  int64_t rows;
  int64_t columns;
  int64_t numel;
  int64_t block_size;
  int64_t k;
};

// False if an index points out of its block.
template <typename Index, typename Value, typename Weight>
bool add_blocks(const Job& job, int64_t begin, int64_t end) {
  const auto* w1 = static_cast<const Weight*>(job.weights1);
  const auto* w2 = static_cast<const Weight*>(job.weights2);
  bool inside = true;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t start = block * job.block_size;
    const int64_t n = std::min(job.block_size, job.numel - start);
    Weight* first = static_cast<Weight*>(job.first) + start;
    Weight* second = static_cast<Weight*>(job.second) + start;
    std::fill_n(first, n, Weight{0});
    std::fill_n(second, n, Weight{0});
    const Entries entries = entries_of(block, job.k, job.columns);
    for (int64_t row = 0; row < job.rows; ++row) {
      const Index* at = static_cast<const Index*>(job.indices) + row * job.columns;
      const Value* of = static_cast<const Value*>(job.values) + row * job.columns;
      for (int64_t c = entries.begin; c < entries.end; ++c) {
        const int64_t i = at[c];
        if (i < 0 || i >= n) {
          inside = false;
          continue;
        }
        const auto v = static_cast<Weight>(of[c]);
        first[i] += w1[row] * v;
        second[i] += w2[row] * (v * v);
      }
    }
  }
  return inside;
}

using Work = bool (*)(const Job&, int64_t, int64_t);

template <typename Index, typename Value>
Work choose(ScalarType weight) {
  return weight == ScalarType::Double ? add_blocks<Index, Value, double>
                                      : add_blocks<Index, Value, float>;
}

template <typename Index>
Work choose(ScalarType value, ScalarType weight) {
  switch (value) {
    case ScalarType::Double: return choose<Index, double>(weight);
    case ScalarType::Half: return choose<Index, Half>(weight);
    case ScalarType::BFloat16: return choose<Index, BFloat16>(weight);
    default: return choose<Index, float>(weight);
  }
}

Work choose(ScalarType index, ScalarType value, ScalarType weight) {
  switch (index) {
    case ScalarType::Short: return choose<int16_t>(value, weight);
    case ScalarType::Int: return choose<int32_t>(value, weight);
    default: return choose<int64_t>(value, weight);
  }
}

}  // namespace

MomentOutputs window_moments_cpu(const Tensor& indices, const Tensor& values,
                                 const Tensor& weights1, const Tensor& weights2, int64_t numel,
                                 int64_t block_size, int64_t k) {
  require_window_moments(indices, values, weights1, weights2, numel, block_size, k);
  const MomentOutputs outputs = allocate_window_moments(weights1, numel);
  if (numel == 0) return outputs;
  const Tensor at = torch::stable::contiguous(indices), of = torch::stable::contiguous(values);
  const Tensor w1 = torch::stable::contiguous(weights1);
  const Tensor w2 = torch::stable::contiguous(weights2);
  const Job job{at.const_data_ptr(),
                of.const_data_ptr(),
                w1.const_data_ptr(),
                w2.const_data_ptr(),
                std::get<0>(outputs).mutable_data_ptr(),
                std::get<1>(outputs).mutable_data_ptr(),
                at.size(0),
                at.size(1),
                numel,
                block_size,
                k};
  const Work work = choose(at.scalar_type(), of.scalar_type(), w1.scalar_type());
  std::atomic<bool> inside{true};
  torch::stable::parallel_for(0, num_blocks(numel, block_size),
                              std::max<int64_t>(1, kGrain / block_size),
                              [&](int64_t begin, int64_t end) {
                                if (!work(job, begin, end)) inside = false;
                              });
  require(inside, "window_moments: an index points out of its block");
  return outputs;
}

}  // namespace gx
