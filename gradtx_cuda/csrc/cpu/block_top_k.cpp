// CPU kernel of the block-wise selection of the largest magnitudes, parallel over blocks.
#include "../common/block_top_k_op.h"
#include "../registration.h"
#include "top_k.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread

struct Job {
  const void* x;
  void* out;
  ScalarType dtype;
  int64_t numel;
  int64_t block_size;
  int64_t k;
  int64_t k_tail;
};

template <typename Index>
void store(const std::vector<int64_t>& chosen, void* out, int64_t first) {
  std::transform(chosen.begin(), chosen.end(), static_cast<Index*>(out) + first,
                 [](int64_t i) { return static_cast<Index>(i); });
}

template <typename Bits>
GX_INLINE void select_blocks(const Job& job, int64_t begin, int64_t end) {
  TopK<Bits> buffers;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t start = block * job.block_size;
    const int64_t n = std::min(job.block_size, job.numel - start);
    const int64_t k = n == job.block_size ? job.k : job.k_tail;
    const char* x = static_cast<const char*>(job.x) + start * int64_t{sizeof(Bits)};
    select_top_k(x, n, k, buffers);
    switch (job.dtype) {
      case ScalarType::Short: store<int16_t>(buffers.chosen, job.out, block * job.k); break;
      case ScalarType::Int: store<int32_t>(buffers.chosen, job.out, block * job.k); break;
      default: store<int64_t>(buffers.chosen, job.out, block * job.k);
    }
  }
}

GX_CLONES void select16(const Job& job, int64_t begin, int64_t end) {
  select_blocks<uint16_t>(job, begin, end);
}
GX_CLONES void select32(const Job& job, int64_t begin, int64_t end) {
  select_blocks<uint32_t>(job, begin, end);
}
GX_CLONES void select64(const Job& job, int64_t begin, int64_t end) {
  select_blocks<uint64_t>(job, begin, end);
}

}  // namespace

Tensor block_top_k_cpu(const Tensor& x, int64_t block_size, int64_t k, int64_t k_tail,
                       ScalarType dtype) {
  const Tensor values = prepare_block_top_k(x, block_size, k, k_tail, dtype);
  const Tensor out = allocate_block_top_k(values, block_size, k, k_tail, dtype);
  const int64_t numel = values.numel();
  if (numel == 0) return out;
  const Job job{values.const_data_ptr(), out.mutable_data_ptr(), dtype, numel,
                block_size,              k,                      k_tail};
  auto work = select16;
  if (values.scalar_type() == ScalarType::Float) work = select32;
  if (values.scalar_type() == ScalarType::Double) work = select64;
  torch::stable::parallel_for(0, num_blocks(numel, block_size),
                              std::max<int64_t>(1, kGrain / block_size),
                              [&](int64_t begin, int64_t end) { work(job, begin, end); });
  return out;
}

}  // namespace gx
