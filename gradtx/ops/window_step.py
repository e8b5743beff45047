"""The two halves of a step of sparse M-FAC for many leaves, in place.

    sparse_window_push_(grads, errors, indices, values, written, Tensor step, int[] signs,
                        int[] block_sizes, int[] kept, bool check)
        -> (Tensor dots, Tensor there, Tensor finite)
    sparse_window_step_(params, momenta, indices, values, Tensor weights, Tensor hyper, int[] rows,
                        int[] block_sizes, int[] kept) -> ()

Lists hold one tensor a leaf; no two share memory. A leaf has an error (float32, as its gradient)
and a window of rows, ``indices`` (int16) and ``values`` (float32 or bfloat16), (window, columns),
as ``gradtx::block_top_k`` orders them: blocks have ``block_sizes[i]`` elements, of which
``kept[i]`` are kept, fewer in a shorter last one.

The push of the gradient g (float32 or bfloat16) is

    a = sign g + error
    row t mod window of indices, values <- block_top_k(a), a there;  error <- a, but zero there

with t pushes done before, ``step`` (int32), which stays. ``written``, int32 (window,), says of
every row of a leaf what t was when it was written; ``there[i, r]`` is whether that was the last
push that had its turn in row r. Then ``dots[i, r]``, float64, is the inner product of row r of leaf
i with its new row as it is stored, and zero elsewhere. With ``check`` all gradients are looked at
first; ``finite`` says which are finite, and unless all are, nothing is written.

The step of the parameter p (float32 or bfloat16), with row ``rows[i]`` of hyper, float64 on the
CPU, holding lr, weight_decay and decay, is

    u = sum_r weights[i, r] values[r], rows in their order;  m <- u + decay m, and u = m
    p <- p - lr (u + weight_decay p), rounded once

in float32; without ``momenta`` there is no m. Rows whose weight is zero are left out. Indices that
point out of their block are an error on the CPU and left out on other devices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradtx.core.state import advance
from gradtx.ops.block_top_k import block_starts, block_top_k
from gradtx.ops.registry import operator
from gradtx.ops.tables import Entry
from gradtx.ops.window_products import sparse_window_combine, sparse_window_dots

__all__ = [
    "HYPER",
    "LEAF",
    "sparse_window_push_",
    "sparse_window_step_",
    "window_push_table",
    "window_step_table",
]

HYPER = ("lr", "weight_decay", "decay")
LEAF = (
    *("params", "grads", "errors", "momenta", "indices", "values", "written"),
    *("numel", "block_sizes", "kept", "window", "columns", "rows", "signs"),
    *("bf16_params", "bf16_grads", "bf16_values"),
)
window_push_table = Entry("gx_window_push")
"""The push for a table with the fields ``LEAF``, then step, check, dots, there and finite, of which
the last three are overwritten; on the CPU."""
window_step_table = Entry("gx_window_step")
"""The step for such a table, then weights and hyper; on the CPU."""
_SINGLE = (torch.float32, torch.bfloat16)


def _check_lists(name: str, count: int, lists: dict[str, list[Any]]) -> None:
    for what, entries in lists.items():
        if len(entries) != count:
            raise ValueError(f"{name}: {what} must have {count} entries, got {len(entries)}")


def _check_leaf(
    name: str, i: int, like: Tensor, window: int, leaf: dict[str, Tensor], size: int, k: int
) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"{name}: leaf {i}: {message}")

    n, at = like.numel(), leaf["indices"]
    require(like.dtype in _SINGLE, f"must be one of {_SINGLE}, got {like.dtype}")
    require(like.is_contiguous(), "must be contiguous")
    require(
        1 <= k <= size <= torch.iinfo(torch.int16).max,
        f"blocks of {size} elements cannot keep {k}",
    )
    rest, tail = (at.shape[1] if at.ndim == 2 else -1) - n // size * k, n % size
    require(
        at.ndim == 2 and at.shape[0] == window and min(tail, 1) <= rest <= min(tail, k),
        f"indices do not have the shape of {window} rows of {k} entries a block",
    )
    for what, x in leaf.items():
        dtypes, numel = {
            "indices": ((torch.int16,), at.numel()),
            "values": (_SINGLE, at.numel()),
            "written": ((torch.int32,), window),
        }.get(what, ((torch.float32,), n))
        require(
            x.dtype in dtypes
            and x.numel() == numel
            and x.is_contiguous()
            and x.device == like.device,
            f"{what} must be contiguous, {numel} elements of one of {dtypes} on {like.device}, got "
            f"{tuple(x.shape)} of {x.dtype} on {x.device}",
        )


def _push_fake(
    grads: list[Tensor],
    errors: list[Tensor],
    indices: list[Tensor],
    values: list[Tensor],
    written: list[Tensor],
    step: Tensor,
    signs: list[int],
    block_sizes: list[int],
    kept: list[int],
    check: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    name, count = "sparse_window_push_", len(grads)
    lists = {"errors": errors, "indices": indices, "values": values, "written": written}
    numbers = {"signs": signs, "block_sizes": block_sizes, "kept": kept}
    if not grads:
        raise ValueError(f"{name}: there must be a leaf")
    _check_lists(name, count, {**lists, **numbers})
    if step.dtype != torch.int32 or step.numel() != 1:
        raise ValueError(f"{name}: step must be one int32, got {step.dtype} {tuple(step.shape)}")
    if not set(signs) <= {1, -1}:
        raise ValueError(f"{name}: signs must be 1 or -1, got {signs}")
    window = written[0].numel()
    for i, g in enumerate(grads):
        leaf = {what: column[i] for what, column in lists.items()}
        _check_leaf(name, i, g, window, leaf, block_sizes[i], kept[i])
    shape = (count, window)
    return (
        step.new_empty(shape, dtype=torch.float64),
        step.new_empty(shape, dtype=torch.bool),
        step.new_empty(count, dtype=torch.bool),
    )


@operator(
    "sparse_window_push_(Tensor[] grads, Tensor(a!)[] errors, Tensor(b!)[] indices, "
    "Tensor(c!)[] values, Tensor(d!)[] written, Tensor step, int[] signs, int[] block_sizes, "
    "int[] kept, bool check) -> (Tensor dots, Tensor there, Tensor finite)",
    fake=_push_fake,
    mutates=True,
)
def sparse_window_push_(
    grads: list[Tensor],
    errors: list[Tensor],
    indices: list[Tensor],
    values: list[Tensor],
    written: list[Tensor],
    step: Tensor,
    signs: list[int],
    block_sizes: list[int],
    kept: list[int],
    check: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The push of all leaves; see the module's text."""
    _push_fake(grads, errors, indices, values, written, step, signs, block_sizes, kept, check)
    done, window = int(step), written[0].numel()
    if done < 0:
        raise ValueError("sparse_window_push_: step is negative")
    row, last = done % window, int(advance(step, window)) - 1
    slots = torch.arange(window, dtype=torch.int32, device=step.device)
    there = torch.stack(written) >= last - torch.remainder(last - slots, window)
    there[:, row] = True
    finite = [not check or bool(torch.isfinite(g).all()) for g in grads]
    flags = torch.tensor(finite, dtype=torch.bool, device=step.device)
    dots = torch.zeros_like(there, dtype=torch.float64)
    if not all(finite):
        return dots, there, flags
    for i, g in enumerate(grads):
        size, k, n = block_sizes[i], kept[i], g.numel()
        total = errors[i].view(-1).add_(g.reshape(-1).float(), alpha=signs[i])
        tail = indices[i].shape[1] - n // size * k
        chosen = block_top_k(total, size, k, tail, torch.int16)
        where = chosen.long() + block_starts(chosen.numel(), k, size, g.device)
        rows = values[i].view_as(indices[i])
        indices[i][row] = chosen
        rows[row] = total[where].to(rows.dtype)
        total[where] = 0.0
        new = torch.zeros_like(total)
        new[where] = rows[row].float()
        dots[i] = torch.where(there[i], sparse_window_dots(indices[i], rows, new, size, k), 0.0)
        written[i][row] = done
    return dots, there, flags


