"""A torch optimizer from any chain."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core.chain import Chain, chain
from ..core.names import suggestion
from ..core.protocol import (
    GradientTransformation,
    declared_hyper,
    members,
    require_transform,
)
from ..transforms import scale, scale_by_learning_rate
from .evaluating import EvaluatingOptimizer
from .optimizer import Optimizer
from .options import COMMON, Option, options_of


class TransformOptimizer(Optimizer):
    """The optimizer that ``from_transform`` makes: one chain for all groups.

    Args:
        params: parameters, named parameters, or groups of either.
        transform: the chain.
        lr: default learning rate of the groups.
        options: defaults of other group options.

    >>> import torch, gradtx as gx
    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> gx.optim.TransformOptimizer([p], gx.trace(0.9), lr=0.1).param_groups[0]["momentum"]
    0.9
    """

    def __init__(
        self, params: Any, transform: GradientTransformation, lr: Any = None, **options: Any
    ) -> None:
        if isinstance(params, GradientTransformation):
            raise TypeError("from_transform: the chain comes first: from_transform(chain, params)")
        require_transform("from_transform", transform)
        if _decays_late(transform, False)[1]:
            warnings.warn(
                "from_transform: add_decayed_weights comes after the learning rate, which turns "
                "updates around: parameters grow by weight_decay of their size at every step; put "
                "it before scale_by_learning_rate, or use gx.decay_after",
                stacklevel=3,
            )
        self.transform, default_lr = _with_lr(transform)
        self._options = self._chain_options()
        defaults = COMMON | {name: option.default for name, option in self._options.items()}
        defaults["lr"] = default_lr if lr is None else lr
        for name in options:
            if name not in defaults:
                raise TypeError(
                    f"from_transform: unknown option {name!r}{suggestion(name, defaults)}; "
                    f"the options of this chain are {sorted(defaults)}"
                )
        super().__init__(params, defaults | options)

    def _chain_options(self) -> Mapping[str, Option]:
        return options_of(self.transform)

    def transform_of(self, group: Mapping[str, Any]) -> GradientTransformation:
        return self.transform

    def options(self, group: Mapping[str, Any]) -> Mapping[str, Option]:
        return self._options


class EvaluatingTransformOptimizer(EvaluatingOptimizer, TransformOptimizer):
    """The optimizer that ``from_transform`` makes of a chain that looks at the loss elsewhere.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> type(gx.optim.from_transform(gx.lbfgs(), [w])).__name__
    'EvaluatingTransformOptimizer'
    """


def _with_lr(tx: GradientTransformation) -> tuple[GradientTransformation, Any]:
    """The chain with exactly one plain ``lr`` for the groups to feed, and its default."""
    rates = [v for k, v in declared_hyper(tx).items() if k.rpartition(".")[2] == "lr"]
    if len(rates) == 1 and (isinstance(rates[0], Tensor) or not callable(rates[0])):
        return chain(tx), rates[0]
    if not rates:
        return chain(tx, scale_by_learning_rate(1e-3)), 1e-3
    # The chain has schedules of its own: the group's lr multiplies them.
    return chain(tx, scale_by_learning_rate(1.0, flip_sign=False)), 1.0


def _decays_late(tx: GradientTransformation, turned: bool) -> tuple[bool, bool]:
    """Whether updates are turned around after ``tx``, and whether it adds decay to such updates.

    Args:
        tx: a chain or a member.
        turned: whether they are turned around before.
    """
    if isinstance(tx, scale_by_learning_rate):
        return turned ^ tx.flip_sign, False
    if isinstance(tx, scale):
        factor = tx.step_size
        return turned ^ (isinstance(factor, (int, float)) and factor < 0), False
    if tx.name == "add_decayed_weights":
        return turned, turned
    late, inner = False, turned
    for child in tx.inner.values():
        after, found = _decays_late(child, inner if isinstance(tx, Chain) else turned)
        inner, late = after, late or found
    return inner, late


def from_transform(
    transform: GradientTransformation, params: Any, lr: Any = None, **options: Any
) -> TransformOptimizer:
    """A torch optimizer from any chain.

    The chain is given without a learning rate, and one is appended that each group's ``lr`` feeds,
    so every torch scheduler works. A chain that ends with its own number keeps it as the default;
    if its learning rate is a schedule, the group's ``lr`` (default 1) multiplies it. Of a chain
    with a line search, or ``gx.sam`` in opaque mode, ``step`` calls its closure several times.

    Args:
        transform: the chain.
        params: parameters, named parameters, or groups of either.
        lr: default learning rate; 1e-3 if neither this nor the chain says.
        options: defaults of other group options: any dynamic hyperparameter of the chain by name
            (``"member.name"`` where two members share it), ``maximize``, ``capturable``,
            ``differentiable``, ``fused`` and ``fallback`` (see ``gx.optim.Optimizer``).

    Raises:
        TypeError: not a transform, or an option that the chain does not have.
        ValueError: a value outside its interval.

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Linear(3, 1)
    >>> tx = gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(), gx.cautious_mask())
    >>> opt = gx.optim.from_transform(tx, model.parameters(), lr=1e-2)
    >>> model(torch.ones(1, 3)).sum().backward()
    >>> opt.step()
    >>> list(opt.state[model.weight])
    ['scale_by_adam']
    """
    whole = isinstance(transform, GradientTransformation)
    evaluates = whole and any(member.evaluates for _, member in members(transform))
    kind = EvaluatingTransformOptimizer if evaluates else TransformOptimizer
    return kind(params, transform, lr, **options)
