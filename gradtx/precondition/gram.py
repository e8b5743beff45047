"""Products of symmetric matrices that commute, and Newton-Schulz iterations on Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Triple = tuple[float, float, float]

# Below twice this many rows whole products are faster than blocks of them.
_BLOCK = 256


def parts_of(triples: Sequence[Triple], dtype: torch.dtype) -> Sequence[Sequence[Triple]]:
    """Runs of iterations between which A = X X^T must be computed anew.

    Iterations on A instead of X take fewer products, but an error of A where the singular value
    vanishes grows by a^2 with every one and would overtake the values themselves. The polynomials
    have little room above the values that they expect, and bfloat16 comes near it sooner.

    >>> import torch
    >>> from gradtx.precondition.gram import parts_of
    >>> quintic = [(3.4445, -4.775, 2.0315)] * 5
    >>> [[len(part) for part in parts_of(quintic, d)] for d in (torch.float32, torch.bfloat16)]
    [[3, 2], [2, 2, 1]]
    """
    most = min(150.0, 0.25 / torch.finfo(dtype).eps)
    parts: list[list[Triple]] = []
    growth = 0.0
    for triple in triples:
        if not parts or growth > most:
            parts.append([])
            growth = 1.0
        parts[-1].append(triple)
        growth *= triple[0] ** 2
    return parts


def factor(gram: Tensor, z: Tensor, part: Sequence[Triple]) -> Tensor:
    """The matrix Q with Q X = X after these iterations: the product of all a + b A + c A^2.

    Args:
        gram: A of the first iteration, (batch, n, n).
        z: b A + c A^2 of the first iteration.
        part: the coefficients.
    """
    a = part[0][0]
    q = z + a * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    for after, b, c in part[1:]:
        # All of these are polynomials of the first A, so that A <- p A p = p p A.
        r = symmetric(gram, z, gram, a)
        gram = symmetric(r, z, r, a)
        a, z = after, symmetric(gram, gram, gram, b, c)
        q = symmetric(q, z, q, a)
    return q


def symmetric(
    x: Tensor, y: Tensor, c: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """``beta c + alpha x y`` of which one knows that it is symmetric.

    On the CPU blocks below the diagonal of large products are copies of those above.
    """
    n = x.shape[-2]
    blocks = n // _BLOCK if x.device.type == "cpu" else 1
    if blocks < 2:
        return product(x, y, c, beta, alpha)
    width = -(-n // blocks)
    rows: list[Tensor] = []
    for i in range(0, n, width):
        j = min(i + width, n)
        corner = None if c is None else c[..., i:j, i:]
        right = product(x[..., i:j, :], y[..., i:], corner, beta, alpha)
        left = [row[..., i:j].mT for row in rows]
        rows.append(torch.cat([*left, right], -1) if left else right)
    return torch.cat(rows, -2)


def product(
    x: Tensor, y: Tensor, c: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """``beta c + alpha x y``."""
    if x.shape[0] == 1 and x.dtype.itemsize < 4:  # in half precision a batch of one is slow
        if c is None:
            return torch.mm(x[0], y[0])[None]
        return torch.addmm(c[0], x[0], y[0], beta=beta, alpha=alpha)[None]
    if c is None:
        return torch.bmm(x, y)
    return torch.baddbmm(c, x, y, beta=beta, alpha=alpha)
