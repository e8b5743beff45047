// CPU kernels that pack and unpack signs.
#include "../common/signs.h"

#include <algorithm>

#include "../common/signs_op.h"
#include "../registration.h"
#include "vectorize.h"

namespace gx {
namespace {

constexpr int64_t kGrain = 65536;  // elements worth a thread
constexpr int64_t kRow = 1024;     // length of a row where the matrix has no gaps between rows

template <typename In, typename Out>
struct SignJob {
  const In* in;
  Out* out;
  int64_t numel;
  int64_t columns;
};

template <typename T>
GX_INLINE void pack_rows(const SignJob<T, uint8_t>& job, int64_t begin, int64_t end) {
  const int64_t bytes = num_bytes(job.columns, 1);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = job.in + row * job.columns;
    uint8_t* out = job.out + row * bytes;
    const int64_t n = std::min(job.columns, job.numel - row * job.columns);
    for (int64_t b = 0; b < n / 8; ++b) out[b] = sign_byte(x + 8 * b, 8);
    if (n % 8 != 0) out[n / 8] = sign_byte(x + n / 8 * 8, static_cast<int>(n % 8));
  }
}

GX_INLINE void unpack_rows(const SignJob<uint8_t, bool>& job, int64_t begin, int64_t end) {
  const int64_t bytes = num_bytes(job.columns, 1);
  for (int64_t row = begin; row < end; ++row) {
    const uint8_t* in = job.in + row * bytes;
    bool* out = job.out + row * job.columns;
    const int64_t n = std::min(job.columns, job.numel - row * job.columns);
    for (int64_t b = 0; b < n / 8; ++b) {
      for (int j = 0; j < 8; ++j) out[8 * b + j] = sign_bit(in[b], j);
    }
    for (int64_t i = n / 8 * 8; i < n; ++i) out[i] = sign_bit(in[i / 8], static_cast<int>(i % 8));
  }
}

GX_CLONES void pack_float(const SignJob<float, uint8_t>& job, int64_t begin, int64_t end) {
  pack_rows(job, begin, end);
}
GX_CLONES void pack_double(const SignJob<double, uint8_t>& job, int64_t begin, int64_t end) {
  pack_rows(job, begin, end);
}
GX_CLONES void unpack(const SignJob<uint8_t, bool>& job, int64_t begin, int64_t end) {
  unpack_rows(job, begin, end);
}

template <typename In, typename Out>
void run(void (*work)(const SignJob<In, Out>&, int64_t, int64_t), const void* in, void* out,
         int64_t numel, int64_t columns) {
  // Rows of whole bytes follow each other without a gap, so they may be cut anew.
  const SignJob<In, Out> job{static_cast<const In*>(in), static_cast<Out*>(out), numel,
                             columns % 8 == 0 ? kRow : columns};
  const int64_t grain = std::max<int64_t>(1, kGrain / job.columns);
  torch::stable::parallel_for(0, num_blocks(numel, job.columns), grain,
                              [&](int64_t begin, int64_t end) { work(job, begin, end); });
}

}  // namespace

Tensor pack_signs_cpu(const Tensor& x) {
  const Tensor values = prepare_pack_signs(x);
  const Tensor bits = allocate_pack_signs(values);
  const int64_t numel = values.numel();
  if (numel == 0) return bits;
  const void* in = values.const_data_ptr();
  if (values.scalar_type() == ScalarType::Double) {
    run(pack_double, in, bits.mutable_data_ptr(), numel, values.size(1));
  } else {
    run(pack_float, in, bits.mutable_data_ptr(), numel, values.size(1));
  }
  return bits;
}

Tensor unpack_signs_cpu(const Tensor& bits, int64_t columns) {
  const Tensor bytes = prepare_unpack_signs(bits, columns);
  const Tensor out = torch::stable::new_empty(bytes, {bytes.size(0), columns}, ScalarType::Bool);
  const int64_t numel = out.numel();
  if (numel == 0) return out;
  run(unpack, bytes.const_data_ptr(), out.mutable_data_ptr(), numel, columns);
  return out;
}

}  // namespace gx
