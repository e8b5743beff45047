"""A tree whose derivatives are multiplied on their way through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.tree import PyTree


class _Scaled(torch.autograd.Function):
    """The identity, with derivatives times a factor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        (factor,) = ctx.saved_tensors
        return grad * factor, None

    @staticmethod
    def jvp(ctx: Any, tangent: Any, _: Any) -> Any:
        (factor,) = ctx.saved_tensors
        return tangent * factor


def scale_gradient(values: PyTree, factor: float | Tensor) -> PyTree:
    """The tree itself, with derivatives through it multiplied by a factor.

    Args:
        values: tree; leaves that are no floating-point tensors stay as they are.
        factor: a number or a 0-d tensor, which is a constant of differentiation; negative ones turn
            gradients around.

    >>> import torch, gradtx as gx
    >>> torch.func.grad(lambda x: gx.meta.scale_gradient(x, -0.5) ** 2)(torch.tensor(3.0))
    tensor(-3.)
    """

    def scaled(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return _Scaled.apply(x, torch.as_tensor(factor, dtype=x.dtype, device=x.device).detach())

    return tree.map(scaled, values)
