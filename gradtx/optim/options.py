"""Group options: which key of a param group feeds which hyperparameter of the chain."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import hyper as hyper_
from ..core.protocol import GradientTransformation, declared_hyper, members
from ..fuse import FALLBACKS

_ALIASES = {"decay": "momentum"}
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
        names: the hyperparameters it feeds, one for a number, several for a tuple (``betas``);
            "" for a part that the chain has no use for.
        within: the interval of each.
        default: value for groups that do not set it.
    """

    names: tuple[str, ...]
    within: tuple[str, ...]
    default: Any

    def values(self, value: Any) -> dict[str, Any]:
        """Hyperparameter values from an option's value."""
        parts = value if len(self.names) > 1 or isinstance(value, (tuple, list)) else (value,)
        return {n: _scalar(v) for n, v in zip(self.names, parts, strict=True) if n}

    def check(self, who: str, name: str, value: Any) -> None:
        """Raise unless a value fits.

        Raises:
            ValueError: out of its interval, or a tuple of the wrong length.
            TypeError: not a number or tensor.
        """
        if len(self.names) == 1:
            _check_scalar(who, name, value, self.within[0])
            return
        if not isinstance(value, (tuple, list)) or len(value) != len(self.names):
            raise ValueError(f"{who}: {name} must have {len(self.names)} values, got {value!r}")
        for i, (part, within) in enumerate(zip(value, self.within, strict=True)):
            _check_scalar(who, f"{name}[{i}]", part, within)


def _scalar(value: Any) -> Any:
    return value.reshape(()) if isinstance(value, Tensor) and value.ndim else value


def _check_scalar(who: str, name: str, value: Any, within: str) -> None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{who}: Tensor {name} must be 1-element, got {tuple(value.shape)}")
        return
    if callable(value):
        raise TypeError(
            f"{who}: {name} must be a number; a schedule belongs into the chain, "
            "or use torch.optim.lr_scheduler"
        )
    hyper_.check_value(who, name, value, within)


def intervals(tx: GradientTransformation) -> dict[str, str]:
    """The interval of every dynamic hyperparameter, by ``"member.name"``."""
    out = {}
    by_path = dict(members(tx))
    for full in declared_hyper(tx):
        path, _, name = full.rpartition(".")
        out[full] = by_path[path].declared[name]  # type: ignore[attr-defined]
    return out


def options_of(tx: GradientTransformation) -> dict[str, Option]:
    """Options for every dynamic hyperparameter of a chain that is not scheduled.

    A name that only one member has is used as it is, another one as ``"member.name"``. ``b1, b2``
    together become ``betas``, ``decay`` becomes ``momentum``: torch's schedulers look for those.
    """
    declared = {
        k: v for k, v in declared_hyper(tx).items() if isinstance(v, Tensor) or not callable(v)
    }
    within = intervals(tx)
    shorts = [k.rpartition(".")[2] for k in declared]
    names = {s if shorts.count(s) == 1 else k: k for k, s in zip(declared, shorts, strict=True)}
    out: dict[str, Option] = {}
    betas = [b for b in ("b1", "b2", "b3") if b in names]
    if len(betas) > 1:
        full = [names.pop(b) for b in betas]
        out["betas"] = Option(
            tuple(full), tuple(within[k] for k in full), tuple(declared[k] for k in full)
        )
    for name, full_name in names.items():
        key = _ALIASES.get(name, name)
        out[key] = Option((full_name,), (within[full_name],), declared[full_name])
    return out


def check_fallback(who: str, group: Mapping[str, Any]) -> str:
    """What a group asks to run where its chain is not fused.

    Raises:
        ValueError: there is no such thing.
    """
    how = group["fallback"]
    if how not in FALLBACKS:
        raise ValueError(f"{who}: fallback must be one of {FALLBACKS}, got {how!r}")
    return how


def check_unknown(who: str, group: Mapping[str, Any], known: list[str]) -> None:
    """Raise for a group key that looks like a misspelt option; other extra keys are kept.

    Raises:
        ValueError: the key is close to an option (names both).
    """
    for key in group:
        if key in known or key in ("params", "param_names"):
            continue
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.85)
        if close:
            raise ValueError(
                f"{who}: unknown group option {key!r}; did you mean {close[0]!r}? "
                f"The options are {sorted(known)}"
            )
