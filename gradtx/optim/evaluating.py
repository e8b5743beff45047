"""Base of the torch optimizers whose chain looks at the loss at other parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..distributed.records import is_distributed
from .leaves import Leaves
from .optimizer import Optimizer


class Evaluations:
    """The loss and its gradient at other parameters: what a chain gets of a closure.

    Parameters and their gradients are as before after every evaluation.

    Args:
        who: the optimizer, for errors.
        closure: what ``step`` got.
        params: parameters by name.
        sign: -1 where the loss is maximized.
    """

    def __init__(
        self, who: str, closure: Callable[[], Any], params: Mapping[str, Tensor], sign: float
    ) -> None:
        self._who, self._closure, self._params, self.sign = who, closure, params, sign
        self._at: dict[str, Tensor] = {}
        self._found: tuple[Tensor, dict[str, Any]] | None = None
        self.count = 0

    def here(self) -> tuple[Tensor, dict[str, Tensor | None]]:
        """The loss and the gradients at the parameters as they are, which keep them."""
        for p in self._params.values():
            p.grad = None  # what a chain was given must not be added to
        with torch.enable_grad():
            loss = self._closure()
        self.count += 1
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TypeError(f"{self._who}: the closure must return the loss, a 0-d tensor")
        return loss.detach().reshape(()), {name: p.grad for name, p in self._params.items()}

    def value_fn(self, params: Mapping[str, Tensor]) -> Tensor:
        """What is minimized, at other parameters."""
        return self.sign * self._there(params)[0]

    def grad_fn(self, params: Mapping[str, Tensor], *_: Any) -> Leaves:
        """Its gradients there."""
        grads = self._there(params)[1]
        return Leaves({k: None if grads[k] is None else self.sign * grads[k] for k in params})

    def _there(self, params: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        if self._found is not None and all(self._at.get(k) is x for k, x in params.items()):
            return self._found
        kept = {name: (p.detach().clone(), p.grad) for name, p in self._params.items()}
        try:
            self._write(params)
            self._found, self._at = self.here(), dict(params)
        finally:
            self._write({name: value for name, (value, _) in kept.items()})
            for name, (_, grad) in kept.items():
                self._params[name].grad = grad
        return self._found

    def _write(self, values: Mapping[str, Tensor | None]) -> None:
        with torch.no_grad():
            for name, x in values.items():
                if x is not None:
                    self._params[name].copy_(x)


class EvaluatingOptimizer(Optimizer):
    """Base of the optimizers that call the closure of ``step`` more than once.

    It sets gradients to None, runs forward and backward and returns the loss. The parameters that
    it sees are those of the chain's choice; they are put back.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.tensor([4.0]))
    >>> opt = gx.optim.from_transform(gx.chain(gx.lbfgs()), [w])
    >>> isinstance(opt, gx.optim.EvaluatingOptimizer)
    True
    """

    _evaluations: Evaluations | None = None

    def step(self, closure: Callable[[], Any] | None = None, **extra: Any) -> Any:
        """Update every parameter that has a gradient once the closure has been called.

        Args:
            closure: sets gradients to None, reevaluates the model, calls ``backward`` and returns
                the loss, a 0-d tensor; called under ``enable_grad``, as often as is needed.
            extra: what other members ask for.

        Returns:
            The loss before the step.

        Raises:
            TypeError: no closure, or one that returns no loss.
            ValueError: groups that are updated by different chains, or of which some maximize.
        """
        self._evaluations = self._evaluating(closure)
        try:
            return self._steps(self._evaluations, extra)
        finally:
            self._evaluations = None

    def _steps(self, evaluations: Evaluations, extra: Mapping[str, Any]) -> Tensor:
        """What one call of ``step`` does."""
        value, _ = evaluations.here()
        with torch.no_grad():
            self._step(value, extra)
        return value

    def _evaluating(self, closure: Callable[[], Any] | None) -> Evaluations:
        who = type(self).__name__
        if closure is None:
            raise TypeError(
                f"{who}: step needs a closure that computes the loss and its gradients: the loss "
                "is looked at more than once"
            )
        for p, name in self._names().items():
            if is_distributed(p):
                raise ValueError(
                    f"{who}: leaf {name!r} is a DTensor, and the loss is looked at more than once, "
                    "at parameters that no rank has whole; use DistributedDataParallel, with a "
                    "closure that returns the mean of all ranks' losses, or another class"
                )
        self._check_groups()
        params = {name: p for p, name in self._names().items()}
        return Evaluations(who, closure, params, -1.0 if self.param_groups[0]["maximize"] else 1.0)

    def _check_added(self, group: Mapping[str, Any]) -> None:
        super()._check_added(group)
        self._check_groups()

    def _check_groups(self) -> None:
        who = type(self).__name__
        if len({self.transform_of(group) for group in self.param_groups}) > 1:
            raise ValueError(f"{who}: groups must agree in the options that choose the chain")
        if len({bool(group["maximize"]) for group in self.param_groups}) > 1:
            raise ValueError(f"{who}: maximize must be the same for all groups")

    def _update(self, extra: Mapping[str, Any]) -> None:
        if self._evaluations is not None:
            functions = ("value_fn", "grad_fn")
            extra = {**extra, **{name: getattr(self._evaluations, name) for name in functions}}
        super()._update(extra)
