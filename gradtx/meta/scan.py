"""A loop over steps with a carry, as ``lax.scan``, and windows of one that free their graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core import tree
from ..core.errors import TreeMismatchError, shape_mismatch
from ..core.forward import forward_rule
from ..core.plain import plain
from ..core.tree import PyTree
from .leaves import NoCaptures, jvp, split, vjp

StepFunction = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


def scan(
    step: StepFunction,
    carry: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    remat: bool = False,
) -> tuple[PyTree, PyTree]:
    """Run ``carry, y = step(carry, x)`` over the first dimension of ``xs``.

    Under ``torch.compile`` the steps become one graph.

    Args:
        step: the function; the carry it gives has the structure, shapes and dtypes of what it got.
        carry: tree of tensors.
        xs: tree of tensors of one length; None if there is nothing to run over.
        length: number of steps, needed where ``xs`` has no tensor.
        remat: keep only the carries for the backward pass and compute steps again there. Inside
            ``torch.func`` transforms what is differentiated must then come through carry and xs.

    Returns:
        The last carry, and the ys stacked.

    Raises:
        ValueError: no length, lengths that differ, or no step.
        TreeMismatchError: a carry of another structure, shape or dtype (names the leaf).

    >>> import torch, gradtx as gx
    >>> total, sums = gx.meta.scan(lambda c, x: (c + x, c + x), torch.tensor(0), torch.arange(4))
    >>> total, sums
    (tensor(6), tensor([0, 1, 3, 6]))
    """
    run = rematerialized(step) if remat else step
    ys = []
    for i in range(_length(xs, length)):
        new, y = run(carry, tree.map(lambda x, i=i: x[i], xs))
        _check_carry(carry, new)
        carry = new
        ys.append(y)
    return carry, tree.map(lambda *parts: torch.stack(parts), *ys)


def truncated(
    step: StepFunction, carry: PyTree, xs: PyTree = None, length: int | None = None, *, window: int
) -> Iterator[tuple[PyTree, PyTree]]:
    """A scan in windows: each starts from constants, so its graph can be freed before the next.

    Args:
        step: as in ``scan``.
        carry: tree of tensors.
        xs: tree of tensors of one length, or None.
        length: number of steps where ``xs`` has no tensor.
        window: steps of a window, >= 1; the last one may be shorter.

    Yields:
        Carry and stacked ys after every window, whose graph goes back to its start. Send in
        another carry to go on from that one.

    Raises:
        ValueError: as in ``scan``, or ``window`` < 1.

    >>> import torch, gradtx as gx
    >>> w = torch.tensor(2.0, requires_grad=True)
    >>> loop = gx.meta.truncated(lambda c, _: (c * w, c), torch.tensor(1.0), length=4, window=2)
    >>> [torch.autograd.grad(c, w)[0].item() for c, _ in loop]
    [4.0, 16.0]
    """
    window = plain(window)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"truncated: window must be an integer >= 1, got {window!r}")
    total = _length(xs, length)
    for start in range(0, total, window):
        end = min(start + window, total)
        part = tree.map(lambda x, a=start, b=end: x[a:b], xs)
        new, ys = scan(step, stop_gradient(carry), part, end - start)
        carry = stop_gradient(new)
        given = yield new, ys
        del new, ys  # the caller decides how long the graph lives
        carry = carry if given is None else given


def stop_gradient(values: PyTree) -> PyTree:
    """The tree as constants: no derivative of any kind goes through.

    >>> import torch, gradtx as gx
    >>> torch.func.grad(lambda x: x * gx.stop_gradient(x))(torch.tensor(3.0))
    tensor(3.)
    """
    return tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, values)


def _length(xs: PyTree, length: int | None) -> int:
    lengths = {x.shape[0] if x.ndim else None for x in tree.leaves(xs)}
    if length is not None:
        lengths.add(length)
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"scan: give xs of one length, or length; got lengths {sorted(map(str, lengths))}"
        )
    (n,) = lengths
    if n < 1:  # type: ignore[operator]
        raise ValueError("scan: there must be at least one step, got none")
    return n  # type: ignore[return-value]


def _check_carry(old: PyTree, new: PyTree) -> None:
    leaves, spec = tree.flatten(old)
    news = tree.leaves_like("scan", spec, new, "new carry", "carry")
    for name, a, b in zip(tree.names(spec), leaves, news, strict=True):
        if isinstance(a, Tensor) != isinstance(b, Tensor):
            raise TreeMismatchError(f"scan: carry {name!r} is a {type(b).__name__} after a step")
        if isinstance(a, Tensor) and a.shape != b.shape:
            raise shape_mismatch("scan", name, "carry", a.shape, "new carry", b.shape)
        if isinstance(a, Tensor) and a.dtype != b.dtype:
            raise TreeMismatchError(f"scan: carry {name!r} goes from {a.dtype} to {b.dtype}")


class _Again(torch.autograd.Function):
    """A function whose insides are computed again when it is differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(fn: Any, count: int, *tensors: Tensor) -> Any:
        floats, others = fn(tensors[:count], tensors[count:])
        given = set(map(id, tensors))  # torch takes no input as an output
        return tuple(x.view_as(x) if id(x) in given else x for x in (*floats, *others))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.fn, ctx.count, *tensors = inputs
        ctx.mark_non_differentiable(*(x for x in output if not x.is_floating_point()))
        ctx.is_float = [x.is_floating_point() for x in output]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        floats, others = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        _, pull = vjp(lambda *xs: tuple(ctx.fn(xs, others)[0]), *floats)
        kept = tuple(g for g, yes in zip(grads, ctx.is_float, strict=True) if yes)
        return (None, None, *pull(kept), *(None for _ in others))

    @staticmethod
    @forward_rule
    def jvp(ctx: Any, _: Any, __: Any, *tangents: Any) -> Any:
        floats, others = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        along = tuple(
            torch.zeros_like(x) if t is None else t for x, t in zip(floats, tangents, strict=False)
        )
        outs = jvp(lambda *xs: tuple(ctx.fn(xs, others)[0]), tuple(floats), along)[1]
        given = iter(outs)
        return tuple(next(given) if yes else None for yes in ctx.is_float)


def rematerialized(step: StepFunction) -> StepFunction:
    """The step, of which only what it is given is kept and which is computed again if needed."""

    def run(carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
            return checkpoint(step, carry, x, use_reentrant=False, preserve_rng_state=False)
        given = split((carry, x))
        seen: list[Any] = []

        def flat(floats: Any, others: Any) -> Any:
            with NoCaptures("scan", "carry and xs"):
                out = split(step(*given.rebuild(floats, others)))
            seen[:] = [out.rebuild, len(out.floats)]
            return out.floats, out.others

        outs = _Again.apply(flat, len(given.floats), *given.floats, *given.others)
        rebuild, count = seen
        return rebuild(outs[:count], outs[count:])

    return run
