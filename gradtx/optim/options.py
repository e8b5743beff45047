"""Group options: which key of a param group feeds which hyperparameter of the chain."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..core import hyper as hyper_
from ..core.errors import described
from ..core.names import called_elsewhere, meant
from ..core.plain import plain, real
from ..core.protocol import GradientTransformation, declared_hyper, members
from ..core.transform import of_tree
from ..fuse import FALLBACKS

# What frameworks and schedulers keep in groups, beside what is made of an option's name.
_KEPT = frozenset(
    (
        "params",
        "param_names",
        "name",
        "names",
        "kind",
        "matrix",
        "decay_mult",
        "wd_mult",
        "no_decay",
    )
)
# Options of torch.optim that no group should ask for in vain.
_USUAL = ("weight_decay", "momentum", "betas", "nesterov", "dampening", "amsgrad", "centered")
COMMON: dict[str, Any] = {
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "fallback": "eager",
}


@dataclass(frozen=True)
class Option:
    """One dynamic group option.

    Attributes:
        names: the hyperparameters that each part of it feeds: one part for a number, several for a
            tuple (``betas``); none for a part that the chain has no use for.
        within: the interval of each part.
        default: value for groups that do not set it.
        per_entry: whether a tensor may hold one value for every entry of a parameter.
    """

    names: tuple[tuple[str, ...], ...]
    within: tuple[str, ...]
    default: Any
    per_entry: bool = False

    def values(self, value: Any) -> dict[str, Any]:
        """Hyperparameter values from an option's value."""
        parts = zip(self.names, self.parts(value), strict=True)
        return {name: part for names, part in parts for name in names}

    def parts(self, value: Any) -> list[Any]:
        """The values of all parts."""
        several = len(self.names) > 1 or isinstance(value, (tuple, list))
        return [_scalar(v) for v in (value if several else (value,))]

    def check(self, who: str, name: str, value: Any) -> None:
        """Raise unless a value fits.

        Raises:
            ValueError: out of its interval, or a tuple of the wrong length.
            TypeError: not a number or tensor.
        """
        if len(self.names) == 1:
            _check_scalar(who, name, value, self.within[0], self.per_entry)
            return
        if not isinstance(value, (tuple, list)) or len(value) != len(self.names):
            raise ValueError(f"{who}: {name} must have {len(self.names)} values, got {value!r}")
        for i, (part, within) in enumerate(zip(value, self.within, strict=True)):
            _check_scalar(who, f"{name}[{i}]", part, within)


def _scalar(value: Any) -> Any:
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        return value.reshape(()) if value.ndim and value.numel() == 1 else value
    return real(value)


def _check_scalar(who: str, name: str, value: Any, within: str, per_entry: bool = False) -> None:
    value = plain(value)
    if isinstance(value, Tensor):
        if value.numel() != 1 and not per_entry:
            raise ValueError(f"{who}: Tensor {name} must be 1-element, got {tuple(value.shape)}")
        hyper_.check_value(who, name, value, within, per_entry=True)
        return
    if callable(value) and not isinstance(value, type):
        raise TypeError(
            f"{who}: {name} must be a number; a schedule belongs into the chain, "
            "or use torch.optim.lr_scheduler"
        )
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{who}: {name} must be a number or a 0-d tensor, got {described(value)}")
    hyper_.check_value(who, name, value, within)


def intervals(tx: GradientTransformation) -> dict[str, str]:
    """The interval of every dynamic hyperparameter, by ``"member.name"``."""
    out = {}
    by_path = dict(members(tx))
    for full in declared_hyper(tx):
        path, _, name = full.rpartition(".")
        out[full] = by_path[path].declared[name]
    return out


def per_entry(tx: GradientTransformation) -> set[str]:
    """The hyperparameters that may have one value for every entry, by ``"member.name"``."""
    by_path = dict(members(tx))
    split = {full: full.rpartition(".") for full in declared_hyper(tx)}
    return {f for f, (path, _, name) in split.items() if hyper_.is_per_entry(by_path[path], name)}


def common_interval(within: Iterable[str]) -> str | None:
    """The intersection of intervals, None without any."""
    found = list(within)
    return functools.reduce(_common, found) if found else None


def _common(a: str, b: str) -> str:
    """The intersection of two intervals."""
    pairs = [(x, x[1:-1].split(", ")) for x in (a, b)]
    left = max(((float(ends[0]), x[0] == "("), x[0] + ends[0]) for x, ends in pairs)
    right = min(((float(ends[1]), x[-1] == "]"), ends[1] + x[-1]) for x, ends in pairs)
    return f"{left[1]}, {right[1]}"


