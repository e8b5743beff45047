"""Further arguments of a torch optimizer's step, such as a tree with a diagonal of the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.declared import DeclaredTransform
from ..core.errors import described, shape_mismatch
from ..core.functions import transformation
from ..core.names import suggestion
from ..core.protocol import GradientTransformation, members
from ..core.reduce import Reduce
from ..core.tree import accumulator
from .leaves import Leaves


def arguments(
    who: str,
    given: Mapping[str, Any],
    names: Mapping[Tensor, str],
    buckets: Iterable[tuple[GradientTransformation, Any]],
) -> dict[str, Any]:
    """What chains get besides gradients and the loss.

    Args:
        who: for errors.
        given: the arguments.
        names: of all parameters.
        buckets: the chains, with their parameters.

    Raises:
        TypeError, ValueError: what no member takes, or what does not fit the parameters.
    """
    check_known(who, given, [tx for tx, _ in buckets])
    there = {name: value for name, value in given.items() if value is not None}
    return {name: per_parameter(who, name, value, names) for name, value in there.items()}


def with_mean_value(
    extra: Mapping[str, Any],
    chains: Iterable[GradientTransformation],
    reduce: Callable[[], Reduce],
    like: Tensor,
) -> Mapping[str, Any]:
    """The arguments with the mean of all ranks' losses, where a member asks for the loss.

    Every rank has that of its part of the batch; gradients are those of the mean.

    Args:
        extra: the arguments.
        chains: that get them.
        reduce: what gives means over the ranks, which all call this.
        like: where they compute.
    """
    value = extra.get("value")
    if value is None or not any(
        getattr(member, "needs_value", False) for tx in chains for _, member in members(tx)
    ):
        return extra
    if hasattr(value, "full_tensor"):
        value = value.full_tensor()
    value = torch.as_tensor(value, dtype=getattr(value, "dtype", like.dtype), device=like.device)
    # The sum of losses in float16 may be infinite where their mean is not.
    return {**extra, "value": reduce().mean(accumulator(value.detach()))}


def check_known(who: str, given: Iterable[str], chains: Iterable[GradientTransformation]) -> None:
    """Raise for an argument that no member has declared.

    Functions of the user's may take any.

    Raises:
        TypeError: there is one; says which was meant.
    """
    every = [member for tx in chains for _, member in members(tx)]
    if any(isinstance(m, transformation) or not is_own(m) for m in every):
        return
    known = {"value"}
    for member in every:
        if isinstance(member, DeclaredTransform):
            known.update((*member.needs_extra, *member.takes_extra))
    for name in given:
        if name not in known:
            hint = suggestion(name, known) or ";"
            raise TypeError(
                f"{who}: step() got an unknown argument {name!r}{hint} "
                f"this chain takes {sorted(known)}"
            )


def is_own(member: GradientTransformation) -> bool:
    """Whether a member says which arguments it reads: declared ones do, and gradtx's wrappers."""
    return isinstance(member, DeclaredTransform) or type(member).__module__.startswith("gradtx.")


def per_parameter(who: str, name: str, given: Any, names: Mapping[Tensor, str]) -> Any:
    """One tensor for every parameter, by name; a number or a 0-d tensor stays what it is.

    Args:
        who: for errors.
        name: of the argument.
        given: a mapping from parameters or their names, or a sequence in the order of parameters.
        names: of all parameters.

    Raises:
        ValueError: another number of tensors, an unknown name, or another shape.
        TypeError: none of these.
    """
    if isinstance(given, (int, float)) or (isinstance(given, Tensor) and not given.ndim):
        return given
    if isinstance(given, Mapping):
        unknown = [k for k in given if k not in names and k not in names.values()]
        if unknown:
            key = "a tensor that is no parameter" if isinstance(unknown[0], Tensor) else unknown[0]
            raise ValueError(f"{who}: {name} has an entry for {key!r}; names: {_few(names)}")
        column = [given.get(p, given.get(own)) for p, own in names.items()]
    elif isinstance(given, (list, tuple)):
        column = list(given)
        if len(column) != len(names):
            raise ValueError(
                f"{who}: {name} has {len(column)} entries for {len(names)} parameters; "
                "give one for each, None where there is none"
            )
    else:
        raise TypeError(
            f"{who}: {name} must be a mapping or a sequence with a tensor for every parameter, "
            f"got {described(given)}"
        )
    for (p, own), x in zip(names.items(), column, strict=True):
        if x is not None and not isinstance(x, Tensor):
            raise TypeError(f"{who}: {name} of {own!r} must be a tensor, got {described(x)}")
        if x is not None and x.shape != p.shape:
            raise shape_mismatch(who, own, name, x.shape, "parameter", p.shape)
    return Leaves(zip(names.values(), column, strict=True))


def _few(names: Mapping[Tensor, str]) -> list[str]:
    return list(names.values())[:5]


def of_parameters(
    given: Mapping[str, Any], active: Iterable[Tensor], names: Mapping[Tensor, str]
) -> dict[str, Any]:
    """The arguments as a chain sees them that updates some parameters."""
    keys = [names[p] for p in active]
    return {
        name: Leaves({key: value[key] for key in keys}) if isinstance(value, Leaves) else value
        for name, value in given.items()
    }


def has_trees(given: Mapping[str, Any]) -> bool:
    """Whether an argument is more than a 0-d tensor, which kernels do not take."""
    return any(not isinstance(x, Tensor) or x.ndim for x in given.values())
