// CPU kernels of affine block quantisation: one pass over the data, vectorised by the compiler.
#include "../common/quantize_affine.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <numeric>

#include "../common/philox.h"
#include "../common/quantize_affine_op.h"
#include "../registration.h"
#include "affine_blocks.h"
#include "vectorize.h"

namespace gx {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t kGrain = 32768;   // elements worth a thread

// A unit is a run of whole blocks that starts on a whole byte and a whole group of four random
// words: threads share neither.
int64_t blocks_per_unit(int64_t block_size) { return 4 / std::gcd(block_size, int64_t{4}); }

struct QuantizeJob {
  const void* x;
  uint8_t* codes;
  void* lo;
  void* hi;
  int64_t numel;
  int64_t block_size;
  RangeRule rule;
  PhiloxKey key;
};

struct DequantizeJob {
  const uint8_t* codes;
  const void* lo;
  const void* hi;
  void* out;
  int64_t numel;
  int64_t block_size;
  int bits;
  bool bf16;
};

GX_INLINE void encode_stochastic(const float* v, const float* rho, int64_t n, Range range,
                                 int levels, uint8_t* codes) {
  const float step = grid_step(range, levels), top = static_cast<float>(levels);
  if (step == 0.0f) {
    std::fill_n(codes, n, uint8_t{0});
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float position = grid_position(v[i], range.lo, step, top);
    codes[i] = static_cast<uint8_t>(round_stochastic(position, rho[i]));
  }
}

// Uniforms of elements start .. start + n - 1; start is a multiple of 4, rho has room for n + 3.
GX_INLINE void fill_uniform(PhiloxKey key, int64_t start, int64_t n, float* rho) {
  const uint64_t group = static_cast<uint64_t>(start) / 4;
  const int64_t groups = (n + 3) / 4;
  for (int64_t g = 0; g < groups; ++g) {
    const PhiloxWords words = random_group(key, group + static_cast<uint64_t>(g));
    rho[4 * g] = uniform24(words.w0);
    rho[4 * g + 1] = uniform24(words.w1);
    rho[4 * g + 2] = uniform24(words.w2);
    rho[4 * g + 3] = uniform24(words.w3);
  }
}

template <typename T>
GX_INLINE void quantize_units(const QuantizeJob& job, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(job.x);
  const RangeRule rule = job.rule;
  const int levels = (1 << rule.bits) - 1;
  const int64_t unit_size = blocks_per_unit(job.block_size) * job.block_size;
  Range ranges[4];
  float buffer[kChunk], rho[kChunk + 3];
  uint8_t codes[kChunk + 3];

  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * unit_size, last = std::min(job.numel, first + unit_size);
    for (int64_t pos = first, b = 0; pos < last; pos += job.block_size, ++b) {
      const Range range =
          finish_range(extremes(x + pos, std::min(job.block_size, last - pos)), rule);
      const int64_t block = pos / job.block_size;
      store_stat(job.lo, block, range.lo, rule.bf16);
      store_stat(job.hi, block, range.hi, rule.bf16);
      ranges[b] = range;
    }
    for (int64_t start = first; start < last; start += kChunk) {
      const int64_t count = std::min(kChunk, last - start);
      const float* v = as_floats(x + start, count, buffer);
      if (rule.stochastic) fill_uniform(job.key, start, count, rho);
      for (int64_t done = 0; done < count;) {
        const int64_t b = (start + done - first) / job.block_size;
        const int64_t n = std::min(count, first + (b + 1) * job.block_size - start) - done;
        if (rule.stochastic) {
          encode_stochastic(v + done, rho + done, n, ranges[b], levels, codes + done);
        } else {
          encode_nearest(v + done, n, ranges[b], levels, codes + done);
        }
        done += n;
      }
      codes[count] = codes[count + 1] = codes[count + 2] = 0;  // unused bits of a last byte
      uint8_t* out = job.codes + start * rule.bits / 8;
      const int64_t bytes = num_bytes(count, rule.bits);
      if (rule.bits == 2) pack<2>(codes, bytes, out);
      if (rule.bits == 4) pack<4>(codes, bytes, out);
      if (rule.bits == 8) pack<8>(codes, bytes, out);
    }
  }
}

