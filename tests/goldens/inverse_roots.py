"""Inverse roots: how far float64 decompositions are from roots known to 40 digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import gradtx as gx


def inverse_roots(arrays: Mapping[str, Tensor]) -> list[tuple[str, Any, Any]]:
    """Relative errors, against 1e-14 times the condition number of what the root is taken of."""
    a, eps = arrays["A"], arrays.get("eps")
    ridge = torch.zeros(len(a), 1, 1, dtype=a.dtype) if eps is None else eps[:, None, None]
    values = torch.linalg.eigvalsh(a) + ridge[:, :, 0]
    values = arrays.get("eigenvalues", values)
    condition = values.amax(-1) / values.amin(-1)
    rows = []
    for p in (2, 4):
        exact = arrays[f"inv_root{p}"]
        got = gx.matrix_root(a, p, eps=ridge).root
        off = torch.linalg.matrix_norm(got - exact) / torch.linalg.matrix_norm(exact)
        bound = 1e-14 * condition
        rows.append((f"inv_root{p}", torch.maximum(off, bound), bound))
    return rows


CONFORMANCE = {"inverse_roots": inverse_roots}
