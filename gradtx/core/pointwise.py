"""Whether a chain treats every element by itself, found out on tensors without values."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _python_dispatch, _pytree

from . import tree
from .plain import Plain
from .protocol import GradientTransformation, members
from .tree import PyTree, accumulator_dtype

# Whole matrices and vectors, large enough for what begins at a size.
_SHAPES = {"matrix": (4096, 1024), "kernel": (256, 256, 3, 3), "vector": (1 << 20,)}
_COPIES = frozenset(
    [
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
        "new_empty",
        "empty",
        "zeros",
        "ones",
        "full",
        "empty_strided",
        "new_empty_strided",
        "new_full",
        "scalar_tensor",
        "lift_fresh",
        "copy_",
        "_to_copy",
        "clone",
        "detach",
        "alias",
        "fill_",
        "zero_",
    ]
)


# Of these, those that see shape and dtype of their argument alone.
_LIKE = frozenset(x for x in _COPIES if x.startswith("new_") or x.endswith("_like"))
_ZEROS = frozenset(["zeros", "zeros_like", "new_zeros"])
# Operators through which a part of a sum stays one.
_JOINS = frozenset(["add", "sub", "stack", "cat", "sum"])
_SCALES = frozenset(["mul", "div", "neg"])
_MOVES = frozenset(
    ["_to_copy", "clone", "alias", "detach", "view", "reshape"]  # all give what they are given
)


class _NotPointwiseError(Exception):
    """An operator that lets elements meet, or that depends on where they are."""


class _Pointwise(_python_dispatch.TorchDispatchMode):
    """Raises at the first operator on large tensors that is not pointwise.

    Sums over all elements of a leaf may be made where they go through ``reduce``: what becomes of
    them before that is linear in them, for each process has a part.

    Args:
        sums: whether that is allowed.
        absent: tensors that must not be read.

    Attributes:
        trace: operators, with the numbers that they were given where those are no sizes.
        extra: ``reduce``, if so.
    """

    def __init__(self, sums: bool = False, absent: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.trace: list[Any] = []
        self._absent = {id(x) for x in absent}
        self._sums = sums
        self.extra: dict[str, Any] = {"reduce": self} if sums else {}
        self._parts: dict[int, Tensor] = {}  # kept, so that no other tensor gets their place
        self._zeros: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._absent and any(id(x) in self._absent for x in _tensors((args, kwargs))):
            raise _NotPointwiseError(f"{func._schema.name} of what is not there")
        out = func(*args, **(kwargs or {}))
        name = func._schema.name[6:]
        if self._sums and self._is_part(name, args, out):
            self.trace.append((func._schema.name, list(_numbers(args))))
            self._parts.update((id(x), x) for x in _tensors(out))
            return out
        if name in _ZEROS or (name in _MOVES and id(next(_tensors(args), out)) in self._zeros):
            self._zeros.update((id(x), x) for x in _tensors(out) if x.numel() == 1)
        pointwise = torch.Tag.pointwise in func.tags
        if pointwise or name in _COPIES:
            given = list(_numbers((args, kwargs))) if pointwise else ()
            self.trace.append((func._schema.name, given))
            return out
        if any(x.numel() > 1 for x in _tensors((args, kwargs, out))):
            raise _NotPointwiseError(func._schema.name)
        return out

    def _is_part(self, name: str, args: Any, out: Any) -> bool:
        """Whether a result is part of a sum over processes.

        Raises:
            _NotPointwiseError: it follows from one, but the sum does not follow from the parts.
        """
        given = list(_tensors(args))
        parts = [x for x in given if id(x) in self._parts]
        if not parts:
            whole = name == "sum" and all(x.numel() == 1 for x in _tensors(out))
            return whole and given[0].numel() > 1
        zeros = [x for x in given if id(x) in self._zeros]
        alike = len(parts) + len(zeros) == len(given)
        adds_number = name in ("add", "sub") and len(given) < 2
        if name in _JOINS and alike and not adds_number:
            return True
        scaled = len(parts) == 1 and (parts[0] is given[0] or name == "mul")
        if scaled and name in _SCALES | _MOVES:
            return True
        raise _NotPointwiseError(f"{name} of a sum over a leaf that has not gone through reduce")

    def check(self, values: Any) -> None:
        """Raise where something in a tree is still part of a sum."""
        if self._is_still_part(values):
            raise _NotPointwiseError("a sum over a leaf that has not gone through reduce")

    def _is_still_part(self, values: Any) -> bool:
        return any(id(x) in self._parts for x in _tensors(values))

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, as ``reduce`` gives it."""
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def mean(self, x: Tensor) -> Tensor:
        """What is the same everywhere; ``reduce``."""
        if self._is_still_part(x):
            raise _NotPointwiseError("a mean of sums")
        return x

    max = mean


