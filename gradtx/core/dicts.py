"""States as plain nested dicts of tensors and numbers, and back: what checkpoints hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Number
from typing import Any, NamedTuple

import optree
from torch import Tensor

from .errors import TreeMismatchError

NAMESPACE = "gradtx"


class _Level(NamedTuple):
    names: list[str]
    children: list[Any]
    rebuild: Callable[[Iterable[Any]], Any]


def to_dict(state: Any) -> dict[str, Any]:
    """A state as nested dicts of tensors and numbers, as every checkpoint takes it.

    ``torch.load`` refuses the named tuples of a state by default and distributed checkpoints pickle
    them; both take this form. Keys are those of dicts, names of fields, and positions. Empty
    containers and missing leaves are left out. Tensors are detached and share their memory.

    Args:
        state: what ``init`` or ``update`` of a transform gave, or any tree of tensors and numbers.

    Raises:
        TypeError: a leaf is something else, such as a function (names its path).
        ValueError: two keys of a dict read alike, as 1 and "1" do.

    >>> import torch, gradtx as gx
    >>> gx.tree.to_dict(gx.trace(0.9).init({"w": torch.zeros(1)}))
    {'w': {'trace': tensor([0.])}}
    """
    _check_state("tree.to_dict", state)
    plain = _to_plain(state, "")
    if not isinstance(plain, dict):
        raise TypeError(f"tree.to_dict: expected a tree, got a lone {type(state).__name__}")
    return plain


def from_dict(like: Any, plain: Mapping[str, Any]) -> Any:
    """A state from the nested dicts that ``to_dict`` made.

    Args:
        like: a state of the wanted structure, such as ``tx.init(params)``; values do not matter.
        plain: the nested dicts. Tensors are copied, to the device of those in ``like``.

    Raises:
        TreeMismatchError: entries are missing or unknown, or a tensor has another shape or dtype
            (names all their paths).

    >>> import torch, gradtx as gx
    >>> like = gx.trace(0.9).init({"w": torch.zeros(1)})
    >>> gx.tree.from_dict(like, {"w": {"trace": torch.ones(1)}})
    {'w': TraceState(trace=tensor([1.]))}
    """
    _check_state("tree.from_dict", like)
    wrong: list[str] = []
    state = _from_plain(like, plain, "", wrong)
    if wrong:
        raise TreeMismatchError(f"tree.from_dict: the state does not fit: {'; '.join(wrong)}")
    return state


def _check_state(who: str, state: Any) -> None:
    """Raise for what holds a state, or makes one.

    Raises:
        TypeError: says what to write.
    """
    name = type(state).__name__
    if hasattr(state, "state_dict"):
        raise TypeError(f"{who}: expected a state, got the object {name}; it has state_dict()")
    if hasattr(state, "init") and hasattr(state, "update"):
        raise TypeError(
            f"{who}: expected a state, got the transform {name}; init(params) makes one"
        )


def kind(value: Any) -> str:
    """What a checkpoint must agree in, in words: dtype and shape of a tensor, else the type."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{value.dtype} of shape {tuple(value.shape)}"


def _level(node: Any) -> _Level | None:
    """One level of a container, None for a leaf."""
    if optree.tree_is_leaf(node, none_is_leaf=True, namespace=NAMESPACE):
        return None
    children, metadata, entries, unflatten = optree.tree_flatten_one_level(
        node, none_is_leaf=True, namespace=NAMESPACE
    )
    names = [str(entry) for entry in getattr(node, "_fields", entries)]
    if len(set(names)) < len(names):
        raise ValueError(f"tree.to_dict: keys of a dict read alike: {list(entries)}")
    return _Level(names, children, lambda values: unflatten(metadata, tuple(values)))


def _to_plain(node: Any, path: str) -> Any:
    if isinstance(node, Tensor):
        return node.detach()
    level = _level(node)
    if level is not None:
        pairs = zip(level.names, level.children, strict=True)
        plain = {name: _to_plain(child, _join(path, name)) for name, child in pairs}
        return {name: value for name, value in plain.items() if not _is_empty(value)}
    if isinstance(node, Number):
        return node.item() if hasattr(node, "item") else node
    if node is not None:
        what = getattr(node, "__qualname__", repr(node))
        raise TypeError(
            f"tree.to_dict: {path or 'the root'} is a {type(node).__name__} ({what}); a checkpoint "
            "holds tensors and numbers, make the rest anew when it is loaded"
        )
    return node


def _from_plain(like: Any, plain: Any, path: str, wrong: list[str]) -> Any:
    level = None if isinstance(like, Tensor) else _level(like)
    if level is None:
        return _leaf(like, plain, path or "the root", wrong)
    if plain is None:  # empty containers are left out
        plain = {}
    if not isinstance(plain, Mapping):
        wrong.append(f"{path or 'the root'} is {kind(plain)}, needed is a dict")
        return like
    wrong += [f"{_join(path, k)} is unknown" for k in plain if k not in level.names]
    pairs = zip(level.names, level.children, strict=True)
    return level.rebuild([_from_plain(c, plain.get(n), _join(path, n), wrong) for n, c in pairs])


def _leaf(like: Any, value: Any, path: str, wrong: list[str]) -> Any:
    if value is None and like is not None:
        wrong.append(f"{path} is missing")
    elif isinstance(like, Tensor) or isinstance(value, Tensor) or like is None:
        if kind(value) != kind(like):
            wrong.append(f"{path} is {kind(value)}, needed is {kind(like)}")
        elif isinstance(value, Tensor):
            device = value.device if like.device.type == "meta" else like.device
            return value.detach().to(device, copy=True)
    return value


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
