"""Error feedback: what compression drops is added to the next update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..codecs import Codec, Encoding, as_codec, codec_field
from ..compressors import Compressor
from ..core import tree
from ..core.declared import Call, DeclaredTransform, like, with_fields_of
from ..core.errors import TreeMismatchError, shape_mismatch
from ..core.execution import Execution, holds
from ..core.functions import identity
from ..core.hyper import static
from ..core.leaves import densify_leaf
from ..core.protocol import GradientTransformation, Wrapper, members
from ..core.tree import PyTree
from .compress import compressor_field


class ErrorFeedbackLeaf(NamedTuple):
    """What is kept of one leaf.

    Attributes:
        error: what has been dropped so far, as its codec keeps it.
        compressor: the compressor's state, () if it has none.
    """

    error: Encoding
    compressor: Any


class ErrorFeedbackState(NamedTuple):
    """State of ``error_feedback``.

    Attributes:
        leaves: an ``ErrorFeedbackLeaf`` per leaf.
        inner_state: state of the inner transform.
    """

    leaves: PyTree
    inner_state: PyTree


class _Kept(NamedTuple):
    """One leaf between compression and the end of the step; its error as it will be decoded."""

    rest: Tensor
    error: Tensor | None
    state: ErrorFeedbackLeaf


@dataclass(frozen=True)
class ErrorFeedback(DeclaredTransform, Wrapper):
    """Compress updates with memory of what was dropped; made by ``error_feedback``."""

    execution: ClassVar[Execution] = Execution(
        leaves_independent=True,
        cannot_raise=lambda tx: tx.compressor.cannot_raise,
        low_rank_form=lambda tx: tx.low_rank_form(),
    )
    given_as: ClassVar[str] = "inner"
    densifies: ClassVar[bool] = True

    compressor: Compressor = compressor_field()
    quantizer: Codec | torch.dtype | None = codec_field()
    release: float = static(0.0, within="[0, 1)")
    leftover: Literal["drop", "apply"] = static("drop")
    requantize: Literal["exact", "scale"] = static("exact")
    in_param_dtype: bool = static(False)

    @property
    def name(self) -> str:
        return "error_feedback"

    @property
    def requires_params(self) -> bool:  # type: ignore[override]
        return self.in_param_dtype

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.release and self.leftover == "apply":
            raise ValueError("error_feedback: release and leftover='apply' exclude each other")

    def _codec(self, name: str) -> Codec:
        return as_codec(self.quantizer).for_leaf(name)

    def _init(self, leaves: list[Any], names: list[str], spec: Any) -> ErrorFeedbackState:
        kept = [
            ()
            if p is None
            else ErrorFeedbackLeaf(
                self._codec(name).init(p, signed=True), self.compressor.init(p, name)
            )
            for p, name in zip(leaves, names, strict=True)
        ]
        return ErrorFeedbackState(spec.unflatten(kept), self.transform.init(spec.unflatten(leaves)))

    def _update(
        self, call: Call, state: ErrorFeedbackState, values: dict[str, Any]
    ) -> tuple[PyTree, ErrorFeedbackState]:
        states = tree.flatten_like(self.name, call.spec, state.leaves, "state")
        payloads: list[Any] = [None] * len(states)
        kept: dict[int, _Kept] = {}
        for i, u in enumerate(call.updates):
            if u is None:
                continue
            if states[i] == ():
                raise TreeMismatchError(
                    f"{self.name}: leaf {call.names[i]!r} has an update but no state; "
                    "it was None when init was called"
                )
            payloads[i], kept[i] = self._compressed(call, i, states[i])
            rest = kept[i].rest  # broadcasting against a state of another shape must not pass
            if rest.shape != u.shape:
                raise shape_mismatch(
                    self.name, call.names[i], "update", u.shape, "state error", rest.shape
                )
        given = any(p is not None for p in call.params) or not call.params
        out, inner = self.update_transform(
            call.spec.unflatten(payloads),
            state.inner_state,
            call.spec.unflatten(call.params) if given else None,
            call.extra,
        )
        outs = tree.leaves_like(self.name, call.spec, out, "inner update")
        for i, leaf in kept.items():
            outs[i], states[i] = self._finished(call, i, outs[i], leaf)
            outs[i] = like(outs[i], call.updates[i])
        return call.spec.unflatten(outs), ErrorFeedbackState(call.spec.unflatten(states), inner)

    def _compressed(self, call: Call, i: int, s: ErrorFeedbackLeaf) -> tuple[Any, _Kept]:
        """What is kept of leaf ``i``, and what is remembered of the rest."""
        u, codec, rounded = call.updates[i], self._codec(call.names[i]), self._rounding(call, i)
        total = rounded(u + rounded(codec.decode(s.error, u)))
        payload, compressor = self.compressor.compress(total, s.compressor)
        rest = self.compressor.residual(total, payload)
        error = codec.encode(rest, s.error)
        state = ErrorFeedbackLeaf(error, compressor)
        needed = self.release or self.leftover == "apply"
        return payload, _Kept(rest, codec.decode(error, u) if needed else None, state)

    def _finished(self, call: Call, i: int, out: Any, leaf: _Kept) -> tuple[Any, ErrorFeedbackLeaf]:
        """The update of leaf ``i`` with its share of what was dropped, and its state."""
        if leaf.error is None:
            return out, leaf.state
        rounded, p = self._rounding(call, i), call.params[i]
        if self.leftover == "apply":
            if not self.in_param_dtype:
                return densify_leaf(out) - (leaf.rest - leaf.error), leaf.state
            start = tree.accumulator(p)
            moved = rounded(rounded(start - leaf.rest) + rounded(leaf.error))
            return rounded(moved + densify_leaf(out)) - start, leaf.state
        out = rounded(rounded(densify_leaf(out)) + rounded(self.release * leaf.error))
        codec, old = self._codec(call.names[i]), leaf.state.error
        if self.requantize == "scale":
            error = codec.rescale(old, 1 - self.release, leaf.error)
        else:
            error = codec.encode(rounded((1 - self.release) * leaf.error), old)
        return out, leaf.state._replace(error=error)

    def low_rank_form(self) -> ErrorFeedback | None:
        """The same transform for executors, which overwrites what it remembers."""
        plain = not self.release and self.leftover == "drop" and not self.in_param_dtype
        safe = all(holds(m, "cannot_raise") for _, m in members(self))
        takes = self.compressor.takes_feedback
        return with_fields_of(self, _InPlace) if plain and safe and takes else None

    def _rounding(self, call: Call, i: int) -> Callable[[Tensor], Tensor]:
        """Rounding to the parameter's dtype, or none."""
        if not self.in_param_dtype:
            return lambda x: x
        dtype = call.params[i].dtype
        return lambda x: x.to(dtype).to(x.dtype)