def options_of(
    tx: GradientTransformation, renamed: Mapping[str, str | None] = MappingProxyType({})
) -> dict[str, Option]:
    """Options for every dynamic hyperparameter of a chain that is not scheduled.

    A name that only one member has is used as it is, another one as ``"member.name"``. ``b1, b2``
    together become ``betas``, the decay of a momentum ``momentum``: torch's schedulers look for
    those.

    Args:
        tx: the chain.
        renamed: by full name the option's name, or None for no option.
    """
    declared = {
        k: v
        for k, v in declared_hyper(tx).items()
        if renamed.get(k, k) is not None and (isinstance(v, Tensor) or not callable(v))
    }
    within, wide, by_path = intervals(tx), per_entry(tx), dict(members(tx))
    shorts = []
    for full in declared:
        path, _, name = full.rpartition(".")
        usual = "momentum" if hyper_.is_momentum(by_path[path], name) else name
        shorts.append(renamed.get(full) or usual)
    names = {
        s if k in renamed or shorts.count(s) == 1 else k: k
        for k, s in zip(declared, shorts, strict=True)
    }
    out: dict[str, Option] = {}
    betas = [b for b in ("b1", "b2", "b3") if b in names]
    if len(betas) > 1 and betas[0] == "b1":
        fed = tuple(names.pop(b) for b in betas)
        values = tuple(declared[k] for k in fed)
        out["betas"] = Option(tuple((k,) for k in fed), tuple(within[k] for k in fed), values)
    for name, full_name in names.items():
        out[name] = Option(
            ((full_name,),), (within[full_name],), declared[full_name], full_name in wide
        )
    return out


def check_entries(who: str, name: str, option: Option, group: Mapping[str, Any]) -> None:
    """Raise where a tensor with one value an entry does not fit every parameter of its group.

    Raises:
        ValueError: names the option and both shapes.
    """
    value = group[name]
    if not option.per_entry or not isinstance(value, Tensor) or value.numel() == 1:
        return
    for p in group["params"]:
        if not hyper_.expands(tuple(value.shape), tuple(p.shape)):
            raise ValueError(
                f"{who}: Tensor {name} must be 1-element or have one value for every entry, got "
                f"{tuple(value.shape)} for a parameter of shape {tuple(p.shape)}"
            )


def check_agree(
    who: str,
    tx: GradientTransformation,
    options: Mapping[str, Option],
    group: Mapping[str, Any],
    other: Mapping[str, Any],
) -> None:
    """Raise where two groups differ in an option that counts for all leaves together.

    Args:
        who: for the error.
        tx: the chain of the first group.
        options: of the first group.
        group: the first group.
        other: the second one.

    Raises:
        ValueError: names the option, the member and both values.
    """
    shared = of_tree(tx)
    for name, option in options.items() if shared else ():
        if name not in other:
            continue
        pairs = zip(option.parts(group[name]), option.parts(other[name]), strict=False)
        for targets, (a, b) in zip(option.names, pairs, strict=False):
            ends = tuple(f".{target}" for target in targets)
            member = next((f for f in shared if f".{f}".endswith(ends)), "")
            if member and hyper_.differ(a, b):
                raise ValueError(
                    f"{who}: groups must agree in {name}, which counts for all parameters together "
                    f"({member}), got {a} and {b}"
                )


def check_fallback(who: str, group: Mapping[str, Any]) -> str:
    """What a group asks to run where its chain is not fused.

    Raises:
        ValueError: there is no such thing.
    """
    how = group["fallback"]
    if how not in FALLBACKS:
        raise ValueError(f"{who}: fallback must be one of {FALLBACKS}, got {how!r}")
    return how


def check_unknown(who: str, group: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise for a group key that stands for an option of another name; other keys are kept.

    Those of frameworks pass (``initial_lr``, ``lr_scale``, ``param_names``, ...): what is made of
    an option's name is theirs.

    Raises:
        ValueError: the key is close to an option, or is what others call one (names both); or it
            asks for something usual that there is no option for.
    """
    known = list(known)
    for key, value in group.items():
        if key in known or key in _KEPT or not isinstance(key, str):
            continue
        bare = _snake(key)
        other = bare if bare in known else called_elsewhere(bare, known)
        if bare != key and other is not None:
            raise _unknown(who, key, other, known)
        derived = any(key.startswith(f"{k}_") or key.endswith(f"_{k}") for k in known)
        found = called_elsewhere(key, known) if derived else meant(key, known)
        if found is not None:
            raise _unknown(who, key, found, known)
        if key in _USUAL and not isinstance(value, Tensor) and value:
            raise ValueError(
                f"{who}: there is no option {key!r}, got {value!r}; the options are {sorted(known)}"
            )


def _snake(key: str) -> str:
    """``learningRate``, ``learning rate`` and ``_learning_rate`` as ``learning_rate``."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", key)
    return re.sub(r"[\s-]+", "_", spaced).lower().strip("_")


def _unknown(who: str, key: str, meant_: str, known: Iterable[str]) -> ValueError:
    return ValueError(
        f"{who}: unknown group option {key!r}; did you mean {meant_!r}? "
        f"The options are {sorted(known)}"
    )
