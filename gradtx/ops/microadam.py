"""The operator ``gradtx::microadam_``: one MicroAdam step of many leaves, in place.

    microadam_(params, grads, codes, lo, hi, steps, indices, values, Tensor hyper, int[] rows,
               int[] signs, int[] block_sizes, int[] kept, int quant_block_size,
               bool include_zero, bool window_correction, str nonfinite) -> Tensor finite

The first eight arguments are lists of one tensor a leaf, of which all but the gradients are
overwritten. For the parameter p (float32 or bfloat16, as its gradient g is) with the error of the
last step as ``gradtx::quantize_affine`` keeps it (4 bits, bfloat16 ranges: codes, lo, hi), the
number of steps done (int32) and a window of earlier entries (indices int16, values bfloat16, both
(window, columns)), the step is

    a = sign g + dequantize_affine(codes, lo, hi)
    row t mod window of indices, values <- block_top_k(a), a there; a <- 0 there
    codes, lo, hi <- quantize_affine(a)
    m, v = window_moments(indices, values), of weights b^age
    m, v <- m (1 - b1) / (1 - b1^n), v (1 - b2) / (1 - b2^n)
    p <- p - lr (m / (sqrt(v) + eps) + weight_decay p), rounded once;  t <- t + 1, and from the
        largest int32 back by a window

with n = t + 1, or at most the window if `window_correction`. Row `rows[i]` of hyper, float64 on the
CPU, holds lr, b1, b2, eps and weight_decay of leaf i, `signs[i]` is 1 or -1; its blocks have
`block_sizes[i]` elements, of which ``kept[i]`` are kept, fewer in a shorter last one. Entries of
the window that point out of their block are left out.

`finite`, on the device of the parameters, says which gradients are finite. Where one is not,
nonfinite="skip" leaves that leaf alone, "raise" leaves all leaves alone, "ignore" does not look and
answers True. On the CPU gradients are read once for this: the kernel copies what it overwrites
before it has seen all of them, 0.6 bytes a parameter, into memory of at most 64 MiB that the
process keeps, and looks ahead only at gradients for which that has no room.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx.core.state import advance
from gradtx.ops.affine import dequantize_affine, quantize_affine
from gradtx.ops.block_top_k import block_starts, block_top_k
from gradtx.ops.registry import operator
from gradtx.ops.window_moments import window_moments

__all__ = ["HYPER", "microadam_"]

HYPER = ("lr", "b1", "b2", "eps", "weight_decay")
_BITS = 4


def _fake(
    params: list[Tensor],
    grads: list[Tensor],
    codes: list[Tensor],
    lo: list[Tensor],
    hi: list[Tensor],
    steps: list[Tensor],
    indices: list[Tensor],
    values: list[Tensor],
    hyper: Tensor,
    *options: object,
) -> Tensor:
    return (params[0] if params else hyper).new_empty(len(params), dtype=torch.bool)


@operator(
    "microadam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] codes, Tensor(c!)[] lo, "
    "Tensor(d!)[] hi, Tensor(e!)[] steps, Tensor(f!)[] indices, Tensor(g!)[] values, "
    "Tensor hyper, int[] rows, int[] signs, int[] block_sizes, int[] kept, int quant_block_size, "
    "bool include_zero, bool window_correction, str nonfinite) -> Tensor finite",
    fake=_fake,
    mutates=True,
)
def microadam_(
    params: list[Tensor],
    grads: list[Tensor],
    codes: list[Tensor],
    lo: list[Tensor],
    hi: list[Tensor],
    steps: list[Tensor],
    indices: list[Tensor],
    values: list[Tensor],
    hyper: Tensor,
    rows: list[int],
    signs: list[int],
    block_sizes: list[int],
    kept: list[int],
    quant_block_size: int,
    include_zero: bool,
    window_correction: bool,
    nonfinite: str,
) -> Tensor:
    """One step of all leaves; see the module's text."""
    finite = [nonfinite == "ignore" or bool(torch.isfinite(g).all()) for g in grads]
    flags = torch.tensor(finite, dtype=torch.bool, device=(params[0] if params else hyper).device)
    if nonfinite == "raise" and not all(finite):
        return flags
    for i, p in enumerate(params):
        if not finite[i]:
            continue
        lr, b1, b2, eps, weight_decay = hyper[rows[i]].tolist()
        eps = eps or torch.finfo(torch.float32).tiny  # 0 / (0 + eps) is 0
        size, k, n = block_sizes[i], kept[i], p.numel()
        done, window = int(steps[i]), indices[i].shape[0]
        error = dequantize_affine(
            *(codes[i], lo[i], hi[i], _BITS, quant_block_size, n, torch.float32)
        )
        total = signs[i] * grads[i].reshape(-1).float() + error

        tail = indices[i].shape[1] - n // size * k
        chosen = block_top_k(total, size, k, tail, torch.int16)
        where = chosen.long() + block_starts(chosen.numel(), k, size, p.device)
        indices[i][done % window] = chosen
        values[i][done % window] = total[where].to(values[i].dtype)
        total[where] = 0.0
        encoded = quantize_affine(
            *(total, _BITS, quant_block_size, False, None, include_zero, lo[i].dtype)
        )
        for old, new in zip((codes[i], lo[i], hi[i]), encoded, strict=True):
            old.copy_(new)

        count = min(done + 1, window) if window_correction else done + 1
        row = torch.arange(window, dtype=torch.float64, device="cpu")
        ages, written = (done - row) % window, row <= done
        w1, w2 = (torch.where(written, b**ages, 0.0).float().to(p.device) for b in (b1, b2))
        gains = [(1 - b) / (1 - b**count) for b in (b1, b2)]
        g1, g2 = torch.tensor(gains, dtype=torch.float32, device="cpu").tolist()
        first, second = window_moments(indices[i], values[i], w1, w2, n, size, k)
        update = (g1 * first / ((g2 * second).sqrt() + eps)).reshape(p.shape)
        moved = p.float()
        decayed = update + weight_decay * moved if weight_decay else update
        p.copy_(moved + decayed * -lr)
        steps[i].copy_(advance(steps[i], window))
    return flags
