// CPU kernel of random numbers: sixteen Philox blocks at a time.
#include <algorithm>

#include "../common/philox.h"
#include "../common/random_bits_op.h"
#include "../registration.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kWords = 4 * kLanes;  // of one run
constexpr int64_t kGrain = 256;         // runs worth a thread

struct RandomJob {
  PhiloxKey key;
  int64_t* out;
  int64_t numel;
};

GX_CLONES void draw(const RandomJob& job, int64_t begin, int64_t end) {
  for (int64_t run = begin; run < end; ++run) {
    uint32_t words[4][kLanes];
    for (int64_t j = 0; j < kLanes; ++j) {
      const PhiloxWords w = random_group(job.key, static_cast<uint64_t>(run * kLanes + j));
      words[0][j] = w.w0;
      words[1][j] = w.w1;
      words[2][j] = w.w2;
      words[3][j] = w.w3;
    }
    int64_t* out = job.out + run * kWords;
    const int64_t n = std::min(kWords, job.numel - run * kWords);
    for (int64_t k = 0; k < n; ++k) out[k] = words[k % 4][k / 4];
  }
}

}  // namespace

Tensor random_bits_cpu(const Tensor& key, int64_t numel) {
  const Tensor pair = prepare_random_bits(key, numel);
  const Tensor out = allocate_random_bits(pair, numel);
  if (numel == 0) return out;
  const auto* numbers = static_cast<const int64_t*>(pair.const_data_ptr());
  const RandomJob job{{static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1])},
                      static_cast<int64_t*>(out.mutable_data_ptr()),
                      numel};
  torch::stable::parallel_for(0, num_blocks(numel, kWords), kGrain,
                              [&](int64_t begin, int64_t end) { draw(job, begin, end); });
  return out;
}

}  // namespace gx
