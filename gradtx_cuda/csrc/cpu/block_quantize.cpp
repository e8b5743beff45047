// CPU kernels of the power-law block quantizer, vectorised by the compiler.
#include "../common/block_quantize.h"

#include <algorithm>

#include "../common/block_quantize_op.h"
#include "../registration.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kChunk = 1024;   // elements held in a local buffer
constexpr int64_t kGrain = 32768;  // elements worth a thread
constexpr int kLanes = 16;

struct QuantizeJob {
  const float* x;
  uint8_t* codes;
  float* scale;
  int64_t numel;
  int64_t block_size;
};

struct DequantizeJob {
  const uint8_t* codes;
  const float* scale;
  float* out;
  int64_t numel;
  int64_t block_size;
};

// A unit is a run of whole blocks that starts on a whole byte: threads share no byte.
int64_t unit_size(int64_t block_size, int bits) {
  return bits == 4 && block_size % 2 != 0 ? 2 * block_size : block_size;
}

template <bool kSigned>
GX_INLINE float block_scale(const float* x, int64_t n) {
  uint32_t largest[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      largest[l] = larger(largest[l], to_bits(block_magnitude(x[i + l], kSigned)));
    }
  }
  for (; i < n; ++i) largest[0] = larger(largest[0], to_bits(block_magnitude(x[i], kSigned)));
  for (int l = 1; l < kLanes; ++l) largest[0] = larger(largest[0], largest[l]);
  return finish_scale(largest[0], kSigned);
}

template <int kBits>
GX_INLINE void pack_codes(const uint8_t* codes, int64_t n, uint8_t* out) {
  if (kBits == 8) {
    std::copy_n(codes, n, out);
    return;
  }
  for (int64_t b = 0; b < n / 2; ++b) {
    out[b] = static_cast<uint8_t>(codes[2 * b] << 4 | codes[2 * b + 1]);
  }
  if (n % 2 != 0) out[n / 2] = static_cast<uint8_t>(codes[n - 1] << 4);
}

template <int kBits>
GX_INLINE void unpack_codes(const uint8_t* in, int64_t n, uint8_t* codes) {
  if (kBits == 8) {
    std::copy_n(in, n, codes);
    return;
  }
  for (int64_t b = 0; b < n / 2; ++b) {
    codes[2 * b] = static_cast<uint8_t>(in[b] >> 4);
    codes[2 * b + 1] = static_cast<uint8_t>(in[b] & 15);
  }
  if (n % 2 != 0) codes[n - 1] = static_cast<uint8_t>(in[n / 2] >> 4);
}

// Call work(first element, count, block) for the parts of start .. start + count in one block each.
template <typename Work>
GX_INLINE void for_each_block(int64_t start, int64_t count, int64_t block_size, const Work& work) {
  for (int64_t done = 0; done < count;) {
    const int64_t block = (start + done) / block_size;
    const int64_t n = std::min(count, (block + 1) * block_size - start) - done;
    work(done, n, block);
    done += n;
  }
}

template <int kBits, bool kSigned>
GX_INLINE void quantize_units(const QuantizeJob& job, int64_t begin, int64_t end) {
  const float top = top_level(kBits, kSigned);
  const int64_t size = unit_size(job.block_size, kBits);
  const int64_t first = begin * size, last = std::min(job.numel, end * size);
  for (int64_t pos = first; pos < last; pos += job.block_size) {
    const int64_t n = std::min(job.block_size, last - pos);
    job.scale[pos / job.block_size] = block_scale<kSigned>(job.x + pos, n);
  }
  uint8_t codes[kChunk];
  for (int64_t start = first; start < last; start += kChunk) {
    const int64_t count = std::min(kChunk, last - start);
    for_each_block(start, count, job.block_size, [&](int64_t done, int64_t n, int64_t block) {
      const float* x = job.x + start + done;
      const float scale = job.scale[block];
      for (int64_t i = 0; i < n; ++i) {
        codes[done + i] = static_cast<uint8_t>(power_code(x[i], scale, top, kSigned));
      }
    });
    pack_codes<kBits>(codes, count, job.codes + start * kBits / 8);
  }
}