def _step_fake(
    params: list[Tensor],
    momenta: list[Tensor],
    indices: list[Tensor],
    values: list[Tensor],
    weights: Tensor,
    hyper: Tensor,
    rows: list[int],
    block_sizes: list[int],
    kept: list[int],
) -> None:
    name, count = "sparse_window_step_", len(params)
    lists = {"indices": indices, "values": values}
    if momenta:
        lists["momenta"] = momenta
    numbers = {"rows": rows, "block_sizes": block_sizes, "kept": kept}
    _check_lists(name, count, {**lists, **numbers})
    if weights.dtype != torch.float64 or weights.ndim != 2 or len(weights) != count:
        raise ValueError(
            f"{name}: weights must be float64, a row for each of {count} leaves, got "
            f"{weights.dtype} of shape {tuple(weights.shape)}"
        )
    if (
        hyper.dtype != torch.float64
        or hyper.shape[1:] != (len(HYPER),)
        or not hyper.is_contiguous()
        or hyper.device.type != "cpu"
    ):
        raise ValueError(
            f"{name}: hyper must be float64 of shape (rows, {len(HYPER)}) on the CPU, got "
            f"{hyper.dtype} of shape {tuple(hyper.shape)} on {hyper.device}"
        )
    for i, p in enumerate(params):
        leaf = {what: column[i] for what, column in lists.items()}
        _check_leaf(name, i, p, weights.shape[1], leaf, block_sizes[i], kept[i])
        if not 0 <= rows[i] < len(hyper):
            raise ValueError(f"{name}: leaf {i}: has no row {rows[i]} of hyper")


@operator(
    "sparse_window_step_(Tensor(a!)[] params, Tensor(b!)[] momenta, Tensor[] indices, "
    "Tensor[] values, Tensor weights, Tensor hyper, int[] rows, int[] block_sizes, int[] kept) "
    "-> ()",
    fake=_step_fake,
    mutates=True,
)
def sparse_window_step_(
    params: list[Tensor],
    momenta: list[Tensor],
    indices: list[Tensor],
    values: list[Tensor],
    weights: Tensor,
    hyper: Tensor,
    rows: list[int],
    block_sizes: list[int],
    kept: list[int],
) -> None:
    """The step of all leaves; see the module's text."""
    _step_fake(params, momenta, indices, values, weights, hyper, rows, block_sizes, kept)
    for i, p in enumerate(params):
        lr, weight_decay, decay = hyper[rows[i]].tolist()
        some = weights[i] != 0
        entries = values[i].view_as(indices[i])[some]
        geometry = (p.numel(), block_sizes[i], kept[i])
        u = sparse_window_combine(indices[i][some], entries, weights[i][some], *geometry)
        if momenta:
            m = momenta[i].view(-1)
            u = m.copy_(u + decay * m)
        old, u = p.float(), u.reshape(p.shape)
        decayed = u + weight_decay * old if weight_decay else u
        p.copy_(old + decayed * -lr)