template <typename T>
GX_INLINE void dequantize_units(const DequantizeJob& job, int64_t begin, int64_t end) {
  T* out = static_cast<T*>(job.out);
  const int levels = (1 << job.bits) - 1;
  const int64_t unit_size = blocks_per_unit(job.block_size) * job.block_size;
  uint8_t codes[kChunk + 3];

  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * unit_size, last = std::min(job.numel, first + unit_size);
    for (int64_t start = first; start < last; start += kChunk) {
      const int64_t count = std::min(kChunk, last - start);
      const uint8_t* in = job.codes + start * job.bits / 8;
      const int64_t bytes = num_bytes(count, job.bits);
      if (job.bits == 2) unpack<2>(in, bytes, codes);
      if (job.bits == 4) unpack<4>(in, bytes, codes);
      if (job.bits == 8) unpack<8>(in, bytes, codes);
      for (int64_t done = 0; done < count;) {
        const int64_t block = (start + done) / job.block_size;
        const int64_t n = std::min(count, (block + 1) * job.block_size - start) - done;
        const Range range{load_stat(job.lo, block, job.bf16), load_stat(job.hi, block, job.bf16)};
        const float step = grid_step(range, levels);
        for (int64_t i = done; i < done + n; ++i) {
          out[start + i] = static_cast<T>(decode(codes[i], range.lo, step));
        }
        done += n;
      }
    }
  }
}

#define GX_FOR_DTYPES(DO) DO(float) DO(double) DO(Half) DO(BFloat16)

#define GX_DEFINE(T)                                                                      \
  GX_CLONES void quantize_##T(const QuantizeJob& job, int64_t begin, int64_t end) {       \
    quantize_units<T>(job, begin, end);                                                   \
  }                                                                                       \
  GX_CLONES void dequantize_##T(const DequantizeJob& job, int64_t begin, int64_t end) {   \
    dequantize_units<T>(job, begin, end);                                                 \
  }
GX_FOR_DTYPES(GX_DEFINE)
#undef GX_DEFINE

template <typename Job>
void run(void (*work)(const Job&, int64_t, int64_t), const Job& job) {
  const int64_t unit_size = blocks_per_unit(job.block_size) * job.block_size;
  const int64_t units = num_blocks(job.numel, unit_size);
  const int64_t grain = std::max<int64_t>(1, kGrain / unit_size);
  torch::stable::parallel_for(0, units, grain,
                              [&](int64_t begin, int64_t end) { work(job, begin, end); });
}

}  // namespace

QuantizeOutputs quantize_affine_cpu(const Tensor& x, int64_t bits, int64_t block_size,
                                    bool stochastic, const std::optional<Tensor>& key,
                                    bool include_zero, ScalarType stats_dtype) {
  const Tensor values = prepare_quantize(x, bits, block_size, stochastic, key, stats_dtype);
  const QuantizeOutputs outputs = allocate_quantize(values, bits, block_size, stats_dtype);
  const auto& [codes, lo, hi] = outputs;
  const int64_t numel = values.numel();
  if (numel == 0) return outputs;

  PhiloxKey philox_key{0, 0};
  if (stochastic) {
    const Tensor words = torch::stable::contiguous(*key);
    const auto* data = static_cast<const int64_t*>(words.const_data_ptr());
    philox_key = {static_cast<uint64_t>(data[0]), static_cast<uint64_t>(data[1])};
  }
  const RangeRule rule{static_cast<int>(bits), stochastic, include_zero,
                       stats_dtype == ScalarType::BFloat16};
  const QuantizeJob job{values.const_data_ptr(),
                        static_cast<uint8_t*>(codes.mutable_data_ptr()),
                        lo.mutable_data_ptr(),
                        hi.mutable_data_ptr(),
                        numel,
                        std::min(block_size, numel),
                        rule,
                        philox_key};
  switch (values.scalar_type()) {
    case ScalarType::Double: run(quantize_double, job); break;
    case ScalarType::Half: run(quantize_Half, job); break;
    case ScalarType::BFloat16: run(quantize_BFloat16, job); break;
    default: run(quantize_float, job);
  }
  return outputs;
}

Tensor dequantize_affine_cpu(const Tensor& codes, const Tensor& lo, const Tensor& hi, int64_t bits,
                             int64_t block_size, int64_t numel, ScalarType dtype) {
  require_dequantize(codes, lo, hi, bits, block_size, numel, dtype);
  const Tensor out = torch::stable::new_empty(codes, {numel}, dtype);
  if (numel == 0) return out;

  const Tensor bytes = torch::stable::contiguous(codes);
  const Tensor low = torch::stable::contiguous(lo), high = torch::stable::contiguous(hi);
  const DequantizeJob job{static_cast<const uint8_t*>(bytes.const_data_ptr()),
                          low.const_data_ptr(),
                          high.const_data_ptr(),
                          out.mutable_data_ptr(),
                          numel,
                          std::min(block_size, numel),
                          static_cast<int>(bits),
                          low.scalar_type() == ScalarType::BFloat16};
  switch (dtype) {
    case ScalarType::Double: run(dequantize_double, job); break;
    case ScalarType::Half: run(dequantize_Half, job); break;
    case ScalarType::BFloat16: run(dequantize_BFloat16, job); break;
    default: run(dequantize_float, job);
  }
  return out;
}

}  // namespace gx
