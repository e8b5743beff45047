"""Gradients from values alone, with noise that is drawn again instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.errors import described
from ..core.plain import plain
from ..core.random import Seed, derived_key, normal
from ..core.tree import PyTree


def zero_order(
    f: Callable[..., Tensor],
    sigma: float = 1e-3,
    samples: int = 1,
    seed: Seed = 0,
    antithetic: bool = True,
) -> Callable[..., tuple[PyTree, Tensor]]:
    """Estimate gradients of ``f`` from its values at perturbed parameters.

    The mean over samples of ``(f(p + sigma z) - f(p - sigma z)) / (2 sigma) z`` with normal z, or
    of ``(f(p + sigma z) - f(p)) / sigma z``. Every z is drawn from its seed each time it is used,
    never kept for the whole tree; nothing is differentiated.

    Args:
        f: ``(params, *args) -> 0-d tensor``.
        sigma: size of the perturbation, > 0.
        samples: number of z, >= 1.
        seed: of the noise, an integer or a 0-d integer tensor.
        antithetic: two values a sample, else one and one at the parameters.

    Returns:
        ``estimate(params, *args, step=0) -> (gradients, value)``; every ``step``, an integer or a
        0-d integer tensor, has noise of its own. The value is the mean of those computed.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2305.17333.

    >>> import torch, gradtx as gx
    >>> estimate = gx.meta.zero_order(lambda w: (w * w).sum(), samples=100)
    >>> estimate(torch.tensor(3.0))[0].round()
    tensor(6.)
    """
    if not sigma > 0:
        raise ValueError(f"zero_order: sigma must be > 0, got {sigma}")
    samples = plain(samples)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"zero_order: samples must be an integer >= 1, got {samples!r}")

    def estimate(params: PyTree, *args: Any, step: int | Tensor = 0) -> tuple[PyTree, Tensor]:
        leaves, spec = tree.flatten(params)
        names = tree.names(spec)

        keys = [
            derived_key(seed, name, x.device) if _is_float(x) else None
            for name, x in zip(names, leaves, strict=True)
        ]

        def noise(key: Tensor, x: Tensor, k: int) -> Tensor:
            count = torch.as_tensor(step, dtype=torch.int64, device=x.device)
            key = torch.stack([key[0], count * samples + k])
            return normal(key, x.shape, tree.accumulator_dtype(x.dtype))

        def moved(size: float, k: int) -> PyTree:
            out = [
                x if key is None else (tree.accumulator(x) + size * noise(key, x, k)).to(x.dtype)
                for key, x in zip(keys, leaves, strict=True)
            ]
            return spec.unflatten(out)

        def value(at: PyTree) -> Tensor:
            out = f(at, *args)
            if not isinstance(out, Tensor) or out.ndim:
                got = tuple(out.shape) if isinstance(out, Tensor) else described(out)
                raise ValueError(f"zero_order: f must return a 0-d tensor, got {got}")
            return out

        center = None if antithetic else value(params)
        slopes, values = [], [] if center is None else [center]
        for k in range(samples):
            above = value(moved(sigma, k))
            below = value(moved(-sigma, k)) if center is None else center
            slopes.append((above - below) / ((2 if center is None else 1) * sigma))
            values += [above, below] if center is None else []
        grads: list[Any] = []
        for key, x in zip(keys, leaves, strict=True):
            if key is None:
                grads.append(None)
                continue
            total = torch.zeros_like(x, dtype=tree.accumulator_dtype(x.dtype))
            for k, slope in enumerate(slopes):
                total = total + slope / samples * noise(key, x, k)
            grads.append(total)
        return spec.unflatten(grads), torch.stack(values).mean()

    return estimate


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