template <int kBits, bool kSigned>
GX_INLINE void dequantize_units(const DequantizeJob& job, int64_t begin, int64_t end) {
  const float top = top_level(kBits, kSigned);
  const int64_t size = unit_size(job.block_size, kBits);
  const int64_t first = begin * size, last = std::min(job.numel, end * size);
  uint8_t codes[kChunk];
  for (int64_t start = first; start < last; start += kChunk) {
    const int64_t count = std::min(kChunk, last - start);
    unpack_codes<kBits>(job.codes + start * kBits / 8, count, codes);
    for_each_block(start, count, job.block_size, [&](int64_t done, int64_t n, int64_t block) {
      float* out = job.out + start + done;
      const float scale = job.scale[block];
      for (int64_t i = 0; i < n; ++i) out[i] = power_value(codes[done + i], scale, top, kSigned);
    });
  }
}

template <typename Job>
using Work = void (*)(const Job&, int64_t, int64_t);

#define GX_DEFINE_ONE(NAME, JOB, SUFFIX, BITS, SIGNED)                                \
  GX_CLONES void NAME##_##SUFFIX(const JOB& job, int64_t begin, int64_t end) {        \
    NAME##_units<BITS, SIGNED>(job, begin, end);                                      \
  }
#define GX_DEFINE(NAME, JOB)                                                          \
  GX_DEFINE_ONE(NAME, JOB, 4u, 4, false)                                              \
  GX_DEFINE_ONE(NAME, JOB, 4s, 4, true)                                               \
  GX_DEFINE_ONE(NAME, JOB, 8u, 8, false)                                              \
  GX_DEFINE_ONE(NAME, JOB, 8s, 8, true)                                               \
  Work<JOB> NAME##_work(int64_t bits, bool is_signed) {                               \
    if (bits == 4) return is_signed ? NAME##_4s : NAME##_4u;                          \
    return is_signed ? NAME##_8s : NAME##_8u;                                         \
  }
GX_DEFINE(quantize, QuantizeJob)
GX_DEFINE(dequantize, DequantizeJob)
#undef GX_DEFINE
#undef GX_DEFINE_ONE

template <typename Job>
void run(Work<Job> work, const Job& job, int64_t bits) {
  const int64_t size = unit_size(job.block_size, static_cast<int>(bits));
  torch::stable::parallel_for(0, num_blocks(job.numel, size), std::max<int64_t>(1, kGrain / size),
                              [&](int64_t begin, int64_t end) { work(job, begin, end); });
}

}  // namespace

BlockOutputs block_quantize_cpu(const Tensor& x, int64_t bits, int64_t block_size,
                                bool is_signed) {
  const Tensor values = prepare_block_quantize(x, bits, block_size);
  const BlockOutputs outputs = allocate_block_quantize(values, bits, block_size);
  const auto& [codes, scale] = outputs;
  const int64_t numel = values.numel();
  if (numel == 0) return outputs;
  const QuantizeJob job{static_cast<const float*>(values.const_data_ptr()),
                        static_cast<uint8_t*>(codes.mutable_data_ptr()),
                        static_cast<float*>(scale.mutable_data_ptr()), numel,
                        std::min(block_size, numel)};
  run(quantize_work(bits, is_signed), job, bits);
  return outputs;
}

Tensor block_dequantize_cpu(const Tensor& codes, const Tensor& scale, int64_t numel, int64_t bits,
                            int64_t block_size, bool is_signed) {
  require_block_dequantize(codes, scale, numel, bits, block_size);
  const Tensor out = torch::stable::new_empty(scale, {numel}, ScalarType::Float);
  if (numel == 0) return out;
  const Tensor bytes = torch::stable::contiguous(codes);
  const Tensor scales = torch::stable::contiguous(scale);
  const DequantizeJob job{static_cast<const uint8_t*>(bytes.const_data_ptr()),
                          static_cast<const float*>(scales.const_data_ptr()),
                          static_cast<float*>(out.mutable_data_ptr()), numel,
                          std::min(block_size, numel)};
  run(dequantize_work(bits, is_signed), job, bits);
  return out;
}

}  // namespace gx
