"""Steps that round where an implementation in the parameter's own dtype rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..core import tree
from ..core.declared import Call, DeclaredTransform, like
from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic
from ..core.leaves import densify_leaf
from ..core.protocol import Wrapper
from ..core.tree import PyTree


@dataclass(frozen=True)
class round_updates(DeclaredTransform):
    """Round updates to the dtype of their parameters; they still travel in at least float32.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.zeros(1, dtype=torch.bfloat16)}
    >>> gx.round_updates().update({"w": torch.tensor([1.001])}, (), params)[0]
    {'w': tensor([1.])}
    """

    requires_params: ClassVar[bool] = True
    execution: ClassVar[Execution] = Execution(leaves_independent=True)
    densifies: ClassVar[bool] = True

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        return ()

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        pairs = zip(call.updates, call.params, strict=True)
        return call.spec.unflatten(
            [None if u is None else u.to(p.dtype).to(u.dtype) for u, p in pairs]
        ), state


@dataclass(frozen=True)
class decay_first(DeclaredTransform, Wrapper):
    """Decoupled weight decay before the step, each rounded to the parameter's dtype.

    p' = round(p (1 - lr weight_decay)); the inner transform, learning rate included, steps from p'
    to round(p' + u). In float32 ``gx.add_decayed_weights`` does the same to the last digit; half
    precisions show the two roundings.

    Args:
        transform: the inner transform with its learning rate.
        lr: learning rate >= 0, the same as inside.
        weight_decay: share of the parameter that is taken off per unit of lr, >= 0.

    Raises:
        ValueError: a value outside its interval, or no parameters given to ``update``.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.decay_first(gx.scale(-0.5), lr=0.5, weight_decay=0.2), {"w": torch.ones(1)}
    >>> tx.update({"w": torch.ones(1)}, tx.init(params), params)[0]
    {'w': tensor([-0.6000])}
    """

    requires_params: ClassVar[bool] = True
    execution: ClassVar[Execution] = Execution(leaves_independent=True)
    densifies: ClassVar[bool] = True

    lr: Hyper = dynamic(within="[0, inf)", per_entry=True)
    weight_decay: Hyper = dynamic(0.0, within="[0, inf)", per_entry=True)

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> PyTree:
        return self.transform.init(spec.unflatten(leaves))

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        decayed = list(call.params)
        for i, p in enumerate(call.params):
            if p is not None and call.updates[i] is not None:
                h = Values(call.values_at(i, values))
                wide = tree.accumulator(p)
                decayed[i] = like(wide * (1 - h.lr * h.weight_decay), wide).to(p.dtype)
        updates, params = call.spec.unflatten(call.updates), call.spec.unflatten(decayed)
        out, new = self.update_transform(updates, state, params, call.extra)
        outs = tree.leaves_like(self.name, call.spec, out, "inner update")
        for i, u in enumerate(outs):
            if u is not None:
                p, moved = call.params[i], tree.accumulator(decayed[i]) + densify_leaf(u)
                outs[i] = like(moved.to(p.dtype), call.updates[i]) - tree.accumulator(p)
        return call.spec.unflatten(outs), new
