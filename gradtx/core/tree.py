"""Pytree helpers: thin names over optree, with None as "no leaf here this time".

Trees are optree's (dicts, lists, tuples, NamedTuples, classes registered globally or in the
namespace ``"gradtx"``). A None leaf passes through every function untouched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import optree
import torch
from torch import Tensor

from .dicts import NAMESPACE as NAMESPACE
from .dicts import from_dict as from_dict
from .dicts import to_dict as to_dict
from .errors import TreeMismatchError
from .leaves import STRUCTURED
from .leaves import choose_leaf as _choose_leaf
from .leaves import densify_leaf as _densify_leaf
from .roots import root
from .sums import element_sum

# Dicts keep their own order, like parameter groups do. The setting lasts as long as this object.
_INSERTION_ORDER = optree.dict_insertion_ordered(True, namespace=NAMESPACE)
_INSERTION_ORDER.__enter__()
PyTree: TypeAlias = Any


def flatten(tree: PyTree) -> tuple[list[Any], optree.PyTreeSpec]:
    """Leaves (None included) and structure.

    >>> import gradtx as gx
    >>> gx.tree.flatten({"b": None, "a": 1})[0]
    [None, 1]
    """
    return optree.tree_flatten(tree, none_is_leaf=True, namespace=NAMESPACE)


def leaves(tree: PyTree) -> list[Any]:
    """The leaves that are there (None left out).

    >>> import gradtx as gx
    >>> gx.tree.leaves({"b": None, "a": 1})
    [1]
    """
    return [x for x in flatten(tree)[0] if x is not None]


def names(spec: optree.PyTreeSpec) -> list[str]:
    """Dotted path of every leaf of a structure.

    >>> import gradtx as gx
    >>> gx.tree.names(gx.tree.flatten({"a": [1, 2]})[1])
    ['a.0', 'a.1']
    """
    if torch.compiler.is_compiling():
        return _names(spec)
    try:
        return list(_kept_names(spec))
    except TypeError:  # what a container keeps of itself cannot be hashed, or keys may not be kept
        return _names(spec)


def _names(spec: optree.PyTreeSpec) -> list[str]:
    return [".".join(str(k) for k in path) for path in spec.paths()]


@functools.lru_cache(maxsize=256)
def _kept_names(spec: optree.PyTreeSpec) -> list[str]:
    if not all(type(k) in (str, int) for path in spec.paths() for k in path):
        raise TypeError("keys of other types may notice that they are read")
    return _names(spec)


def flatten_like(
    who: str, spec: optree.PyTreeSpec, tree: PyTree, what: str, against: str = "update"
) -> list[Any]:
    """The subtrees of ``tree`` at the leaves of ``spec``.

    Raises:
        TreeMismatchError: ``tree`` does not have that structure at the top; names ``who``.

    >>> import gradtx as gx
    >>> gx.tree.flatten_like("me", gx.tree.flatten({"a": 1})[1], {"a": (2, 3)}, "state")
    [(2, 3)]
    """
    try:
        return spec.flatten_up_to(tree)
    except ValueError as error:
        raise TreeMismatchError(
            f"{who}: the {what} tree does not match the {against} tree: "
            f"{_difference(spec, tree, against)}"
        ) from error


def matches(spec: optree.PyTreeSpec, tree: PyTree) -> bool:
    """Whether ``tree`` has this structure at the top; no values are looked at.

    >>> import gradtx as gx
    >>> spec = gx.tree.flatten({"a": 1})[1]
    >>> gx.tree.matches(spec, {"a": (2, 3)}), gx.tree.matches(spec, {"b": 2})
    (True, False)
    """
    if not torch.compiler.is_compiling():
        return spec.is_prefix(optree.tree_structure(tree, none_is_leaf=True, namespace=NAMESPACE))
    try:  # what stands for optree there has no such method; outside, the error prints all values
        spec.flatten_up_to(tree)
    except ValueError:
        return False
    return True


def _difference(spec: Any, tree: Any, against: str, path: str = "") -> str:
    """Where ``tree`` first leaves the structure of ``spec``; no values are shown."""
    here = f"at {path!r} " if path else "at the root "
    want, got = spec.type or object, type(tree)
    if want is not got and not (issubclass(got, dict) and issubclass(want, dict)):
        return f"{here}it has a {got.__name__}, the {against}s have a {want.__name__}"
    children, _, entries, _ = optree.tree_flatten_one_level(
        tree, none_is_leaf=True, namespace=NAMESPACE
    )
    if list(entries) != spec.entries():
        return f"{here}it has {list(entries)}, the {against}s have {spec.entries()}"
    for key, child_spec, child in zip(spec.entries(), spec.children(), children, strict=True):
        if not matches(child_spec, child):
            return _difference(child_spec, child, against, f"{path}.{key}".lstrip("."))
    return f"{here}two containers hold different data"


def leaves_like(
    who: str, spec: optree.PyTreeSpec, tree: PyTree, what: str, against: str = "update"
) -> list[Any]:
    """Like ``flatten_like``, for a tree that must end where ``spec`` ends.

    >>> import gradtx as gx
    >>> gx.tree.leaves_like("me", gx.tree.flatten({"a": 1})[1], {"a": 2}, "parameter")
    [2]
    """
    out = flatten_like(who, spec, tree, what, against)
    for i, x in enumerate(out):
        if not optree.tree_is_leaf(x, none_is_leaf=True, namespace=NAMESPACE):
            name, kind = names(spec)[i], type(x).__name__
            raise TreeMismatchError(
                f"{who}: leaf {name!r}: the {against} is one leaf, the {what} a {kind}"
            )
    return out


def map(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Apply ``fn`` leaf by leaf; where the first tree has None the result has None.

    Args:
        fn: called with one leaf of ``tree`` and the subtrees of ``rest`` at the same place.
        tree: any pytree.
        rest: trees whose upper structure is that of ``tree``.

    Raises:
        TreeMismatchError: a tree of ``rest`` has another structure.

    >>> import gradtx as gx
    >>> gx.tree.map(lambda x, y: x + y, {"a": 1, "b": None}, {"a": 10, "b": 2})
    {'a': 11, 'b': None}
    """
    first, spec = flatten(tree)
    others = [flatten_like("tree.map", spec, r, "second", "first") for r in rest]
    out = [None if x is None else fn(x, *(o[i] for o in others)) for i, x in enumerate(first)]
    return spec.unflatten(out)


