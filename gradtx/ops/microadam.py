"""The operator ``gradtx::microadam_``: one MicroAdam step of many leaves, in place.

    microadam_(params, grads, codes, lo, hi, steps, indices, values, Tensor hyper, int[] rows,
               int[] signs, int[] block_sizes, int[] kept, int quant_block_size,
               bool include_zero, bool window_correction, str nonfinite) -> Tensor finite

The first eight arguments are lists of one tensor a leaf, of which all but the gradients are
overwritten; no two share memory. For the parameter p (float32 or bfloat16, as its gradient g is)
with the error of the last step as ``gradtx::quantize_affine`` keeps it (4 bits, bfloat16 ranges:
codes, lo, hi), the number of steps done (int32) and a window of earlier entries (indices int16,
values bfloat16, both (window, columns)), the step is

    a = sign g + dequantize_affine(codes, lo, hi)
    row t mod window of indices, values <- block_top_k(a), a there; a <- 0 there
    codes, lo, hi <- quantize_affine(a)
    m, v = window_moments(indices, values), of weights b^age
    m, v <- m (1 - b1) / (1 - b1^n), v (1 - b2) / (1 - b2^n)
    p <- p - lr (m / (sqrt(v) + eps) + weight_decay p), rounded once;  t <- t + 1, and from the
        largest int32 back by a window

with n = t + 1, or at most the window if `window_correction`, and m / (sqrt(v) + eps) = 0 where the
window has no entry. Row `rows[i]` of hyper, float64 on the CPU, holds lr, b1, b2, eps and
weight_decay of leaf i, `signs[i]` is 1 or -1; its blocks have `block_sizes[i]` elements, of which
``kept[i]`` are kept, fewer in a shorter last one. Entries of the window that point out of their
block are left out.

`finite`, on the device of the parameters, says which gradients are finite. Where one is not,
nonfinite="skip" leaves that leaf alone, "raise" leaves all leaves alone, "ignore" does not look and
answers True. On the CPU gradients are read once for this: the kernel copies what it overwrites
before it has seen all of them, 0.6 bytes a parameter, into memory of at most 64 MiB that the
process keeps, and looks ahead only at gradients for which that has no room.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.core.state import advance
from gradtx.ops.affine import dequantize_affine, quantize_affine
from gradtx.ops.block_top_k import block_starts, block_top_k
from gradtx.ops.registry import operator
from gradtx.ops.tables import Entry
from gradtx.ops.window_moments import sums, within

__all__ = ["HYPER", "LEAF", "microadam_", "microadam_table"]

HYPER = ("lr", "b1", "b2", "eps", "weight_decay")
LEAF = (
    *("params", "grads", "codes", "lo", "hi", "steps", "indices", "values"),
    *("numel", "block_sizes", "kept", "window", "columns", "rows", "signs"),
    *("bf16_params", "bf16_grads"),
)
microadam_table = Entry("gx_microadam")
"""The same for a table with the fields ``LEAF``, then hyper, quant_block_size, include_zero,
window_correction, whether gradients are checked, whether one that is not finite keeps all leaves
as they are, and finite, which is overwritten; on the CPU."""
_BITS = 4
_DTYPES = (torch.float32, torch.bfloat16)
_NONFINITE = ("ignore", "skip", "raise")


_LISTS = (
    *("grads", "codes", "lo", "hi", "steps", "indices", "values"),
    *("rows", "signs", "block_sizes", "kept"),
)


def _lists(*lists: list[Any]) -> dict[str, list[Any]]:
    return dict(zip(_LISTS, lists, strict=True))


def _check(
    params: list[Tensor], lists: dict[str, list[Any]], hyper: Tensor, quant: int, nonfinite: str
) -> None:
    for name, entries in lists.items():
        if len(entries) != len(params):
            raise ValueError(
                f"microadam_: {name} must have {len(params)} entries, got {len(entries)}"
            )
    if quant < 2 or quant % 2:
        raise ValueError(f"microadam_: quant_block_size must be even and >= 2, got {quant}")
    if nonfinite not in _NONFINITE:
        raise ValueError(f"microadam_: nonfinite must be one of {_NONFINITE}, got {nonfinite!r}")
    if (
        hyper.dtype != torch.float64
        or hyper.ndim != 2
        or hyper.shape[1] != len(HYPER)
        or not hyper.is_contiguous()
        or hyper.device.type != "cpu"
    ):
        raise ValueError(
            f"microadam_: hyper must be float64 of shape (rows, {len(HYPER)}) on the CPU, got "
            f"{hyper.dtype} of shape {tuple(hyper.shape)} on {hyper.device}"
        )
    for i, p in enumerate(params):
        _check_leaf(i, p, {name: entries[i] for name, entries in lists.items()}, hyper, quant)


def _check_leaf(i: int, p: Tensor, leaf: dict[str, Any], hyper: Tensor, quant: int) -> None:
    n, size, k, at = p.numel(), leaf["block_sizes"], leaf["kept"], leaf["indices"]

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"microadam_: leaf {i}: {message}")

    for x in (p, leaf["grads"]):
        require(x.dtype in _DTYPES, f"parameter and gradient must be one of {_DTYPES}")
    require(
        1 <= k <= size <= torch.iinfo(torch.int16).max,
        f"blocks of {size} elements cannot keep {k}",
    )
    require(n <= size or size % quant == 0, f"quant_block_size must divide the block size {size}")
    ranges = (n + quant - 1) // quant
    for name, dtype, numel in (
        ("grads", leaf["grads"].dtype, n),
        ("codes", torch.uint8, (n + 1) // 2),
        ("lo", torch.bfloat16, ranges),
        ("hi", torch.bfloat16, ranges),
        ("steps", torch.int32, 1),
        ("indices", torch.int16, at.numel()),
        ("values", torch.bfloat16, at.numel()),
    ):
        x = leaf[name]
        require(
            x.dtype == dtype and x.numel() == numel and x.is_contiguous() and x.device == p.device,
            f"{name} must be contiguous, {numel} elements of {dtype} on {p.device}, got "
            f"{tuple(x.shape)} of {x.dtype} on {x.device}",
        )
    require(p.is_contiguous(), "the parameter must be contiguous")
    rest, tail = (at.shape[1] if at.ndim == 2 else -1) - n // size * k, n % size
    require(
        at.ndim == 2 and at.shape[0] >= 1 and min(tail, 1) <= rest <= min(tail, k),
        f"indices do not have the shape of a window of {k} entries a block",
    )
    require(0 <= leaf["rows"] < hyper.shape[0], f"has no row {leaf['rows']} of hyper")
    require(leaf["signs"] in (1, -1), "sign must be 1 or -1")


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
    rows: list[int],
    signs: list[int],
    block_sizes: list[int],
    kept: list[int],
    quant_block_size: int,
    include_zero: bool,
    window_correction: bool,
    nonfinite: str,
) -> Tensor:
    lists = _lists(grads, codes, lo, hi, steps, indices, values, rows, signs, block_sizes, kept)
    _check(params, lists, hyper, quant_block_size, nonfinite)
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
    lists = _lists(grads, codes, lo, hi, steps, indices, values, rows, signs, block_sizes, kept)
    _check(params, lists, hyper, quant_block_size, nonfinite)
    counts = [int(step) for step in steps]
    if min(counts, default=0) < 0:
        raise ValueError(f"microadam_: leaf {counts.index(min(counts))}: step is negative")
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
        done, window = counts[i], indices[i].shape[0]
        entries = values[i].view_as(indices[i])
        error = dequantize_affine(
            *(x[i].reshape(-1) for x in (codes, lo, hi)), _BITS, quant_block_size, n, torch.float32
        )
        total = signs[i] * grads[i].reshape(-1).float() + error

        tail = indices[i].shape[1] - n // size * k
        chosen = block_top_k(total, size, k, tail, torch.int16)
        where = chosen.long() + block_starts(chosen.numel(), k, size, p.device)
        indices[i][done % window] = chosen
        entries[done % window] = total[where].to(entries.dtype)
        total[where] = 0.0
        encoded = quantize_affine(
            *(total, _BITS, quant_block_size, False, None, include_zero, lo[i].dtype)
        )
        for kept_before, new in zip((codes[i], lo[i], hi[i]), encoded, strict=True):
            kept_before.copy_(new.view_as(kept_before))

        count = min(done + 1, window) if window_correction else done + 1
        row = torch.arange(window, dtype=torch.float64, device="cpu")
        ages, written = (done - row) % window, row <= done
        w1, w2 = (torch.where(written, b**ages, 0.0).float().to(p.device) for b in (b1, b2))
        gains = [(1 - b) / (1 - b**count) for b in (b1, b2)]
        g1, g2 = torch.tensor(gains, dtype=torch.float32, device="cpu").tolist()
        there = within(indices[i], n, size, k) & written.to(p.device)[:, None]
        first, second = sums(indices[i], entries, w1, w2, n, size, k, there)
        entry = (first != 0) | (second != 0)
        update = torch.where(entry, g1 * first / ((g2 * second).sqrt() + eps), 0.0)
        old, update = p.float(), update.reshape(p.shape)
        decayed = update + weight_decay * old if weight_decay else update
        p.copy_(old + decayed * -lr)
        steps[i].copy_(advance(steps[i], window))
    return flags
