"""Derivatives of what an iteration arrives at, from the equation that holds there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.forward import forward_rule
from ..core.tree import PyTree
from .leaves import NoCaptures, floats_like, jvp, split, vjp
from .scan import stop_gradient
from .solvers import Solve, solution_of

Solver = Callable[..., PyTree]


def implicit_root(
    optimality: Callable[..., PyTree], solve: Solve | None = None
) -> Callable[[Solver], Solver]:
    """Differentiate a solver through ``optimality(params, *args) = 0`` instead of its iterations.

    With A the derivative of the optimality by the parameters and B that by the arguments, the
    derivative of the parameters by the arguments is ``-A^-1 B``. Works in reverse and forward mode,
    any order, and under ``vmap``; ``init`` has no derivative.

    Args:
        optimality: ``(params, *args) -> tree like params``, zero at the solution. What is
            differentiated or mapped over must come through ``args``.
        solve: ``solve(matvec, b)``, a linear solver such as those here; default ``normal_cg``.

    Returns:
        A decorator of ``solver(init, *args) -> params``.

    Raises:
        TreeMismatchError: the optimality is not a tree like the parameters.

    Source: arXiv 2105.15183.

    >>> import torch, gradtx as gx
    >>> @gx.meta.implicit_root(lambda x, a: x * x - a)
    ... def square_root(init, a):
    ...     for _ in range(20):
    ...         init = (init + a / init) / 2
    ...     return init
    >>> torch.func.grad(lambda a: square_root(torch.tensor([1.0]), a).sum())(torch.tensor([4.0]))
    tensor([0.2500])
    """
    linear = solution_of(solve)

    def decorate(solver: Solver) -> Solver:
        @functools.wraps(solver)
        def solved(init: PyTree, *args: PyTree) -> PyTree:
            return _solved(optimality, linear, solver, init, args)

        return solved

    return decorate


def implicit_fixed_point(
    fixed_point: Callable[..., PyTree], solve: Solve | None = None
) -> Callable[[Solver], Solver]:
    """Differentiate a solver through ``params = fixed_point(params, *args)``.

    Arguments and rules are those of ``implicit_root``.

    >>> import torch, gradtx as gx
    >>> @gx.meta.implicit_fixed_point(lambda x, a: torch.cos(a * x))
    ... def iterate(x, a):
    ...     for _ in range(60):
    ...         x = torch.cos(a * x)
    ...     return x
    >>> torch.func.grad(lambda a: iterate(torch.tensor([0.5]), a).sum())(torch.tensor([1.0]))
    tensor([-0.2975])
    """

    def residual(params: PyTree, *args: PyTree) -> PyTree:
        return tree.map(torch.sub, fixed_point(params, *args), params)

    return implicit_root(residual, solve)


def _solved(
    optimality: Callable[..., PyTree], linear: Solve, solver: Solver, init: PyTree, args: Any
) -> PyTree:
    start, given = split(stop_gradient(init)), split(args)
    rebuilds: list[Any] = []

    def run(leaves: Any, floats: Any, others: Any) -> list[Tensor]:
        with NoCaptures("implicit_root", "args"):
            out = split(solver(start.rebuild(leaves, start.others), *given.rebuild(floats, others)))
        rebuilds[:] = [lambda new: out.rebuild(new, out.others)]
        return out.floats

    def residual(params: Any, floats: Any, others: Any) -> tuple[Tensor, ...]:
        with NoCaptures("implicit_root", "args"):
            at = start.rebuild(params, start.others)
            zero = optimality(at, *given.rebuild(floats, others))
            return tuple(floats_like("implicit_root", "optimality", at, zero))

    problem = _Problem(run, residual, linear, len(start.floats), len(given.floats))
    outs = _Root.apply(problem, *start.floats, *given.floats, *given.others)
    return rebuilds[0](outs)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What a root is of; no tuple, in which torch would look for tensors."""

    run: Callable[..., Any]
    residual: Callable[..., Any]
    linear: Solve
    params: int
    floats: int

    def three(self, tensors: Any) -> tuple[Any, Any, Any]:
        """Parameters, floating-point arguments and other tensors apart."""
        end = self.params + self.floats
        return tensors[: self.params], tensors[self.params : end], tensors[end:]


class _Root(torch.autograd.Function):
    """The solution, with derivatives from the equation."""

    generate_vmap_rule = True

    @staticmethod
    def forward(problem: _Problem, *tensors: Tensor) -> Any:
        return tuple(problem.run(*problem.three(tensors)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.problem, *tensors = inputs
        _, floats, others = ctx.problem.three(tensors)
        ctx.save_for_backward(*output, *floats, *others)
        ctx.save_for_forward(*output, *floats, *others)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        params, floats, others = ctx.problem.three(ctx.saved_tensors)

        def transposed(u: Any, params: Any, floats: Any, others: Any) -> Any:
            pull = vjp(lambda *p: ctx.problem.residual(p, floats, others), *params)[1]
            return pull(tuple(u))

        u = _linear(transposed, ctx.problem.linear, grads, (params, floats, others))
        pull = vjp(lambda *a: ctx.problem.residual(params, a, others), *floats)[1]
        slopes = pull(tuple(-x for x in u)) if floats else ()
        return (None,) * (1 + len(params)) + tuple(slopes) + (None,) * len(others)

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, *tangents: Any) -> Any:
        params, floats, others = ctx.problem.three(ctx.saved_tensors)
        along = tangents[1 + len(params) : 1 + len(params) + len(floats)]
        along = tuple(
            torch.zeros_like(x) if t is None else t for x, t in zip(floats, along, strict=True)
        )

        def forward(u: Any, params: Any, floats: Any, others: Any) -> Any:
            return jvp(lambda *p: ctx.problem.residual(p, floats, others), tuple(params), tuple(u))[
                1
            ]

        moved = jvp(lambda *a: ctx.problem.residual(params, a, others), tuple(floats), along)[1]
        return tuple(
            _linear(forward, ctx.problem.linear, [-m for m in moved], (params, floats, others))
        )


def _linear(times: Any, linear: Solve, right: Any, at: Any) -> Any:
    """Solve ``times(u, *at) = right``, itself a root: what is differentiated again is the equation.

    Args:
        times: linear in its first argument.
        linear: the solver.
        right: tensors.
        at: what else ``times`` depends on.
    """

    def residual(u: Any, right: Any, at: Any) -> Any:
        return [a - b for a, b in zip(times(u, *at), right, strict=True)]

    def solver(_: Any, right: Any, at: Any) -> Any:
        return linear(lambda u: list(times(u, *at)), list(right))

    right = list(right)
    at = tuple(list(x) for x in at)
    return _solved(residual, linear, solver, [torch.zeros_like(x) for x in right], (right, at))
