"""Gauss-Newton steps: residuals or outputs as if they were linear in the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.hyper import static
from ..core.protocol import GradientTransformation
from ..core.state import new_scalar
from ..core.tree import PyTree
from .curvature import Loss, ggn_vp
from .leaves import split
from .solvers import cg


def half_squares(residuals: PyTree) -> Tensor:
    """Half the sum of squares of a tree's entries.

    >>> import torch, gradtx as gx
    >>> gx.meta.half_squares({"r": torch.tensor([3.0, 4.0])})
    tensor(12.5000)
    """
    return tree.total([tree.squared_norm(r) for r in split(residuals).floats]) / 2


def _given(who: str, params: PyTree, extra: Any) -> Any:
    if params is None:
        raise ValueError(f"{who}: needs the parameters; call update(updates, state, params)")
    model_fn = extra.get("model_fn")
    if not callable(model_fn):
        raise ValueError(
            f"{who}: needs model_fn; pass model_fn=f to update, f: params -> residuals or outputs"
        )
    return model_fn


@dataclass(frozen=True)
class natural_gradient(GradientTransformation):
    """Natural gradient descent: the gradient over the Gauss-Newton matrix of a loss by outputs.

    p <- p - lr (J^T H J + damping I)^-1 g, J the derivative of ``model_fn``'s outputs, H the
    Hessian of ``loss`` by the outputs. Where the loss is the negative log-likelihood of an
    exponential family in its natural parameters, as squares, cross-entropy or Poisson losses,
    J^T H J is the Fisher matrix. ``update`` is given ``model_fn=f``, f: params -> outputs, and the
    gradients of the loss. The equation is solved by conjugate gradients.

    Args:
        loss: outputs -> 0-d tensor, convex.
        lr: step size, >= 0.
        damping: multiple of the identity, >= 0.
        tol: relative residual at which conjugate gradients stop, >= 0.
        maxiter: their most iterations; default ten times the number of entries, at most 100.

    Raises:
        ValueError: a value outside its range, or no ``model_fn`` or parameters at ``update``.

    Source: arXiv 1412.1193.

    >>> import torch, gradtx as gx
    >>> tx, w = gx.meta.natural_gradient(gx.meta.half_squares), torch.tensor([2.0])
    >>> tx.update(18 * w, (), w, model_fn=lambda w: w * torch.tensor([3.0, 3.0]))[0]
    tensor([-2.])
    """

    loss: Loss
    lr: float = static(1.0, within="[0, inf)")
    damping: float = static(0.0, within="[0, inf)")
    tol: float = static(1e-10, within="[0, inf)")
    maxiter: int | None = static(None, at_least=1)

    def init(self, params: PyTree) -> PyTree:
        return ()

    def update(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        model_fn = _given(self.name, params, extra)
        solved = cg(
            lambda v: ggn_vp(model_fn, self.loss, params, v),
            updates,
            ridge=self.damping,
            tol=self.tol,
            maxiter=self.maxiter,
        )
        return tree.map(lambda x: -self.lr * x, solved), state


def gauss_newton(
    lr: float = 1.0, damping: float = 0.0, tol: float = 1e-10, maxiter: int | None = None
) -> natural_gradient:
    """Gauss-Newton for half the sum of squares of residuals, which ``model_fn`` gives.

    p <- p - lr (J^T J + damping I)^-1 g, J the derivative of the residuals, g = J^T r.

    Args: those of ``natural_gradient``.

    Raises:
        ValueError: a value outside its range, or no ``model_fn`` or parameters at ``update``.

    >>> import torch, gradtx as gx
    >>> tx, w = gx.meta.gauss_newton(), torch.tensor([2.0])
    >>> tx.update(9 * w, (), w, model_fn=lambda w: 3 * w)[0]
    tensor([-2.])
    """
    return natural_gradient(half_squares, lr, damping, tol, maxiter)


class LevenbergMarquardtState(NamedTuple):
    """Attributes: ``damping``, 0-d, of the next step; ``growth``, 0-d, its factor if refused."""

    damping: Tensor
    growth: Tensor


@dataclass(frozen=True)
class levenberg_marquardt(GradientTransformation):
    """Gauss-Newton with a damping that follows how well the residuals are linear.

    d = -(J^T J + damping I)^-1 g for f = ||r||^2 / 2 and g = J^T r. Where f falls, by the share q
    of what the linear residuals promise, damping <- damping max(decrease, 1 - (2 q - 1)^3); where
    it does not, no step is made and damping grows by ``increase``, by twice as much after every
    further such step. ``update`` is given ``model_fn=r``, r: params -> residuals, and the
    gradients g.

    Args:
        damping: the first damping, > 0.
        increase: factor after a step that is refused, > 1.
        decrease: the least factor after a good step, in (0, 1).
        tol: relative residual at which conjugate gradients stop, >= 0.
        maxiter: their most iterations; default ten times the number of entries, at most 100.

    Raises:
        ValueError: a value outside its range, or no ``model_fn`` or parameters at ``update``.

    Source: Marquardt, SIAM J. Appl. Math. 11 (1963); the factors: Nielsen, report IMM-REP-1999-05.

    >>> import torch, gradtx as gx
    >>> tx, w = gx.meta.levenberg_marquardt(damping=1.0), torch.tensor([2.0])
    >>> tx.update(w, tx.init(w), w, model_fn=lambda w: w)
    (tensor([-1.]), LevenbergMarquardtState(damping=tensor(0.3333), growth=tensor(2.)))
    """

    damping: float = static(1e-3, within="(0, inf)")
    increase: float = static(2.0, within="(1, inf)")
    decrease: float = static(1 / 3, within="(0, 1)")
    tol: float = static(1e-10, within="[0, inf)")
    maxiter: int | None = static(None, at_least=1)

    def init(self, params: PyTree) -> LevenbergMarquardtState:
        there = tree.leaves(params)
        return LevenbergMarquardtState(
            new_scalar(there, self.damping), new_scalar(there, self.increase)
        )

    def update(
        self,
        updates: PyTree,
        state: LevenbergMarquardtState,
        params: PyTree = None,
        **extra: Any,
    ) -> tuple[PyTree, LevenbergMarquardtState]:
        model_fn = _given(self.name, params, extra)

        def product(v: PyTree) -> PyTree:
            return ggn_vp(model_fn, half_squares, params, v)

        def damped(v: PyTree) -> PyTree:
            return tree.map(lambda a, x: a + state.damping.to(x) * x, product(v), v)

        solved = cg(damped, updates, tol=self.tol, maxiter=self.maxiter)
        promised = tree.vdot(updates, solved) - tree.vdot(solved, product(solved)) / 2
        before = half_squares(model_fn(params))
        moved = tree.map(lambda p, d: p if d is None else p - d.to(p), params, solved)
        gained = before - half_squares(model_fn(moved))
        better = gained > 0
        share = gained / torch.where(better, promised, torch.ones_like(promised))
        good = torch.clamp(1 - (2 * share - 1) ** 3, min=self.decrease).to(state.damping)
        numbers = torch.finfo(state.damping.dtype)
        told = better | ~(promised <= torch.finfo(before.dtype).eps * before)
        damping = state.damping * torch.where(better, good, state.growth)
        damping = torch.clamp(damping, min=numbers.tiny, max=numbers.max)
        growth = torch.where(better, self.increase, 2 * state.growth).to(state.growth)
        damping = torch.where(told, damping, state.damping)
        growth = torch.where(told, torch.clamp(growth, max=numbers.max), state.growth)
        out = tree.map(lambda d: torch.where(better, -d, torch.zeros_like(d)), solved)
        return out, LevenbergMarquardtState(damping, growth)
