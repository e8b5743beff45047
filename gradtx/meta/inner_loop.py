"""A module trained differentiably: what an outer loss learns through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.apply import apply_updates
from ..core.protocol import GradientTransformation, require_transform
from ..core.tree import PyTree
from .scan import stop_gradient


class FunctionalModel:
    """A module with parameters of its own that may have a history; made by ``inner_loop``.

    Attributes:
        params: the parameters by name; replaced by every step of the inner optimizer.
        buffers: copies of the module's buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.params: dict[str, Tensor] = dict(module.named_parameters())
        self.buffers = {name: b.clone() for name, b in module.named_buffers()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self._module, (self.params, self.buffers), args, kwargs)


class InnerOptimizer:
    """Steps of a transform that the outer derivative goes through; made by ``inner_loop``.

    Attributes:
        state: the transform's.
    """

    def __init__(self, fmodel: FunctionalModel, tx: GradientTransformation) -> None:
        self._fmodel, self._tx = fmodel, tx
        self.state: PyTree = tx.init(fmodel.params)

    def step(self, loss: Tensor, hyper: Mapping[str, Any] | None = None, **extra: Any) -> None:
        """Replace the model's parameters by those after one step.

        Args:
            loss: 0-d, computed with the model.
            hyper: overrides of dynamic hyperparameters by name; tensors are differentiated too.
            extra: further arguments of ``update``; ``value`` is the loss.

        Raises:
            RuntimeError: the loss has no history.
            ValueError: it is more than one number.
        """
        if loss.numel() != 1:
            raise ValueError(
                f"inner_loop: the loss must be one number, got shape {tuple(loss.shape)}; "
                "take its mean or sum"
            )
        params = self._fmodel.params
        names = [name for name, p in params.items() if p.requires_grad]
        if not loss.requires_grad or not names:
            raise RuntimeError(
                "inner_loop: the loss does not depend on the model's parameters; compute it with "
                "fmodel, under torch.enable_grad()"
            )
        slopes = torch.autograd.grad(
            loss, [params[n] for n in names], create_graph=True, allow_unused=True
        )
        grads: dict[str, Any] = dict.fromkeys(params)
        grads.update(zip(names, slopes, strict=True))
        updates, self.state = self._tx.update(
            grads, self.state, params, **{"hyper": hyper, "value": loss, **extra}
        )
        self._fmodel.params = apply_updates(params, updates)

    def detach(self) -> None:
        """Cut the history: parameters and state go on as constants, and the graph can be freed."""
        cut = stop_gradient(self._fmodel.params)
        self._fmodel.params = {
            name: x.requires_grad_(self._fmodel.params[name].requires_grad)
            for name, x in cut.items()
        }
        self.state = stop_gradient(self.state)


@contextmanager
def inner_loop(
    model: nn.Module, tx: GradientTransformation
) -> Iterator[tuple[FunctionalModel, InnerOptimizer]]:
    """Train a functional copy of a module inside a block, differentiably.

    The copy starts from the module's own parameters, so an outer ``backward`` reaches them, and
    hyperparameters of ``tx`` that are tensors. The module is not changed.

    Args:
        model: the module.
        tx: the inner optimizer, learning rate included.

    Yields:
        ``fmodel``, called like the module, and ``opt``, whose ``step(loss)`` replaces its
        parameters.

    Raises:
        TypeError: not a module, or not a transform.

    Source: arXiv 1910.01727.

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> lr = torch.tensor(0.1, requires_grad=True)
    >>> with gx.meta.inner_loop(model, gx.sgd(lr)) as (fmodel, opt):
    ...     opt.step(fmodel(torch.ones(1, 1)).sum())
    ...     fmodel(torch.ones(1, 1)).sum().backward()
    >>> lr.grad, model.weight.grad
    (tensor(-1.), tensor([[1.]]))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"inner_loop: model must be a module, got {type(model).__name__}")
    require_transform("inner_loop", tx)
    fmodel = FunctionalModel(model)
    with torch.enable_grad():
        yield fmodel, InnerOptimizer(fmodel, tx)
