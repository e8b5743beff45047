// Sixteen Philox blocks at a time, run by run, on several threads.
#pragma once

#include "../common/philox.h"
#include "../common/random_bits_op.h"
#include "vectorize.h"

namespace gx {

constexpr int64_t kPhiloxLanes = 16;
constexpr int64_t kPhiloxRun = 4 * kPhiloxLanes;  // words of one run

// words[w][j] is word w of block j of a run.
GX_INLINE void philox_run(PhiloxKey key, int64_t run, uint32_t (*words)[kPhiloxLanes]) {
  for (int64_t j = 0; j < kPhiloxLanes; ++j) {
    const PhiloxWords w = random_group(key, static_cast<uint64_t>(run * kPhiloxLanes + j));
    words[0][j] = w.w0;
    words[1][j] = w.w1;
    words[2][j] = w.w2;
    words[3][j] = w.w3;
  }
}

// What a kernel needs to fill `numel` numbers with the runs of a key.
template <typename T>
struct PhiloxJob {
  PhiloxKey key;
  T* out;
  int64_t numel;
};

// Calls draw(job, first, last) for ranges of runs, `grain` of which are worth a thread.
template <typename T, typename Draw>
void philox_parallel(const Tensor& pair, const Tensor& out, int64_t grain, const Draw& draw) {
  const int64_t numel = out.numel();
  if (numel == 0) return;
  const auto* numbers = static_cast<const int64_t*>(pair.const_data_ptr());
  const PhiloxJob<T> job{{static_cast<uint64_t>(numbers[0]), static_cast<uint64_t>(numbers[1])},
                         static_cast<T*>(out.mutable_data_ptr()),
                         numel};
  torch::stable::parallel_for(0, num_blocks(numel, kPhiloxRun), grain,
                              [&](int64_t begin, int64_t end) { draw(job, begin, end); });
}

}  // namespace gx