def elementwise(
    tx: GradientTransformation,
    name: str,
    shape: tuple[int, ...],
    part: tuple[int, ...],
    dtype: torch.dtype,
    sums: bool = False,
    rest: bool = False,
) -> str | None:
    """Where elements of one leaf meet, or where its shape matters; None if nowhere.

    Args:
        tx: the chain.
        name: of the leaf.
        shape: its own.
        part: that of what a rank has of it; the chain must do the same with both.
        dtype: its own.
        sums: whether they may meet in sums that go through ``reduce``.
        rest: whether it is the end of a chain, which gets updates and must not need gradients.
    """

    def run(sizes: tuple[int, ...]) -> tuple[str | None, list[Any]]:
        leaf, given = _leaf(name, sizes, dtype), {}
        if rest:
            given = {"grads": _leaf(name, sizes, dtype)}
            given["updates"] = _leaf(name, sizes, accumulator_dtype(dtype))
        mode = _Pointwise(sums, given.get("grads", {}).values())
        return _run(tx, leaf, mode, mode.extra, **given), mode.trace

    return _alike(tx.name, shape, part, run)


def elementwise_in(
    run: Callable[[Mapping[str, Tensor]], Any],
    name: str,
    shape: tuple[int, ...],
    part: tuple[int, ...],
    dtype: torch.dtype,
) -> str | None:
    """Where elements of one leaf meet in a function, or where its shape matters; None if nowhere.

    Args:
        run: what is called with a tree of one leaf.
        name: of the leaf.
        shape: its own.
        part: that of what a rank has of it; the function must do the same with both.
        dtype: its own.
    """

    def observed(sizes: tuple[int, ...]) -> tuple[str | None, list[Any]]:
        mode = _Pointwise()
        try:
            with torch.no_grad(), mode:
                run(_leaf(name, sizes, dtype))
        except Exception as error:
            return _said(error, ""), mode.trace
        return None, mode.trace

    return _alike("a part", shape, part, observed)


def _alike(
    who: str,
    shape: tuple[int, ...],
    part: tuple[int, ...],
    run: Callable[[tuple[int, ...]], tuple[str | None, list[Any]]],
) -> str | None:
    """What runs on two shapes say, or that they are not the same."""
    traces = []
    for sizes in dict.fromkeys((shape, part)):
        # What has one element meets itself only, but need not do so elsewhere.
        why, trace = run(sizes if math.prod(sizes) > 1 else (2,) * len(sizes))
        if why:
            return why
        traces.append(trace)
    if traces[0] != traces[-1]:
        return f"{who} (what it does depends on the shape)"
    return None


