"""Updates with all singular values near one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.declared import Call, DeclaredTransform
from ..core.execution import Execution, Stacked
from ..core.fields import check_floating
from ..core.hyper import static
from ..core.leaves import LowRankUpdate
from ..core.tree import PyTree
from .newton_schulz import FORMS, SCALINGS, SETS, newton_schulz, polar_factor, triples_of
from .shape import RULES


@dataclass(frozen=True)
class orthogonalize(DeclaredTransform):
    """Replace matrices by their orthogonal factors: ``U S V^T`` becomes about ``U V^T``.

    Newton-Schulz iterations X <- a X + (b A + c A^2) X with A = X X^T, from X / |X|. Matrices of
    equal shape are treated as one batch. Leading dimensions (..., rows, columns) are a batch too;
    ``gx.as_matrices`` takes a convolution kernel as one matrix. Of a low-rank update the factor is
    orthogonalised. Zeros stay zeros.

    Args:
        coefficients: "quintic5" (Muon), "polar_express5" (arXiv 2505.16932), "five_polynomials",
            "aol4", one triple (a, b, c), several; or "svd" for the exact factor.
        steps: iterations in 1..99; None for as many as there are triples, 5 for a single one. More
            repeat the last triple, fewer leave out the last ones.
        scaling: what X is divided by: "add" is |X| + eps, "clamp" max(|X|, eps), "schatten4"
            max(|X X^T|^(1/2), eps), "rows" bounds every row; None for the one that the coefficients
            are made for.
        safety: factor on |X|, >= 1; None for the coefficients' own (1.02 for "polar_express5").
        eps: see ``scaling``, > 0.
        dtype: of the iteration; None for at least float32, on a GPU bfloat16 for bfloat16
            parameters.
        form: "plain" iterates on X. "gram" iterates on A, which takes a third less work for
            long matrices, and goes back to X before rounding errors have grown: same values up
            to a few times the rounding of X. None for "gram" where the smaller dimension is at
            least 256, on a CPU 128, and the larger one 1.5 times that.
        scale: factor from the shape, a rule of ``gx.scale_by_shape``, which would take a pass of
            its own.

    Raises:
        ValueError: a value that is not among these, or a leaf with fewer than two dimensions.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".

    >>> import torch, gradtx as gx
    >>> tx = gx.orthogonalize("svd")
    >>> tx.update({"w": torch.tensor([[3.0, 0.0], [0.0, -0.1]])}, ())[0]["w"].tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """

    execution: ClassVar[Execution] = Execution(
        leaves_independent=True,
        cannot_raise=lambda tx: tx.coefficients != "svd",
        stacked=Stacked(lambda tx, shape: shape[0] if len(shape) > 2 else None),
    )
    accepts: ClassVar[tuple[type, ...]] = (Tensor, LowRankUpdate)

    coefficients: str | Sequence[Any] = static("quintic5")
    steps: int | None = static(None, within="[1, 99]")
    scaling: str | None = static(None, choices=(*SCALINGS, None))
    safety: float | None = static(None, within="[1, inf)")
    eps: float = static(1e-7, within="(0, inf)")
    dtype: torch.dtype | None = static(None, check=check_floating)
    form: str | None = static(None, choices=(*FORMS, None))
    scale: str = static("none", choices=tuple(RULES))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coefficients != "svd":
            rows = triples_of(self.name, self.coefficients)
            if not isinstance(self.coefficients, str):
                object.__setattr__(self, "coefficients", rows)

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        for name, p in zip(names, leaves, strict=True):
            self._check_matrix(name, p)
        return ()

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        groups: dict[Any, list[int]] = {}
        for i, (name, u) in enumerate(zip(call.names, call.updates, strict=True)):
            self._check_matrix(name, u)
            x = _matrices(u)
            if x is None or not x.numel():
                continue
            dtype = self._dtype(x, call.params[i])
            factor = RULES[self.scale](*u.shape[-2:])
            groups.setdefault((x.shape[1:], x.dtype, dtype, x.device, factor), []).append(i)
        out = list(call.updates)
        for (_, _, dtype, _, factor), members in groups.items():
            batch = [_matrices(call.updates[i]) for i in members]
            done = self._factors(batch, dtype, factor)
            for i, part in zip(members, done.split([len(x) for x in batch]), strict=True):
                out[i] = _replaced(call.updates[i], part)
        return call.spec.unflatten(out), state

    def _factors(self, xs: list[Tensor], dtype: torch.dtype, scale: float) -> Tensor:
        if self.coefficients == "svd":
            x = polar_factor((torch.cat(xs) if len(xs) > 1 else xs[0]).to(dtype))
            return x if scale == 1.0 else x.to(xs[0].dtype) * scale
        known = SETS.get(self.coefficients) if isinstance(self.coefficients, str) else None
        triples = triples_of(self.name, self.coefficients)
        steps = self.steps or (5 if len(triples) == 1 else len(triples))
        triples = (*triples, *[triples[-1]] * (steps - len(triples)))[:steps]
        scaling = self.scaling or (known.scaling if known else "add")
        safety = self.safety or (known.safety if known else 1.0)
        return newton_schulz(xs, triples, scaling, safety, self.eps, dtype, self.form, scale)

    def _dtype(self, x: Tensor, p: Tensor | None) -> torch.dtype:
        if self.dtype is not None:
            return self.dtype
        half = p is not None and p.dtype == torch.bfloat16 and x.is_cuda
        return torch.bfloat16 if half and self.coefficients != "svd" else x.dtype

    def _check_matrix(self, name: str, leaf: Any) -> None:
        if leaf is not None and len(leaf.shape) < 2:
            raise ValueError(
                f"orthogonalize: leaf {name!r} of shape {tuple(leaf.shape)} is no matrix; treat "
                "vectors in another way with gx.partition, or gx.matrix_groups for a module"
            )


def _matrices(u: Any) -> Any:
    """An update or its factor as (batch, rows, columns)."""
    x = u.factor if isinstance(u, LowRankUpdate) else u
    return None if x is None else x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _replaced(old: Any, new: Tensor) -> Any:
    """The matrices in the place, shape and dtype of an update or of its factor."""
    if isinstance(old, LowRankUpdate):
        factor = new.reshape(old.factor.shape).to(old.dtype)
        return LowRankUpdate(factor, old.basis, old.shape, old.side)
    return new.reshape(old.shape).to(old.dtype)
