"""How a leaf's state tensors relate to it, and on which shapes leaves of its kind are tried out.

Lengths alone do not tell rows from columns, nor from anything else in a square leaf. So the
transform is initialised on two other shapes, without memory, in which all of these differ. The
shapes are small unless the transform treats small leaves in another way.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core import tree
from ...core.execution import holds
from ...core.protocol import GradientTransformation, members
from ..ir.view import Rule, Shape, matrix, own_rules, rules
from .layout import Leaves, Structure, split, structure_of
from .specialize import Choice

# The order of the dimensions differs; 12 = 4 x 3 and 56 = 8 x 7 are no columns of equal steps.
_SMALL = ((12, 10, 7, 3, 5, 2), (56, 80, 9, 4, 2, 3))
_BASES = (12, 48, 160, 640, 2560, 10240, 40960)
_MOST = 1 << 22  # elements of a leaf on which a transform is tried out


class Form(NamedTuple):
    """How a tensor relates to its leaf.

    Attributes:
        name: "leaf", "scalar", "row", "column", "bits", "array" for what only operators of their
            own understand, or "other".
        rule: for rows, columns and bits, how the leaf is seen as a matrix.
    """

    name: str
    rule: Rule | None = None

    def shape(self, leaf: Shape) -> Shape:
        """The simplest shape of such a tensor."""
        if self.rule is None:
            return leaf if self.name == "leaf" else ()
        a, b = matrix(self.rule, leaf)
        return {"row": (a,), "column": (b,), "bits": (a, (b + 7) // 8)}[self.name]


@dataclass(frozen=True)
class Described:
    """The forms of a leaf's states, and shapes on which they are the same.

    Attributes:
        probes: two shapes to trace with.
        checks: two shapes to compare results on.
        forms: per state tensor.
    """

    probes: tuple[Shape, Shape]
    checks: tuple[Shape, Shape]
    forms: tuple[Form, ...]


class Forms:
    """Describes the leaves of one transform.

    Args:
        specialized: gives the transform as leaves with some choice see it.
    """

    def __init__(self, specialized: Callable[[Choice], GradientTransformation]) -> None:
        self._specialized = specialized
        self._initial: dict[Any, tuple[Structure, list[Tensor]] | None] = {}
        self._described: dict[Any, Described] = {}

    def describe(
        self, p: Tensor, choice: Choice, structure: Structure, states: Sequence[Tensor]
    ) -> Described:
        """Forms and shapes for one leaf."""
        shapes = tuple(s.shape for s in states)
        key = (p.shape, p.dtype, choice, structure, shapes)
        if key not in self._described:
            self._described[key] = self._search(p, choice, structure, states)
        return self._described[key]

    def _search(
        self, p: Tensor, choice: Choice, structure: Structure, states: Sequence[Tensor]
    ) -> Described:
        def initial(shape: Shape) -> list[Tensor] | None:
            key = (choice, shape, p.dtype)
            if key not in self._initial:
                self._initial[key] = initial_state(self._specialized(choice), shape, p.dtype)
            found = self._initial[key]
            return found[1] if found is not None and found[0] == structure else None

        shape = tuple(p.shape)
        tx = self._specialized(choice)
        real, own = initial(shape), own_rules(tx)
        # What depends on which dimension is larger is the same for shapes of the same order.
        first = int(any(holds(member, "orders_dimensions") for _, member in members(tx)))
        if real is not None and [s.shape for s in real] == [s.shape for s in states]:
            found: dict[int, Described] = {}  # by the number of arrays of unknown size
            for probes, tied in islice(_candidates(shape), first, None):
                tried = [initial(probe) for probe in probes]
                if tried[0] is None or tried[1] is None:
                    continue
                pairs = list(zip(tried[0], tried[1], strict=True))
                forms = tuple(_form(probes, pair, own) for pair in pairs)
                if _fit(forms, shape, real):
                    other = initial(tied)
                    if other is None or not _fit(forms, tied, other):
                        tied = probes[0]
                    described = Described(probes, (probes[1], tied), forms)
                    unknown = [
                        pair
                        for form, pair in zip(forms, pairs, strict=True)
                        if form.name == "array" and not _in_pieces(probes, pair)
                    ]
                    found.setdefault(len(unknown), described)
                if 0 in found:
                    break
            if found:
                return found[min(found)]
        probes, tied = next(islice(_candidates(shape), first, None))
        return Described(probes, (probes[1], probes[0]), tuple(form_of(s, p) for s in states))


def form_of(s: Tensor, p: Tensor | None = None) -> Form:
    """The form that shows in the shapes alone."""
    if p is not None and s.shape == p.shape:
        return Form("leaf")
    return Form("other" if s.ndim else "scalar")


def state_shapes(
    tx: GradientTransformation,
    shape: Shape,
    dtype: torch.dtype,
    structure: Structure,
    states: Sequence[tuple[torch.dtype, Form]],
) -> list[Shape]:
    """Shapes of the states of a leaf of some shape."""
    found = initial_state(tx, shape, dtype)
    if found is not None and found[0] == structure:
        return [tuple(s.shape) for s in found[1]]
    return [form.shape(shape) for _, form in states]


def initial_state(
    tx: GradientTransformation, shape: Shape, dtype: torch.dtype
) -> tuple[Structure, list[Tensor]] | None:
    """The initial states of one leaf, made without memory where possible; None: it fails."""
    for device in ("meta", "cpu"):
        if device == "cpu" and math.prod(shape) > _MOST:
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # shapes of ours are nobody's concern
                skeleton = tx.init(Leaves([torch.empty(shape, dtype=dtype, device=device)]))
        except Exception:
            continue
        sites, _ = split(skeleton, skeleton, tree.flatten(Leaves([0]))[1])
        return structure_of([site[0] for site in sites])
    return None


def _candidates(shape: Shape) -> Iterator[tuple[tuple[Shape, Shape], Shape]]:
    """Pairs of shapes of the kind of this one, and a shape in which dimensions are equal.

    First with dimensions in any order, then in the order of this shape, larger and larger. Of equal
    dimensions the last is made the largest, or the first.
    """
    yield (
        (_small(shape, _SMALL[0]), _small(shape, _SMALL[1])),
        _small(shape, (12,) * len(shape)),
    )
    for base in _BASES:
        for sign in (1, -1) if len(set(shape)) < len(shape) else (1,):
            first, second = _ordered(shape, base, 4, sign), _ordered(shape, base, 5, sign)
            if math.prod(second) <= _MOST:
                values = {n: first[d] for d, n in enumerate(shape)}
                yield (first, second), tuple(values[n] for n in shape)


def _small(shape: Shape, sizes: Sequence[int]) -> Shape:
    return tuple(n if n < 2 else sizes[d % len(sizes)] for d, n in enumerate(shape))


def _ordered(shape: Shape, base: int, quarters: int, sign: int) -> Shape:
    """Dimensions of at most about ``base``, in the order of their sizes and of their places."""
    out, last = list(shape), 0
    for d in sorted((d for d, n in enumerate(shape) if n > 1), key=lambda d: (shape[d], sign * d)):
        size = max(min(base, shape[d]) * quarters // 4, last * (quarters + 2) // 4, last + 1, 2)
        out[d] = last = size + -size % 4 if size > 8 else size + quarters - 4
    return tuple(out)


def _form(probes: Sequence[Shape], states: Sequence[Tensor], own: Sequence[Rule]) -> Form:
    """The form that a state tensor has on both shapes."""
    sizes = [s.numel() for s in states]
    if sizes == [1, 1]:
        return Form("scalar")
    if sizes == [math.prod(shape) for shape in probes]:
        return Form("leaf")
    for rule in (*own, *rules(len(probes[0]))):
        matrices = [matrix(rule, shape) for shape in probes]
        if any(len({n == 1 for n in sizes_of}) > 1 for sizes_of in zip(*matrices, strict=True)):
            continue  # rows and columns of one shape, single elements of the other
        bits = [(a, (b + 7) // 8) for a, b in matrices]
        if states[0].dtype == torch.uint8 and [tuple(s.shape) for s in states] == bits:
            return Form("bits", rule)
        for form in (Form("row", rule), Form("column", rule)):
            if all(_fits(form, shape, s) for shape, s in zip(probes, states, strict=True)):
                return form
    return Form("array")


def _in_pieces(probes: Sequence[Shape], states: Sequence[Tensor]) -> bool:
    """Whether there is a value for every so many elements, as many of them on both shapes."""
    pairs = [(math.prod(p), s.numel()) for p, s in zip(probes, states, strict=True)]
    least = max(-(-n // size) for n, size in pairs)
    return all(least <= (n - 1) // (size - 1) for n, size in pairs if size > 1)


def _fit(forms: Sequence[Form], leaf: Shape, states: Sequence[Tensor]) -> bool:
    """Whether tensors have the sizes that their forms say."""
    return all(_fits(form, leaf, s) for form, s in zip(forms, states, strict=True))


def _fits(form: Form, leaf: Shape, s: Tensor) -> bool:
    """Whether a tensor has the size that its form says, along the dimensions that show it."""
    if form.name == "array":
        return True
    if math.prod(form.shape(leaf)) != s.numel():
        return False
    if form.name in ("row", "column") and isinstance(form.rule, int) and s.ndim == len(leaf):
        gone = s.shape[form.rule :] if form.name == "row" else s.shape[: form.rule]
        return all(n == 1 for n in gone)
    return True
