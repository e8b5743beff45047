// CPU kernel of random numbers: the words of Philox blocks in order.
#include <algorithm>

#include "../registration.h"
#include "philox_lanes.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 256;  // runs worth a thread

GX_CLONES void draw(const PhiloxJob<int64_t>& job, int64_t begin, int64_t end) {
  for (int64_t run = begin; run < end; ++run) {
    uint32_t words[4][kPhiloxLanes];
    philox_run(job.key, run, words);
    int64_t* out = job.out + run * kPhiloxRun;
    const int64_t n = std::min(kPhiloxRun, job.numel - run * kPhiloxRun);
    for (int64_t k = 0; k < n; ++k) out[k] = words[k % 4][k / 4];
  }
}

}  // namespace

Tensor random_bits_cpu(const Tensor& key, int64_t numel) {
  const Tensor pair = prepare_random_bits(key, numel);
  const Tensor out = allocate_random_bits(pair, numel);
  philox_parallel<int64_t>(pair, out, kGrain, draw);
  return out;
}

}  // namespace gx
