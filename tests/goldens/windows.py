"""M-FAC and GGT: dense, sparse and low-rank windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optree
from torch import Tensor

import gradtx as gx

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, Steps, learning_rates


def _view(state: Any, params: Tree) -> Checks:
    """The inner products of the rows, and what compression has dropped; per leaf, or as "all"."""
    grams = list(gx.tree.get_all(state, "gram").values())
    out: Checks = {"gram": {"all": grams[0]}} if len(grams) == 1 else {}
    errors: dict[str, Tensor] = {}
    for path, value in gx.tree.get_all(state, "error").items():
        leaf = path.rpartition(".")[2]
        if isinstance(value, Tensor):
            errors["all" if leaf == "flat" else leaf] = value
    return out | ({"error": errors} if errors else {})


def _decay_kind(h: Hyper) -> str:
    """The name of the kind of weight decay, however a file gives it."""
    kind, inside = str(h.get("weight_decay_kind", "none")), h.get("wd_type", "wd")
    if inside != "wd":
        return inside
    if kind.startswith("decoupled"):
        return "decoupled_lr" if "lr*wd" in kind or kind == "decoupled_lr" else "decoupled"
    return kind if kind in ("reg", "both") else "coupled"


def _first(value: Any) -> Any:
    """A number, of a list of one a step the first."""
    return value[0] if isinstance(value, list) else value


def _by_step(meta: Meta) -> Callable[[int], Hyper] | None:
    """What changes from step to step, as overrides."""
    h, rates = meta["hyperparameters"], learning_rates(meta)
    lists = {name: h[key] for key, name in (("lr", "lr"), ("damp", "damping")) if _listed(h, key)}
    if not lists:
        return rates
    return lambda t: {**(rates(t) if rates else {}), **{n: x[t - 1] for n, x in lists.items()}}


def _listed(h: Hyper, key: str) -> bool:
    return isinstance(h.get(key), list)


def _common(h: Hyper) -> dict[str, Any]:
    """The arguments that all recipes of M-FAC have."""
    return {
        "lr": _first(h["lr"]),
        "window": h["m"],
        "damping": _first(h["damp"]),
        "momentum": h.get("momentum", 0.0),
        "weight_decay": h.get("weight_decay", 0.0),
        "momentum_kind": "sum" if str(h.get("momentum_kind")).startswith("sum") else "ema",
        "weight_decay_kind": _decay_kind(h),
    }


def mfac(meta: Meta, extra: Extra) -> Steps:
    h = meta["hyperparameters"]
    tx = gx.mfac(**_common(h), freeze_zeros=bool(h.get("sparse")))
    return Steps(tx, _by_step(meta), view=_view)


def sparse_mfac(meta: Meta, extra: Extra) -> Steps:
    h = meta["hyperparameters"]
    if "r" in h:
        return Steps(_ggt(h), _by_step(meta), view=_view)
    if "rank" in h:
        return _WithBases(_low_rank(h), _by_step(meta), view=_view, bases=_bases(extra))
    blocks = h.get("topk") == "per block" or "block" in h
    tx = gx.sparse_mfac(
        **_common(h),
        density=h.get("density"),
        scope="block" if blocks else "global",
        block_size=h.get("block", 16384),
        query="gradient" if h.get("precondition") in ("dense", "gradient") else "compressed",
        freeze_zeros=bool(h.get("sparse") or h.get("sparse_model")),
    )
    return Steps(tx, _by_step(meta), view=_view)


def _low_rank(h: Hyper) -> gx.GradientTransformation:
    return gx.lowrank_mfac(**_common(h), rank=h["rank"], aggregate=h["aggregate"])


def _ggt(h: Hyper) -> gx.GradientTransformation:
    sparse = "density" in h  # published without momentum and decay, whatever a file says of them
    return gx.ggt(
        _first(h["lr"]),
        h["r"],
        0.0 if sparse else h.get("beta1", 0.0),
        1.0 if sparse else h.get("beta2", 1.0),
        h["eps"],
        h.get("wd", h.get("weight_decay", 0.0)),
        h.get("density"),
        h.get("gram_reg", 1e-6),
        h.get("decay_basis", True),
    )


def _bases(extra: Extra) -> dict[str, Tensor]:
    """Where the power iteration of every leaf starts."""
    return {k.removeprefix("q0/"): q for k, q in extra.items() if k.startswith("q0/")}


@dataclass(frozen=True)
class _WithBases(Steps):
    """Steps from recorded bases of the first power iteration.

    Attributes:
        bases: by leaf.
    """

    bases: Mapping[str, Tensor] = field(default_factory=dict)

    def init(self, params: Tree) -> Any:
        def recorded(path: Any, value: Any) -> Any:
            names = [str(step) for step in path]
            leaf = next((n for n in names if n in self.bases), None)
            return self.bases[leaf] if leaf and names[-1] == "basis" else value

        state = super().init(params)
        paths, leaves, spec = optree.tree_flatten_with_path(
            state, none_is_leaf=True, namespace=gx.tree.NAMESPACE
        )
        fields_ = [_field_names(state, path) for path in paths]
        return spec.unflatten(map(recorded, fields_, leaves))


def _field_names(node: Any, path: tuple[Any, ...]) -> list[str]:
    """A path with the names of fields in place of their positions."""
    out = []
    for step in path:
        named = hasattr(node, "_fields") and isinstance(step, int)
        out.append(node._fields[step] if named else str(step))
        node = node[step]
    return out


SYSTEMS = {"mfac": mfac, "sparse_mfac": sparse_mfac}