@dataclass(frozen=True)
class _InPlace(ErrorFeedback):
    """Errors are overwritten where compressor and codec have a kernel for both."""

    def _compressed(self, call: Call, i: int, s: ErrorFeedbackLeaf) -> tuple[Any, _Kept]:
        u = call.updates[i]
        codes = self._codec(call.names[i]).row_codes(s.error, u)
        if codes is not None:
            found = self.compressor.compress_with_feedback_(u, codes, s.compressor)
            if found is not None:
                payload, state = found
                return payload, _Kept(u, None, s._replace(compressor=state))
        return super()._compressed(call, i, s)


def error_feedback(
    compressor: Compressor,
    quantizer: Codec | torch.dtype | None = None,
    inner: GradientTransformation | None = None,
    release: float = 0.0,
    leftover: Literal["drop", "apply"] = "drop",
    requantize: Literal["exact", "scale"] = "exact",
    in_param_dtype: bool = False,
) -> ErrorFeedback:
    """Compress updates and add what was dropped to the next ones.

    a = u + e; c = C(a); e' = Q(a - c); the update is inner(c). With a ``release`` it is
    inner(c) + release e', and Q((1 - release) e') remains. With leftover="apply" it is
    inner(c) - (a - c - e'): what the quantizer loses goes straight into the parameters, so that
    ``inner`` must contain the learning rate.

    Args:
        compressor: C, one of ``gx.compressors``.
        quantizer: Q, how e is kept between steps: one of ``gx.codecs`` or a dtype; None keeps
            float32. ``gx.codecs.affine(4)`` takes about half a byte a parameter.
        inner: transform of what was kept; it sees sparse or low-rank updates where the compressor
            makes them. None passes them on.
        release: share of the remembered error that is added to every update, in [0, 1).
        leftover: what becomes of the quantizer's own loss: "drop" or "apply".
        requantize: how (1 - release) e' is kept: "exact" quantises it anew, "scale" only scales
            the quantizer's range.
        in_param_dtype: round a, e' and every sum to the parameter's dtype, as implementations
            without wider intermediates do.

    Raises:
        ValueError: a value that is not among these, or release together with leftover="apply".
        TypeError: a compressor, quantizer or inner transform of another type.

    Source: arXiv 1809.07599, arXiv 1901.09847, arXiv 2405.15593.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.error_feedback(gx.compressors.top_k(k=1)), gx.densify())
    >>> state = tx.init({"w": torch.zeros(2)})
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": torch.tensor([3.0, 2.0])}, state)
    >>> updates
    {'w': tensor([0., 4.])}
    """
    return ErrorFeedback(
        identity() if inner is None else inner,
        *(compressor, quantizer, release, leftover, requantize, in_param_dtype),
    )
