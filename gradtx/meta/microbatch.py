"""A function of a batch, computed part by part: what does not fit into memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.plain import plain
from ..core.tree import PyTree
from .scan import rematerialized

_WAYS = ("sum", "mean", "concat")


class _Slot(NamedTuple):
    """An argument with a batch dimension: its index or name, and the dimension."""

    key: int | str
    dim: int


def microbatch(
    fn: Callable[..., PyTree],
    argnums: int | Sequence[int],
    size: int | None,
    accumulate: PyTree = "sum",
    *,
    argnames: str | Sequence[str] = (),
    in_dims: int | Sequence[int] = 0,
    remat: bool = False,
) -> Callable[..., PyTree]:
    """The function that calls ``fn`` with one part of the batch after another.

    Parts are runs of neighbours. The memory that is needed at once is that of one part; where the
    result is differentiated, that needs ``remat``, while gradients inside ``fn`` need nothing.
    Half precisions are added up in float32 and rounded once, bools as int64.

    Args:
        fn: a function of trees of tensors.
        argnums: the positional arguments that have a batch dimension.
        size: examples in a part, which must divide the batch; None for one part.
        accumulate: what is made of the parts' results: their "sum", their "mean", or "concat" along
            the first dimension; one for all, or a tree that the result begins like.
        argnames: the keyword arguments that have a batch dimension.
        in_dims: that dimension, one for all or one for each of ``argnums`` and then ``argnames``.
        remat: keep only the arguments for the backward pass and compute parts again there.

    Raises:
        ValueError: a value outside its range; at a call, batches that differ or that ``size`` does
            not divide, or the mean of integers.
        TreeMismatchError: results that ``accumulate`` does not fit.

    >>> import torch, gradtx as gx
    >>> def loss(w, x):
    ...     return (x * w).square().sum()
    >>> grad = gx.meta.microbatch(torch.func.grad(loss), argnums=1, size=2)
    >>> grad(torch.tensor(1.0), torch.arange(6.0))
    tensor(110.)
    """
    argnums, in_dims = plain(argnums), plain(in_dims)
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    names = (argnames,) if isinstance(argnames, str) else tuple(argnames)
    keys: tuple[int | str, ...] = (*positions, *names)
    dims = (in_dims,) * len(keys) if isinstance(in_dims, int) else tuple(in_dims)
    if len(dims) != len(keys):
        raise ValueError(
            f"microbatch: in_dims must have one dimension for each of {list(keys)}, got {in_dims}"
        )
    size = plain(size)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"microbatch: size must be an integer >= 1 or None, got {size!r}")
    if wrong := [way for way in tree.flatten(accumulate)[0] if way not in _WAYS]:
        raise ValueError(f"microbatch: accumulate must be one of {_WAYS}, got {wrong[0]!r}")
    slots = [_Slot(key, dim) for key, dim in zip(keys, dims, strict=True)]

    def call(given: PyTree, _: PyTree) -> tuple[PyTree, PyTree]:
        args, kwargs = given
        return (), fn(*args, **kwargs)

    run = rematerialized(call) if remat else call

    @wraps(fn)
    def in_parts(*args: Any, **kwargs: Any) -> PyTree:
        length = _length(slots, args, kwargs)
        step = length if size is None else size
        if step < 1 or length % step:
            raise ValueError(f"microbatch: size must divide the batch of {length}, got {size}")
        found: list[_Accumulated] = []
        spec: Any = None
        for start in range(0, length, step):
            _, out = run(_part(slots, args, kwargs, start, step), ())
            if spec is None:
                parts, spec = tree.flatten(out)
                found = [_Accumulated(way) for way in _of_leaves(accumulate, out)]
            else:
                parts = tree.leaves_like("microbatch", spec, out, "result", "first result")
            for total, part in zip(found, parts, strict=True):
                total.add(part)
        return spec.unflatten([total.result() for total in found])

    return in_parts


def _of_leaves(accumulate: PyTree, out: PyTree) -> list[str]:
    """What is made of every leaf."""
    ways, spec = tree.flatten(accumulate)
    parts = tree.flatten_like("microbatch", spec, out, "result", "accumulate")
    counts = [len(tree.flatten(part)[0]) for part in parts]
    return [way for way, n in zip(ways, counts, strict=True) for _ in range(n)]


class _Accumulated:
    """What is made of one leaf of the results."""

    def __init__(self, way: str) -> None:
        self.way, self.count = way, 0
        self.total: Any = None
        self.dtype: Any = None
        self.parts: list[Tensor] = []

    def add(self, part: Any) -> None:
        """The next part's."""
        if part is None:
            return
        self.count += 1
        if self.way == "mean" and not (part.is_floating_point() or part.is_complex()):
            raise ValueError(f"microbatch: the mean of {part.dtype} is no {part.dtype}; take sums")
        if self.way == "concat":
            self.parts.append(part if part.ndim else part[None])
            return
        self.dtype = torch.int64 if part.dtype == torch.bool else part.dtype
        part = part.to(tree.accumulator_dtype(self.dtype))
        self.total = part if self.total is None else self.total + part

    def result(self) -> Any:
        """Of all parts."""
        if self.way == "concat":
            return torch.cat(self.parts) if self.parts else None
        if not self.count:
            return None
        total = self.total / self.count if self.way == "mean" else self.total
        return total.to(self.dtype)


def _length(slots: Sequence[_Slot], args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Examples in the batch."""
    lengths = {
        x.shape[slot.dim] for slot in slots for x in tree.leaves(_argument(slot, args, kwargs))
    }
    if len(lengths) != 1:
        raise ValueError(
            f"microbatch: arguments must have one length of batch, got {sorted(lengths)}"
        )
    return int(next(iter(lengths)))


def _argument(slot: _Slot, args: Sequence[Any], kwargs: dict[str, Any]) -> PyTree:
    try:
        return args[slot.key] if isinstance(slot.key, int) else kwargs[slot.key]
    except (IndexError, KeyError):
        raise ValueError(f"microbatch: the call has no argument {slot.key!r}") from None


def _part(
    slots: Sequence[_Slot], args: Sequence[Any], kwargs: dict[str, Any], start: int, size: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one call."""
    new_args, new_kwargs = list(args), dict(kwargs)
    for slot in slots:
        part = tree.map(
            lambda x, dim=slot.dim: x.narrow(dim, start, size), _argument(slot, args, kwargs)
        )
        if isinstance(slot.key, int):
            new_args[slot.key] = part
        else:
            new_kwargs[slot.key] = part
    return tuple(new_args), new_kwargs
