"""Base of the torch optimizer classes that estimate their own learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .recipe_optimizer import RecipeOptimizer


class ProdigyOptimizer(RecipeOptimizer):
    """Base of the classes with one estimate d for all parameters.

    ``d`` and ``dlr`` are what to log. Groups may differ in weight decay, and in that some have a
    learning rate of zero: their parameters stand still.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> opt = gx.optim.ProdigyAdv([w], lr=0.5, d0=0.01)
    >>> w.grad = torch.ones(2)
    >>> opt.step()
    >>> opt.d.item(), opt.dlr.item()
    (0.01, 0.005)
    """

    @property
    def d(self) -> Tensor | None:
        """The estimate, a 0-d float64 tensor on the parameters' device; None before a step."""
        return self._shared("d")

    @property
    def dlr(self) -> Tensor | None:
        """The last step's learning rate, d times lr; None before a step."""
        return self._shared("dlr")

    def _shared(self, name: str) -> Tensor | None:
        states = (self.state.get(p) for group in self.param_groups for p in group["params"])
        held = next((state for state in states if state), None)
        return None if held is None else held["scale_by_prodigy"]["shared"][name]

    def _check_added(self, group: Mapping[str, Any]) -> None:
        super()._check_added(group)
        self._check_chains()

    def _check_chains(self) -> None:
        chain, *others = map(self.transform_of, self.param_groups)
        if any(other != chain for other in others):
            raise ValueError(
                f"{type(self).__name__}: groups must agree in the options that choose the chain "
                f"({', '.join(self.structural())}): there is one estimate for all"
            )

    def _check_step(self) -> None:
        super()._check_step()
        who, groups = type(self).__name__, self.param_groups
        if len(groups) == 1:
            return
        self._check_chains()
        rates = {g["lr"] for g in groups if not isinstance(g["lr"], Tensor)} - {0}
        if len(rates) > 1:
            raise ValueError(
                f"{who}: groups must have the same lr, or 0, got {min(rates)} and {max(rates)}"
            )
