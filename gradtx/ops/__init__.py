"""Heavy primitives: dispatcher operators with a readable reference, faster where kernels exist."""

import gradtx_cuda
from gradtx.ops.quantize import Quantized, dequantize_affine, quantize_affine
from gradtx.ops.registry import OPS, Op, operator

__all__ = ["OPS", "Op", "Quantized", "dequantize_affine", "operator", "quantize_affine"]

gradtx_cuda.load()
