"""Iterative OBS: Newton steps on the best support of k entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.reduce import Reduce
from ..core.transform import TreeTransform
from ..ops import top_mask
from .fisher import inverse_fisher
from .keep import update_to_zero


@dataclass(frozen=True)
class iobs(TreeTransform):
    """A step to the minimum of a quadratic model, with at most k entries that are not zero.

    w = p - lr H^-1 g. mode "topk": the k largest |w| stay. mode "obs": Q, all but k entries, are
    those with the smallest w_i^2 / H^-1_ii or |w_i|, and w <- w - H^-1[:, Q] (H^-1[Q, Q])^-1 w_Q is
    the model's minimum on the others. All leaves are one vector. Pass ``matrix=``, the
    Hessian (d, d), or ``fisher=``, gradients (m, d), to ``update``.

    Args:
        k: entries that are not zero, >= 1.
        mode: "topk" or "obs".
        score: of mode "obs", "obs" or "magnitude".
        damping: of the Fisher matrix damping I + (1/m) sum g g^T, > 0.
        lr: multiple of the Newton step, > 0.
        project: a solver of one's own in place of both modes: ``project(w, inverse)`` gives the
            new parameters, (d,) in float64, for w and H^-1, which is (d, d) or an
            ``InverseFisher``. ``k`` counts for nothing then.

    Raises:
        ValueError: a value outside its range; from ``update``, k > d, no parameters, no matrix, one
            of another shape, or one that is not symmetric and positive definite.

    Source: arXiv 2408.17163.

    >>> import torch, gradtx as gx
    >>> tx, p = gx.sparsity.iobs(1), {"w": torch.tensor([3.0, 1.0])}
    >>> tx.update({"w": torch.ones(2)}, tx.init(p), p, matrix=2 * torch.eye(2))[0]
    {'w': tensor([-0.5000, -1.0000])}
    """

    execution: ClassVar[Execution] = Execution(reduces=False)
    requires_params: ClassVar[bool] = True

    k: int = static(1, at_least=1)
    mode: Literal["topk", "obs"] = static("topk")
    score: Literal["obs", "magnitude"] = static("obs")
    damping: float = static(1e-5, within="(0, inf)")
    lr: Hyper = dynamic(1.0, within="(0, inf)")
    project: Callable[[Tensor, Any], Tensor] | None = static(None)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        matrix, fisher = extra.pop("matrix", None), extra.pop("fisher", None)
        if (matrix is None) == (fisher is None):
            raise ValueError("iobs: pass matrix= (d, d) or fisher= (m, d) to update")
        return super().update(updates, state, params, **extra, quadratic=(matrix, fisher))

    def _update(self, call: Any, state: Any, values: dict[str, Any]) -> Any:
        return super()._update(call, state, {**values, "quadratic": call.extra["quadratic"]})

    def update_tree(
        self, us: list[Any], leaves: Any, shared: Any, ps: list[Any], h: Values, reduce: Reduce
    ) -> tuple[list[Any], Any, Any]:
        p = torch.cat([x.reshape(-1).double() for x in ps])
        g = torch.cat([x.reshape(-1).double() for x in us])
        if self.project is None and self.k > len(p):
            raise ValueError(f"iobs: k is {self.k}, but there are {len(p)} parameters")
        matrix, fisher = h.quadratic
        new = self._given(p, g, matrix, h) if fisher is None else self._fisher(p, g, fisher, h)
        parts = (new - p).split([x.numel() for x in us])
        out = [d.reshape(u.shape).to(u.dtype) for d, u in zip(parts, us, strict=True)]
        kept = (new != 0).split([x.numel() for x in us])
        exact = zip(out, ps, kept, strict=True)
        return [update_to_zero(u, x, k.reshape(u.shape)) for u, x, k in exact], leaves, shared

    def _given(self, p: Tensor, g: Tensor, matrix: Tensor, h: Values) -> Tensor:
        d = len(p)
        if tuple(matrix.shape) != (d, d):
            raise ValueError(f"iobs: matrix must be {(d, d)}, got {tuple(matrix.shape)}")
        wide = matrix.double()
        factor, info = torch.linalg.cholesky_ex(wide)
        if not torch.allclose(wide, wide.mT, rtol=1e-5, atol=1e-7) or bool(info):
            raise ValueError("iobs: matrix must be symmetric and positive definite")
        w = p - h.lr * torch.cholesky_solve(g[:, None], factor)[:, 0]
        if self.project is not None:
            return self.project(w, torch.cholesky_inverse(factor)).to(w.dtype)
        if self.mode == "topk":
            return torch.where(top_mask(w.abs(), self.k), w, 0)
        inverse = torch.cholesky_inverse(factor)
        q = self._removed(w, inverse.diagonal())
        step = inverse[:, q] @ torch.linalg.solve(inverse[q][:, q], w[q])
        return (w - step).index_fill(0, q, 0.0)

    def _fisher(self, p: Tensor, g: Tensor, rows: Tensor, h: Values) -> Tensor:
        if rows.ndim != 2 or rows.shape[1] != len(p):
            raise ValueError(f"iobs: fisher must be (m, {len(p)}), got {tuple(rows.shape)}")
        inverse = inverse_fisher(rows, self.damping)
        w = p - h.lr * inverse.times(g)
        if self.project is not None:
            return self.project(w, inverse).to(w.dtype)
        if self.mode == "topk":
            return torch.where(top_mask(w.abs(), self.k), w, 0)
        q = self._removed(w, inverse.diagonal())
        drop = torch.zeros_like(w, dtype=torch.bool).index_fill(0, q, True)
        return torch.where(drop, 0, w + inverse.pinned(w, drop))

    def _removed(self, w: Tensor, diagonal: Tensor) -> Tensor:
        """All but k entries: those that cost least."""
        cost = w.square() / diagonal if self.score == "obs" else w.abs()
        return (~top_mask(cost, self.k)).nonzero().squeeze(1)
