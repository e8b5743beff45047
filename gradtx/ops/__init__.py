"""Heavy primitives: dispatcher operators with a readable reference, faster where kernels exist."""

import gradtx_cuda
from gradtx.ops.add_product import add_product_
from gradtx.ops.basis import rotate
from gradtx.ops.block_fisher import block_fisher, block_fisher_times
from gradtx.ops.block_quantize import block_dequantize, block_quantize
from gradtx.ops.block_top_k import block_top_k
from gradtx.ops.cholesky_iteration import cholesky_iteration, cholesky_turn
from gradtx.ops.clenshaw import clenshaw
from gradtx.ops.column_adam import column_adam
from gradtx.ops.coordinates import coordinates, coordinates_squares
from gradtx.ops.coupled_newton import coupled_newton
from gradtx.ops.dct import dct, dct_matrix, idct
from gradtx.ops.denman_beavers import denman_beavers
from gradtx.ops.hadamard import hadamard
from gradtx.ops.ldadam import ldadam_columns, ldadam_moments_
from gradtx.ops.microadam import microadam_
from gradtx.ops.newton_schulz import newton_schulz
from gradtx.ops.orthonormalize import orthonormalize_
from gradtx.ops.quantize import Quantized, dequantize_affine, quantize_affine
from gradtx.ops.registry import OPS, Op, operator
from gradtx.ops.selection import top_indices, top_mask
from gradtx.ops.signs import pack_signs, unpack_signs
from gradtx.ops.stochastic import (
    random_bits,
    random_bits16,
    random_bits16_of_part,
    random_normal,
    round_stochastic,
)
from gradtx.ops.symmetric import dequantize_symmetric, quantize_symmetric
from gradtx.ops.symmetric_product import symmetric_product
from gradtx.ops.window_moments import window_moments
from gradtx.ops.window_products import sparse_window_combine, sparse_window_dots, window_dots
from gradtx.ops.window_step import sparse_window_push_, sparse_window_step_

__all__ = [
    "OPS",
    "Op",
    "Quantized",
    "add_product_",
    "block_dequantize",
    "block_fisher",
    "block_fisher_times",
    "block_quantize",
    "block_top_k",
    "cholesky_iteration",
    "cholesky_turn",
    "clenshaw",
    "column_adam",
    "coordinates",
    "coordinates_squares",
    "coupled_newton",
    "dct",
    "dct_matrix",
    "denman_beavers",
    "dequantize_affine",
    "dequantize_symmetric",
    "hadamard",
    "idct",
    "ldadam_columns",
    "ldadam_moments_",
    "microadam_",
    "newton_schulz",
    "operator",
    "orthonormalize_",
    "pack_signs",
    "quantize_affine",
    "quantize_symmetric",
    "random_bits",
    "random_bits16",
    "random_bits16_of_part",
    "random_normal",
    "rotate",
    "round_stochastic",
    "sparse_window_combine",
    "sparse_window_dots",
    "sparse_window_push_",
    "sparse_window_step_",
    "symmetric_product",
    "top_indices",
    "top_mask",
    "unpack_signs",
    "window_dots",
    "window_moments",
]

gradtx_cuda.load()