def reads_parameters(
    tx: GradientTransformation, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> str | None:
    """Where a chain reads the values of a parameter, or makes another state of wider ones.

    None if nowhere: then any tensor of the same shape, of the dtype of updates, will do.

    Args:
        tx: the chain.
        name: of the leaf.
        shape: its own.
        dtype: its own.
    """
    wide = _leaf(name, shape, accumulator_dtype(dtype))
    if why := _run(tx, wide, _Unread(wide.values()), {}, _leaf(name, shape, dtype)):
        return why
    with torch.no_grad():
        kinds = [_kinds(tx.init(leaf)) for leaf in (wide, _leaf(name, shape, dtype))]
    return None if kinds[0] == kinds[1] else f"{tx.name} (its state depends on the dtype)"


def begins_with_parameters(
    tx: GradientTransformation, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> str | None:
    """Where the first state of a chain depends on the values of a parameter; None if nowhere.

    Args:
        tx: the chain.
        name: of the leaf.
        shape: its own.
        dtype: its own.
    """
    leaf = _leaf(name, shape, dtype)
    mode = _Unread(leaf.values())
    try:
        with torch.no_grad(), mode:
            mode.check(tree.leaves(tx.init(leaf)))
    except Exception as error:
        return _said(error, tx.name)
    return None


def _leaf(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: torch.empty(shape, dtype=dtype, device="meta")}


def _kinds(state: Any) -> list[Any]:
    return [(x.shape, x.dtype) for x in tree.leaves(state) if isinstance(x, Tensor)]


class _Unread(_python_dispatch.TorchDispatchMode):
    """Raises at the first operator that reads the values of some tensors.

    Args:
        tensors: which; views of them count too.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._views = {id(x): x for x in tensors}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(id(x) in self._views for x in _tensors((args, kwargs))):
            if func.is_view:
                self._views.update((id(x), x) for x in _tensors(out))
            elif func._schema.name[6:] not in _LIKE:
                raise _NotPointwiseError(func._schema.name)
        return out

    def check(self, values: Any) -> None:
        """Raise where one of the tensors is in a tree."""
        if any(id(x) in self._views for x in _tensors(values)):
            raise _NotPointwiseError("keeps a parameter")


def _run(
    tx: GradientTransformation,
    params: Mapping[str, Tensor],
    mode: Any,
    extra: Mapping[str, Any],
    updates: PyTree = None,
    grads: PyTree = None,
) -> str | None:
    """Two updates under a mode; what it says, or what a chain says that needs values.

    Args:
        tx: the chain.
        params: parameters.
        mode: the mode.
        extra: what else the chain gets.
        updates: what it is given; by default the parameters.
        grads: the gradients of the outermost chain, if they are not that.
    """
    names = {name for _, m in members(tx) for name in getattr(m, "needs_extra", ())}
    updates = params if updates is None else updates
    given = {**extra, **dict.fromkeys(names, updates)}
    if grads is not None:
        given["grads"] = grads
    try:
        with torch.no_grad(), mode:
            state = tx.init(params)
            value = torch.empty((), dtype=torch.float32, device="meta")
            for _ in range(2):
                out = tx.update(updates, state, params, value=value, **given)
                mode.check(_values(out))
                state = out[1]
    except Exception as error:
        return _said(error, tx.name)
    return None


def _said(error: Exception, name: str) -> str:
    """The innermost transform that was running, or else a name, and what an error says."""
    what = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{_member(error, name)} ({what})".lstrip()


def _numbers(values: Any) -> Iterator[Any]:
    """What an operator was given besides tensors with elements: numbers, also in 0-d tensors."""
    for x in _pytree.tree_leaves(values):
        if isinstance(x, Tensor):
            if not x.is_meta and x.numel() == 1:
                yield repr(x.item())
        elif isinstance(x, (bool, int, float, complex)):
            yield repr(x)


def _values(out: tuple[Any, Any]) -> list[Any]:
    """The leaves of updates and state."""
    return [x for part in out for x in tree.leaves(part)]


def _tensors(values: Any) -> Iterator[Tensor]:
    return (x for x in _pytree.tree_leaves(values) if isinstance(x, Tensor))


def meeting(tx: GradientTransformation, dtypes: frozenset[torch.dtype]) -> str | None:
    """Where elements of a leaf meet in a chain, or None if nowhere.

    Args:
        tx: the chain.
        dtypes: of its parameters.

    Returns:
        The member and the operator; also where the chain cannot be run without values.
    """
    for dtype in dtypes:
        params = {
            name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in _SHAPES.items()
        }
        if why := _run(tx, params, _Pointwise(), {}):
            return why
    return None


def _member(error: Exception, name: str) -> str:
    """The innermost transform that was running, or else a name."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        own = frame.f_locals.get("self")
        if isinstance(own, Plain) and hasattr(own, "name"):
            name = own.name
    return name
