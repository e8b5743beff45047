"""How much longer a transform makes what goes into it, as a transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..core import tree
from ..core.declared import Call, DeclaredTransform
from ..core.execution import Execution
from ..core.hyper import Hyper, Values, dynamic, static
from ..core.leaves import densify_leaf
from ..core.protocol import Wrapper
from ..core.roots import divide_by_sum, root, vector_norm
from ..core.tree import PyTree
from ..ops.basis import axis_of


@dataclass(frozen=True)
class NormRatio(DeclaredTransform, Wrapper):
    """Ratios of norms in place of updates, matrix by matrix; the state is that of ``transform``.

    Args:
        transform: what makes the coordinates z longer or shorter.
        side: of the projector that z comes from: one ratio for every channel; None: one for all.
        scale, norm_eps: see ``norm_ratio``.
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True, orders_dimensions=True)
    densifies: ClassVar[bool] = True

    side: str | None = static(None)
    scale: Hyper = dynamic(1.0)
    norm_eps: Hyper = dynamic(1e-8, within="[0, inf)")

    @property
    def name(self) -> str:
        return "norm_ratio"

    def init(self, params: PyTree) -> PyTree:
        return self.transform.init(params)

    def _update(self, call: Call, state: PyTree, values: dict[str, Any]) -> tuple[PyTree, PyTree]:
        us = call.spec.unflatten(call.updates)
        out, state = self.update_transform(us, state, None, call.extra)
        outs = tree.leaves_like(self.name, call.spec, out, "inner update")
        for i, z in enumerate(call.updates):
            if z is not None:
                h = Values(call.values_at(i, values))
                axis = None if self.side is None else _axis(self.side, tuple(z.shape))
                outs[i] = norm_ratio(densify_leaf(outs[i]), z, axis, h)
        return call.spec.unflatten(outs), state


def _axis(side: str, shape: tuple[int, ...]) -> int:
    """The compressed dimension of a matrix, from the shape of its coordinates.

    Where it is the larger one there are no channels, unless the matrix is square.
    """
    return axis_of("left" if side in ("reverse_std", "larger") else side, *shape)


def norm_ratio(new: Tensor, z: Tensor, axis: int | None, h: Values) -> Tensor:
    """``scale ||new|| / (||z|| + norm_eps)``, along one dimension or of all."""
    return h.scale * divide_by_sum(_norm(new, axis), _norm(z, axis), h.norm_eps)


def _norm(x: Tensor, axis: int | None) -> Tensor:
    """Euclidean norm of all of a matrix or along one dimension, with slope zero at zero."""
    if axis != 0:
        return vector_norm(x, dim=axis, keepdim=axis is not None)
    return root(x.square().sum(dim=0, keepdim=True))  # on the CPU many times faster
