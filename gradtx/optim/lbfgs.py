"""L-BFGS as a torch optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import recipes
from ..core.protocol import GradientTransformation
from ..transforms import scale_by_backtracking_linesearch, scale_by_zoom_linesearch
from .evaluating import EvaluatingOptimizer, Evaluations
from .recipe_optimizer import RecipeOptimizer

_SEARCHES = {
    "strong_wolfe": scale_by_zoom_linesearch(initial_guess_strategy="one"),
    "backtracking": scale_by_backtracking_linesearch(increase_factor=torch.inf),
    None: None,
}
_NAMES = {key: search.name for key, search in _SEARCHES.items() if search is not None}


class LBFGS(
    EvaluatingOptimizer,
    RecipeOptimizer,
    recipe=recipes.lbfgs,
    options=(
        "lr max_iter max_eval tolerance_grad tolerance_change history_size line_search_fn "
        "scale_init_precond"
    ),
    rename={"history_size": "memory_size"},
    defaults={"lr": 1.0, "history_size": 100},
    always="lr",
):
    """L-BFGS, up to ``max_iter`` iterations a call of ``step``; the chain is ``gx.lbfgs``.

    Options as of ``torch.optim.LBFGS``, with a line search by default. All gradients are one
    vector. Pairs of differences whose product is not positive are left out.

    Args:
        max_iter: iterations per call of ``step``, >= 1.
        max_eval: calls of the closure per call of ``step`` after which no iteration begins; None
            for 1.25 ``max_iter``.
        tolerance_grad: ends where no entry of the gradient is larger, >= 0.
        tolerance_change: ends where the loss, or every entry of parameters, changes by no more,
            >= 0.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.tensor([-1.2, 1.0]))
    >>> opt = gx.optim.LBFGS([w], max_iter=50)
    >>> def closure():
    ...     opt.zero_grad()
    ...     loss = 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2
    ...     loss.backward()
    ...     return loss
    >>> first = opt.step(closure)
    >>> bool(closure() < 1e-9)
    True
    """

    modes: ClassVar[Mapping[str, Any]] = {
        "max_iter": 20,
        "max_eval": None,
        "tolerance_grad": 1e-7,
        "tolerance_change": 1e-9,
    }

    @classmethod
    def build(
        cls,
        *,
        line_search_fn: Literal["strong_wolfe", "backtracking"] | None = "strong_wolfe",
        **arguments: Any,
    ) -> GradientTransformation:
        """The chain for these arguments.

        Args:
            line_search_fn: how far to go: "strong_wolfe", "backtracking" (Armijo), or None for lr
                (for the first step min(1, 1 / ||g||) lr).
            **arguments: of the recipe.
        """
        if line_search_fn not in _SEARCHES:
            raise ValueError(
                f"LBFGS: line_search_fn must be one of {list(_SEARCHES)}, got {line_search_fn!r}"
            )
        return super().build(linesearch=_SEARCHES[line_search_fn], **arguments)

    def _check_options(self, group: Mapping[str, Any]) -> None:
        least = {"max_iter": 1, "history_size": 1, "tolerance_grad": 0, "tolerance_change": 0}
        for name, bound in least.items():
            value, kind = group[name], int if bound else (int, float)
            if not isinstance(value, kind) or not value >= bound:
                what = "an integer" if bound else "a number"
                raise ValueError(f"LBFGS: {name} must be {what} >= {bound}, got {value!r}")
        super()._check_options(group)

    def _steps(self, evaluations: Evaluations, extra: Mapping[str, Any]) -> Tensor:
        group, names = self.param_groups[0], self._names()
        most = group["max_eval"]
        most = group["max_iter"] * 5 // 4 if most is None else most
        first, _ = evaluations.here()
        value, change = first, group["tolerance_change"]
        for n in range(group["max_iter"]):
            if _largest(p.grad for p in names) <= group["tolerance_grad"]:
                break
            if n and evaluations.count >= most:
                break
            before, last = [p.detach().clone() for p in names], value
            with torch.no_grad():
                self._step(value, extra)
            value = self._evaluated(evaluations)
            if _largest(p.detach() - old for p, old in zip(names, before, strict=True)) <= change:
                break
            if (value - last).abs() < change:
                break
        return first

    def _evaluated(self, evaluations: Evaluations) -> Tensor:
        """The loss where an iteration has ended, once parameters have the gradients there."""
        if self.param_groups[0]["line_search_fn"] is None:
            return evaluations.here()[0]
        value = None
        for p in self._names():
            if p.grad is not None:
                found = self.state[p][_NAMES[self.param_groups[0]["line_search_fn"]]]
                p.grad = (evaluations.sign * found["grad"]).to(p.dtype)
                value = evaluations.sign * found["value"]
        assert value is not None
        return value


def _largest(tensors: Iterable[Tensor | None]) -> float:
    return max((float(x.abs().max()) for x in tensors if x is not None and x.numel()), default=0.0)