def map_with_name(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Like ``map``, with the leaf's dotted path as first argument.

    >>> import gradtx as gx
    >>> gx.tree.map_with_name(lambda name, x: f"{name}={x}", {"a": [1, 2]})
    {'a': ['a.0=1', 'a.1=2']}
    """
    _, spec = flatten(tree)
    return map(lambda x, name, *more: fn(name, x, *more), tree, spec.unflatten(names(spec)), *rest)


def zeros_like(tree: PyTree, dtype: torch.dtype | None = None) -> PyTree:
    """Zeros of the same shapes.

    >>> import torch, gradtx as gx
    >>> gx.tree.zeros_like({"a": torch.ones(2)})
    {'a': tensor([0., 0.])}
    """
    return map(lambda x: torch.zeros_like(x, dtype=dtype), tree)


def cast(tree: PyTree, dtype: torch.dtype | None) -> PyTree:
    """Floating-point tensors in another dtype; None leaves all as it is.

    >>> import torch, gradtx as gx
    >>> gx.tree.cast({"a": torch.ones(1), "n": torch.tensor(3)}, torch.float64)
    {'a': tensor([1.], dtype=torch.float64), 'n': tensor(3)}
    """
    if dtype is None:
        return tree
    return map(
        lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, tree
    )


def where(condition: Tensor, tree: PyTree, other: PyTree) -> PyTree:
    """Choose between two trees of one structure by a 0-d boolean tensor, without branching.

    The result has the dtypes of ``tree``.

    >>> import torch, gradtx as gx
    >>> gx.tree.where(torch.tensor(False), {"a": torch.ones(1)}, {"a": torch.zeros(1)})
    {'a': tensor([0.])}
    """
    return map(
        lambda x, y: _choose_leaf(condition, x, y) if isinstance(x, (Tensor, *STRUCTURED)) else x,
        tree,
        other,
    )


def vdot(a: PyTree, b: PyTree) -> Tensor:
    """Inner product of two trees, accumulated in at least float32.

    >>> import torch, gradtx as gx
    >>> gx.tree.vdot({"a": torch.ones(3)}, {"a": torch.full((3,), 2.0)})
    tensor(6.)
    """
    a, b = map(_densify_leaf, a), map(_densify_leaf, b)
    products = map(lambda x, y: element_sum(accumulator(x) * accumulator(y)), a, b)
    return total(leaves(products))


def global_norm(tree: PyTree) -> Tensor:
    """Euclidean norm of all leaves as one vector, accumulated in at least float32.

    >>> import torch, gradtx as gx
    >>> gx.tree.global_norm({"a": torch.tensor([3.0]), "b": torch.tensor([4.0]), "c": None})
    tensor(5.)
    """
    return root(total([squared_norm(x) for x in leaves(tree)]))


def squared_norm(x: Any) -> Tensor:
    """Sum of squares of one leaf, a structured update too, in at least float32.

    >>> import torch, gradtx as gx
    >>> gx.tree.squared_norm(torch.tensor([3.0, 4.0]))
    tensor(25.)
    """
    return element_sum(accumulator(_densify_leaf(x)).square())


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic and state use: float32 for half precisions, float64 stays.

    >>> import torch, gradtx as gx
    >>> gx.tree.accumulator_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def accumulator(x: Tensor) -> Tensor:
    """The tensor in its accumulator dtype.

    >>> import torch, gradtx as gx
    >>> gx.tree.accumulator(torch.ones(1, dtype=torch.float16))
    tensor([1.])
    """
    wide = accumulator_dtype(x.dtype)
    return x if x.dtype == wide else x.to(wide)


def total(scalars: Sequence[Tensor]) -> Tensor:
    """Sum of 0-d tensors, which may lie on several devices.

    >>> import torch, gradtx as gx
    >>> gx.tree.total([torch.tensor(1.0), torch.tensor(2.0)])
    tensor(3.)
    """
    if not scalars:
        return torch.zeros((), dtype=torch.float32, device="cpu")
    out = scalars[0]
    for x in scalars[1:]:
        out = out + x.to(out.device)
    return out


def map_params(fn: Callable[..., Any], state: PyTree, params: PyTree) -> PyTree:
    """Apply ``fn(state_tensor, param)`` to the tensors of a state that are shaped like parameters.

    Counters, factored statistics and shared scalars stay as they are. Use it to cast, shard or
    move the parameter-shaped part of any state.

    >>> import torch, gradtx as gx
    >>> params = {"w": torch.ones(2)}
    >>> state = gx.scale_by_adam().init(params)
    >>> gx.tree.map_params(lambda s, p: s + p, state, params)["w"].mu
    tensor([1., 1.])
    """
    param_leaves, spec = flatten(params)

    def like_params(node: PyTree) -> bool:
        return matches(spec, node)

    def at_leaf(sub: PyTree, param: Any) -> PyTree:
        if param is None:
            return sub
        return map(lambda s: fn(s, param) if _is_buffer(s) and s.shape == param.shape else s, sub)

    def visit(node: PyTree) -> PyTree:
        if not like_params(node):
            return node
        return spec.unflatten(
            [at_leaf(s, p) for s, p in zip(spec.flatten_up_to(node), param_leaves, strict=True)]
        )

    return optree.tree_map(
        visit, state, is_leaf=like_params, none_is_leaf=True, namespace=NAMESPACE
    )


def _is_buffer(s: Any) -> bool:
    """A tensor that is no counter: counters are integers without dimensions."""
    return isinstance(s, Tensor) and (s.ndim > 0 or s.is_floating_point())


def children(node: PyTree) -> list[tuple[str, Any]] | None:
    """Named children of a container of a state, None for a value.

    >>> import gradtx as gx
    >>> gx.tree.children({"a": 1}), gx.tree.children([5]), gx.tree.children(3.0)
    ([('a', 1)], [('0', 5)], None)
    """
    if isinstance(node, Mapping):
        return [(str(k), v) for k, v in node.items()]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return list(zip(node._fields, node, strict=True))
    if isinstance(node, (list, tuple)):
        return [(str(i), v) for i, v in enumerate(node)]
    return None


def rebuild(node: PyTree, values: Sequence[Any]) -> PyTree:
    """A container like ``node`` with other children.

    >>> import gradtx as gx
    >>> gx.tree.rebuild({"a": 1}, [2])
    {'a': 2}
    """
    if isinstance(node, Mapping):
        return type(node)(zip(node.keys(), values, strict=True))  # type: ignore[call-arg]
    return type(node)(*values) if hasattr(node, "_fields") else type(node)(values)


def get_all(tree: PyTree, name: str) -> dict[str, Any]:
    """Every field or key called ``name`` in a state, by the dotted path of its owner.

    >>> import torch, gradtx as gx
    >>> state = gx.trace(0.9).init({"w": torch.ones(1), "b": torch.ones(1)})
    >>> gx.tree.get_all(state, "trace")
    {'w': tensor([0.]), 'b': tensor([0.])}
    """
    found: dict[str, Any] = {}

    def visit(node: PyTree, path: tuple[str, ...]) -> None:
        for key, child in children(node) or ():
            if key == name:
                found[".".join(path)] = child
            else:
                visit(child, (*path, key))

    visit(tree, ())
    return found


def get(tree: PyTree, name: str, default: Any = KeyError) -> Any:
    """The one field or key called ``name`` in a state.

    Args:
        tree: the state.
        name: of the field or key.
        default: what is given where there is none; else that is an error.

    Raises:
        KeyError: there is none, or there are several (the message lists their owners).

    >>> import torch, gradtx as gx
    >>> gx.tree.get(gx.trace(0.9).init({"w": torch.ones(2)}), "trace")
    tensor([0., 0.])
    """
    found = get_all(tree, name)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found and default is not KeyError:
        return default
    if not found:
        raise KeyError(f"tree.get: nothing is called {name!r}")
    raise KeyError(f"tree.get: {len(found)} places are called {name!r}: {list(found)}")


def set(tree: PyTree, **values: Any) -> PyTree:
    """A copy of a state in which every field or key with a given name has a new value.

    Raises:
        KeyError: a name does not occur.

    >>> import torch, gradtx as gx
    >>> state = gx.trace(0.9).init({"w": torch.ones(1)})
    >>> gx.tree.set(state, trace=torch.full((1,), 5.0))
    {'w': TraceState(trace=tensor([5.]))}
    """
    for name in values:
        if not get_all(tree, name):
            raise KeyError(f"tree.set: nothing is called {name!r}")

    def visit(node: PyTree) -> PyTree:
        inside = children(node)
        if not inside:
            return node
        return rebuild(node, [values[k] if k in values else visit(v) for k, v in inside])

    return visit(tree)
