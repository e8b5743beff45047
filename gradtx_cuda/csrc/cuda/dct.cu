// CUDA kernels of the passes around the FFT of a DCT, on the current stream.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../common/dct_op.h"
#include "../registration.h"
#include "dct_rows.h"
#include "launch.h"

namespace gx {
namespace {

template <typename T>
__global__ void before_kernel(DctRows<T> rows, bool inverse) {
  if (inverse) {
    to_spectrum(rows);
  } else {
    to_samples(rows);
  }
}

template <typename T>
__global__ void after_kernel(DctRows<T> rows, bool inverse) {
  if (inverse) {
    from_samples(rows);
  } else {
    from_spectrum(rows);
  }
}

template <typename T>
void launch(void (*kernel)(DctRows<T>, bool), const Tensor& x, const Tensor& twiddle,
            const Tensor& out, int64_t n, bool inverse) {
  const DctRows<T> rows{static_cast<const T*>(x.const_data_ptr()),
                        static_cast<const T*>(twiddle.const_data_ptr()),
                        static_cast<T*>(out.mutable_data_ptr()), x.size(0), n, n / 2};
  kernel<<<ctas(rows.rows, 1), kThreads, 0, current_stream(x)>>>(rows, inverse);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

Tensor dct_before_cuda(const Tensor& x, const Tensor& twiddle, bool inverse) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor factor = prepare_dct_pass(x, twiddle), values = torch::stable::contiguous(x);
  const Tensor out = allocate_dct_before(x, inverse);
  if (values.numel() == 0) return out;
  if (x.scalar_type() == ScalarType::Double) {
    launch<double>(before_kernel<double>, values, factor, out, x.size(1), inverse);
  } else {
    launch<float>(before_kernel<float>, values, factor, out, x.size(1), inverse);
  }
  return out;
}

void dct_after__cuda(const Tensor& out, const Tensor& x, const Tensor& twiddle, bool inverse) {
  const torch::stable::accelerator::DeviceGuard guard(out.get_device_index());
  const Tensor factor = prepare_dct_pass(out, twiddle);
  const Tensor values = prepare_dct_after(out, x, inverse);
  if (out.numel() == 0) return;
  if (out.scalar_type() == ScalarType::Double) {
    launch<double>(after_kernel<double>, values, factor, out, out.size(1), inverse);
  } else {
    launch<float>(after_kernel<float>, values, factor, out, out.size(1), inverse);
  }
}

}  // namespace gx
