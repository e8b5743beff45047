"""PSGD with Kronecker factors in its published forms, and its bounds and rotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

import gradtx as gx
from gradtx.precondition.psgd import norms, procrustes

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, Steps, options, per_leaf

PROBABILITY = "precondition_by_kron.probability"
NEVER = 1e-9


def at(value: Any, t: int) -> Any:
    """A number, or one a step."""
    return value[t - 1] if isinstance(value, (list, tuple)) else value


def whiten(h: Hyper) -> gx.GradientTransformation:
    rms, entry = h["clip"]
    return gx.psgd(
        None,
        momentum=h["momentum"],
        form=h["form"],
        precond_lr=at(h["precond_lr"], 1),
        beta_l=h["betaL"],
        damping=h["damping"],
        whiten="newton" if h.get("probe") else h["whiten"],
        init_scale=h["init_scale"],
        max_size=h["max_size"],
        max_skew=h["max_skew"],
        max_rms=rms,
        max_entry=entry,
        update_first=h["update_first"],
        norm=h["norm"],
        noise="recorded",
    )


def kron(h: Hyper) -> gx.GradientTransformation:
    return gx.psgd_kron(
        None,
        b1=h["b1"],
        weight_decay=h["weight_decay"],
        max_size=h["max_size"],
        min_ndim=h["min_ndim"],
        memory_save_mode=h["memory_save_mode"],
        whiten=h["whiten"],
        precond_lr=at(h["precond_lr"], 1),
        init_scale=h["init_scale"],
        merge_dims=h["merge_dims"],
        form=h["form"],
        norm=h["norm"],
        noise="recorded",
        noise_in_momentum=h["noise_in_momentum"],
        probability=1.0,
    )


def hyperball(h: Hyper) -> gx.GradientTransformation:
    return gx.chain(
        gx.ema(h["b1"], debias=True),
        gx.precondition_by_kron(
            h["form"],
            at(h["precond_lr"], 1),
            remember=False,
            damping=0.0,
            whiten="momentum",
            init_scale="leaf",
            max_skew=None,
            balance_first=True,
            independent_probe=True,
            norm=h["norm"],
            noise="recorded",
        ),
    )


FORMS = {"whiten": whiten, "kron_torch": kron, "psgd_h": hyperball}


def psgd_kron(meta: Meta, extra: Extra) -> Steps:
    def build(h: Hyper) -> gx.GradientTransformation:
        last = gx.keep_norm if h["system_form"] == "psgd_h" else gx.scale_by_learning_rate
        return gx.chain(FORMS[h["system_form"]](h), last(at(h["lr"], 1)))

    h = next(iter(options(meta).values()))

    def hyper(t: int) -> Hyper:
        fits = h.get("update_steps")
        probability = at(h.get("probability", 1.0), t)
        if fits is not None:
            probability = 1.0 if t in fits else NEVER
        balances = (h.get("balance_steps") or ()) if h["system_form"] != "psgd_h" else (t,)
        out = {"probability": probability, "balance": float(t in balances)}
        for name in ("lr", "precond_lr"):
            if isinstance(h[name], (list, tuple)):
                out[name] = at(h[name], t)
        return out

    def given(t: int) -> dict[str, Tree]:
        out: dict[str, Tree] = {}
        for name in ("noise", "probe", "hvp"):
            if f"{name}/{t}/{meta['leaves'][0]}" in extra or any(
                key.startswith(f"{name}/{t}/") for key in extra
            ):
                out[name] = {leaf: extra.get(f"{name}/{t}/{leaf}") for leaf in meta["leaves"]}
        return out

    return Steps(per_leaf(meta, build), hyper=hyper, extra=given, view=factors_of)


def factors_of(state: Any, params: Tree) -> Checks:
    """The first factors of every leaf, by the names of the files."""
    out: Checks = {}
    for owner, factors in gx.tree.get_all(state, "factors").items():
        leaf = owner.rpartition(".")[2]
        for i, factor in enumerate(factors[:2]):
            out.setdefault(f"Q{i}", {})[leaf] = factor
    return out


def psgd_units(arrays: Mapping[str, Tensor]) -> list[tuple[str, Any, Any]]:
    """Bounds of spectral norms from recorded rows, and steps towards symmetry."""
    rows: list[tuple[str, Any, Any]] = []
    for key, want in arrays.items():
        if not key.startswith("out/"):
            continue
        _, case, name = key.split("/")
        got = UNITS[name](lambda what, case=case: arrays[f"in/{case}/{what}"].double())
        rows.append((key, got, want))
    return rows


def _one(x: Tensor) -> Tensor:
    return x[None]


UNITS: dict[str, Any] = {
    "spd_subspace": lambda x: norms.subspace(_one(x("spd")), x("subspace"))[0],
    "skew_subspace": lambda x: norms.subspace(_one(x("skew")), x("subspace"))[0],
    "spd_column": lambda x: norms.column(_one(x("spd")))[0],
    "spd_exact": lambda x: norms.norm(_one(x("spd")), "exact")[0],
    "procrustes2": lambda x: procrustes.second_order(_one(x("q")), "exact")[0],
    "procrustes3": lambda x: procrustes.third_order(_one(x("q")), "exact")[0],
}

SYSTEMS = {"psgd_kron": psgd_kron}
CONFORMANCE = {"psgd_units": psgd_units}
