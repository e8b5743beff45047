"""How far single activations stand out of the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core import tree
from ..core.tree import PyTree, accumulator


class Outliers(NamedTuple):
    """Attributes, both 0-d.

    ``kurtosis`` is the fourth central moment over the squared variance, 3 for normal numbers;
    ``peak`` the largest magnitude over the median one, NaN where that is zero.
    """

    kurtosis: Tensor
    peak: Tensor


def activation_outliers(activations: PyTree) -> dict[str, Outliers]:
    """Kurtosis, and largest over median magnitude, of every leaf, by name.

    Args:
        activations: of a batch, such as what ``layer_inputs`` gives.

    Source: arXiv 2405.19279 (kurtosis of activations).

    >>> import torch, gradtx as gx
    >>> gx.solutions.activation_outliers({"x": torch.tensor([1.0, -1.0, 1.0, -1.0])})["x"]
    Outliers(kurtosis=tensor(1.), peak=tensor(1.))
    """
    leaves, spec = tree.flatten(activations)
    return {
        name: _outliers(accumulator(leaf))
        for name, leaf in zip(tree.names(spec), leaves, strict=True)
        if isinstance(leaf, Tensor) and leaf.numel()
    }


def layer_inputs(
    model: nn.Module, params: PyTree, *inputs: Any, kind: type[nn.Module] = nn.Linear
) -> dict[str, Tensor]:
    """What the layers of a kind are given in a forward pass with other parameters.

    Args:
        model: is called with ``params`` by ``torch.func.functional_call``, without gradients.
        params: by the model's names.
        inputs: of the model.
        kind: of layers.

    Returns:
        The first input of every such layer, by the layer's name; of the last call, where there are
        several.

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> found = gx.solutions.layer_inputs(model, dict(model.named_parameters()), torch.ones(5, 2))
    >>> {name: tuple(x.shape) for name, x in found.items()}
    {'0': (5, 2), '1': (5, 3)}
    """
    seen: dict[str, Tensor] = {}
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, kind):

            def note(
                module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], name: str = name
            ) -> None:
                seen[name] = (*args, *named.values())[0].detach()

            hooks.append(layer.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with torch.no_grad():
            torch.func.functional_call(model, params, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _outliers(x: Tensor) -> Outliers:
    flat = x.reshape(-1)
    centred = flat - flat.mean()
    variance = centred.square().mean()
    safe = torch.where(variance > 0, variance, torch.ones_like(variance))
    size = flat.abs()
    middle = size.median()
    peak = size.max() / torch.where(middle > 0, middle, torch.full_like(middle, torch.nan))
    return Outliers(centred.pow(4).mean() / safe.square(), peak)
