"""Subspace projectors, optimizers in a subspace, second moments per subset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import gradtx as gx
from gradtx.subspace.ldadam import ScaleByLdadamState

from .steppers import Checks, Extra, Hyper, Meta, Steps, fields, learning_rates, options, per_leaf

Rows = list[tuple[str, Any, Any]]


class _FedSketch(gx.subspace.randomized_svd):
    """With a recorded random matrix."""

    recorded: Any = None

    def omega(self, key: Tensor, x: Tensor, view: Any) -> Tensor:
        return self.recorded


class _FedQr(gx.subspace.qr_sketch):
    recorded: Any = None

    def omega(self, key: Tensor, x: Tensor, view: Any) -> Tensor:
        return self.recorded[:, : view.rank]


class _FedGaussian(gx.subspace.gaussian):
    recorded: Any = None

    def draw(self, key: Tensor, shape: Any, dtype: torch.dtype) -> Tensor:
        return self.recorded.to(dtype)


def _projectors(arrays: Mapping[str, Tensor], t: int, rank: int, side: str) -> dict[str, Any]:
    """Every kind, and what to put into its state after a refresh."""
    s, given = gx.subspace, {"rank": rank, "side": side}
    fed = {
        "randomized_svd": (_FedSketch(**given, oversample=3, power_iterations=1), "omega"),
        "qr_sketch": (_FedQr(**given), "omega"),
        "gaussian": (_FedGaussian(**given), "gaussian"),
        "rademacher": (_FedGaussian(**given), "rademacher"),
    }
    out: dict[str, Any] = {
        "svd": (s.svd(**given), {}),
        "power_iteration": (s.power_iteration(**given), {}),
        "topnorm": (s.top_norm(**given), {}),
        "dct_l1": (s.dct(**given), {}),
        "dct_l2": (s.dct(**given, p=2.0), {}),
    }
    for kind, (projector, source) in fed.items():
        object.__setattr__(projector, "recorded", arrays.get(f"extra/{t}/{source}"))
        out[kind] = (projector, {})
    for kind, projector in {
        "uniform": s.uniform(**given),
        "srht": s.srht(**given),
        "srdct": s.srdct(**given),
    }.items():
        parts = {name: f"extra/{t}/{kind}_{name}" for name in ("indices", "signs")}
        out[kind] = (projector, {k: arrays[v] for k, v in parts.items() if v in arrays})
    return out


def subspace_projectors(arrays: Mapping[str, Tensor]) -> Rows:
    """Bases, projections, complements and rotations of every kind, refreshed at every step."""
    rows: Rows = []
    old: dict[str, tuple[Any, Any]] = {}
    for t in range(1, 1 + sum(key.startswith("in/") for key in arrays)):
        x = arrays[f"in/{t}"]
        q = arrays[f"basis/{t}/svd"]
        side = "left" if arrays[f"low/{t}/svd"].shape[1] == x.shape[1] else "right"
        for kind, (projector, fed) in _projectors(arrays, t, q.shape[1], side).items():
            if f"basis/{t}/{kind}" not in arrays:
                continue
            before = old.get(kind)
            state = projector.init(x) if before is None else before[1]
            state = projector.refresh(state, x, first=before is None)._replace(**fed)
            low = projector.project(state, x)
            found = {
                "basis": projector.basis(state, x.shape),
                "low": low,
                "back": projector.back(state, low, x.shape),
                "complement": projector.complement(state, x, low),
            }
            if before is not None:
                found["rotation"] = _rotation(before[0], before[1], projector, state, x)
            old[kind] = projector, state
            rows += [
                (f"{what}/{t}/{kind}", got, arrays[f"{what}/{t}/{kind}"])
                for what, got in found.items()
            ]
    return rows


def _rotation(old: Any, old_state: Any, new: Any, new_state: Any, x: Tensor) -> Tensor:
    """A fed basis belongs to the projector, not to its state."""
    if not hasattr(new, "recorded"):
        left, right = new.rotation(old_state, new_state, x.shape, x.dtype)
        return left if isinstance(left, Tensor) else right
    return new.basis(new_state, x.shape).mT @ old.basis(old_state, x.shape)


# -- trajectories ------------------------------------------------------------------------------


class _Stored(gx.subspace.replay):
    """Recorded bases as files keep them: as the parameter lies, or indices and signs."""

    def init(self, p: Tensor, name: str = "") -> Any:
        if p.is_meta:
            return super().init(p, name)
        leaf = name.removesuffix("/left").removesuffix("/right")
        view = self.view(p.shape, name)
        bases = [self._upright(kept, view, p) for kept in self.bases[leaf][self.part(name)]]
        fed = gx.subspace.replay(**{**_arguments(self), "bases": {leaf: bases}})
        return fed.init(p, name)

    def part(self, name: str) -> str:
        return name.rpartition("/")[2] if "/" in name else ""

    def _upright(self, kept: dict[str, Tensor], view: Any, p: Tensor) -> Tensor:
        if "signs" in kept:
            kind = gx.subspace.srht(view.rank, self.side, matricize=self.matricize)
            state = kind.init(p)._replace(**kept)
        elif "indices" in kept:
            kind = gx.subspace.top_norm(view.rank, self.side, matricize=self.matricize)
            state = kind.init(p)._replace(**kept)
        else:
            q = kept["basis"]
            return q.mT if view.axis else q
        return kind.basis(state, p.shape, p.dtype)


def _arguments(projector: Any) -> dict[str, Any]:
    return {f.name: getattr(projector, f.name) for f in dataclasses.fields(projector)}


def _recorded(extra: Extra, leaves: list[str], *parts: str) -> dict[str, dict[str, list[Any]]]:
    """What a file recorded of every leaf, in the order of the steps: ``{leaf: {part: [...]}}``."""
    out: dict[str, dict[str, list[Any]]] = {}
    steps = sorted({int(key.split("/")[0]) for key in extra if key.split("/")[0].isdigit()})
    for leaf in leaves:
        for t in steps:
            plain = {k: f"{t}/{k}/{leaf}" for k in ("basis", "indices", "signs")}
            found = {k: extra[v] for k, v in plain.items() if v in extra}
            if found:
                out.setdefault(leaf, {}).setdefault("", []).append(found)
            for part in parts:
                key = f"{t}/basis_{part}/{leaf}"
                if key in extra:
                    out.setdefault(leaf, {}).setdefault(part, []).append({"basis": extra[key]})
    return out


_SIDES = {"std": "std", "reverse_std": "reverse_std", "left": "left", "right": "right"}


def _feed(extra: Extra, meta: Meta, h: Hyper, side: str) -> Any:
    """The recorded bases as a projector; None if there are none."""
    bases = _recorded(extra, meta["leaves"], "left", "right")
    if not bases or h.get("rank") is None:
        return None
    given = {"clip_rank": True, "matricize": bool(h.get("matricize")), "bases": bases}
    if side == "full":
        return gx.subspace.two_sided(_Stored(h["rank"], **given))
    return _Stored(h["rank"], _SIDES.get(side, side), **given)


def _moments(state: Any, params: dict[str, Tensor | None]) -> Checks:
    return fields(state, params, exp_avg="mu", exp_avg_sq="nu")


def snsm(meta: Meta, extra: Extra) -> Steps:
    """Subset norm and subspace momentum, as the published implementation corrects biases."""
    name = meta["optimizer"].rpartition(".")[0]

    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        b1, b2 = h["betas"]
        common = {k: h[k] for k in ("lr", "eps", "weight_decay") if k in h}
        kinds = {
            "momentum": _none(h.get("momentum_type", "ema")),
            "second_moment": _none(h.get("second_moment_type", "sn")),
        }
        if name == "adamw_sn":  # the presence of the key counts there
            subset = "heuristics" if "sn" in h else None
        elif name == "adamw_sng":
            subset = h.get("subset_size", -2) if h.get("sn", True) else None
        else:
            subset = h.get("subset_size")
        if kinds["second_moment"] == "sn":
            kinds["subset"] = subset
        if kinds["momentum"] == "sm":
            kinds |= _momentum(h)
        return gx.snsm(
            b1=b1, b2=b2, correct_bias=h.get("correct_bias", True), parity=True, **common, **kinds
        )

    def _momentum(h: dict[str, Any]) -> dict[str, Any]:
        if h.get("rank") is None:
            return {"momentum": "ema"}
        kind = h.get("proj_type", "svd")
        fed = _feed(extra, meta, h, "larger" if kind in ("uniform", "topk") else "std")
        return {
            "rank": h["rank"],
            "update_proj_gap": h["update_proj_gap"],
            "proj_type": kind if fed is None else fed,
            "on_refresh": h.get("on_refresh", "stale"),
            "matricize": bool(h.get("matricize")),
        }

    return Steps(per_leaf(meta, build), learning_rates(meta), view=_moments)


def _none(kind: str) -> str | None:
    return None if kind == "none" else kind


# -- GaLore ------------------------------------------------------------------------------------


def _in_subspace(meta: Meta, extra: Extra, h: Hyper) -> dict[str, Any]:
    """Arguments of GaLore's recipes that say what the subspace is."""
    side = h.get("proj_type", "std")
    fed = _feed(extra, meta, h, side) if h.get("rank") is not None else None
    return {
        "rank": h.get("rank"),
        "update_proj_gap": h.get("update_proj_gap", 200),
        "scale": h.get("scale", 1.0),
        "proj_type": side,
        "proj": "svd" if fed is None else fed,
        "matricize": bool(h.get("matricize")),
    }


def _galore_view(state: Any, params: dict[str, Tensor | None]) -> Checks:
    names = {
        "exp_avg_sq_row": "v_row",
        "exp_avg_sq_col": "v_col",
        "codes_m": "mu.codes",
        "absmax_m": "mu.scale",
        "codes_v": "nu.codes",
        "absmax_v": "nu.scale",
    }
    adafactor = fields(state, params, exp_avg="ema", exp_avg_sq="v")
    return _moments(state, params) | fields(state, params, **names) | adafactor


def galore(meta: Meta, extra: Extra) -> Steps:
    """GaLore over AdamW, Adafactor and 8-bit AdamW."""
    kind = meta["optimizer"]

    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        subspace = _in_subspace(meta, extra, h)
        common = {k: h[k] for k in ("lr", "weight_decay") if k in h}
        if kind == "GaLoreAdafactor":
            eps, smallest = h.get("eps", (1e-30, 1e-3))
            return gx.galore_adafactor(
                eps=eps,
                min_parameter_scale=smallest,
                clip_threshold=h.get("clip_threshold", 1.0),
                decay_rate=-h.get("decay_rate", -0.8),
                b1=h.get("beta1"),
                **{k: h[k] for k in ("scale_parameter", "relative_step", "warmup_init") if k in h},
                **common,
                **subspace,
            )
        b1, b2 = h["betas"]
        common |= {"b1": b1, "b2": b2, "eps": h["eps"]}
        if kind == "GaLoreAdamW8bit":
            sizes = {"min_size": h.get("min_8bit_size", 4096), "block_size": h["block_size"]}
            return gx.galore_adamw8bit(**common, **sizes, **subspace)
        return gx.galore_adamw(correct_bias=h.get("correct_bias", True), **common, **subspace)

    return Steps(per_leaf(meta, build), learning_rates(meta), view=_galore_view)


# -- LDAdam ------------------------------------------------------------------------------------


def ldadam(meta: Meta, extra: Extra) -> Steps:
    """LDAdam; leaves without low rank take AdamW's step."""
    members: dict[str, Any] = {}

    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        b1, b2 = h["betas"]
        low = h.get("enable_lowrank", True)
        method = h.get("proj_method", "power_iteration")
        if low and method == "svd_lowrank":
            side = {"std": "std_left"}.get(h["proj_type"], h["proj_type"])
            method = _feed(extra, meta, h, side) or method
        names = ("lr", "eps", "weight_decay", "rho", "proj_type", "error_feedback")
        tx = gx.ldadamw(
            b1=b1,
            b2=b2,
            rank=h["rank"] if low else None,
            proj_method=method,
            matricize=bool(h.get("matricize")),
            **{name: h[name] for name in names if name in h},
        )
        for leaf, own in options(meta).items():
            if low and own == h:
                members[leaf] = tx["scale_by_ldadam"]
        return tx

    def view(state: Any, params: dict[str, Tensor | None]) -> Checks:
        found = fields(state, params, v="nu")
        kept: dict[str, dict[str, Any]] = {leaf: {} for leaf in members}
        for field in ScaleByLdadamState._fields:
            for owner, value in gx.tree.get_all(state, field).items():
                if (leaf := owner.rpartition(".")[2]) in kept:
                    kept[leaf][field] = value
        found |= {"m_back": {}, "error": {}}
        for leaf, tx in members.items():
            own, shape = ScaleByLdadamState(**kept[leaf]), params[leaf].shape
            found["m_back"][leaf] = tx.projector.back(own.projector, own.mu, shape)
            if tx.error_feedback:
                found["error"][leaf] = tx.left_out(own, shape)
        return found

    return Steps(per_leaf(meta, build), learning_rates(meta), view=view)


# -- APOLLO ------------------------------------------------------------------------------------


def apollo(meta: Meta, extra: Extra) -> Steps:
    """APOLLO and APOLLO-Mini."""

    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        b1, b2 = h["betas"]
        side = h.get("proj_type", "std")
        fed = _feed(extra, meta, h, side)
        names = ("lr", "eps", "weight_decay", "update_proj_gap", "scale", "scale_type")
        return gx.apollo(
            b1=b1,
            b2=b2,
            rank=h.get("rank"),
            proj_type=side,
            proj=h.get("proj", "random") if fed is None else fed,
            correct_bias=h.get("correct_bias", True),
            scale_front=h.get("scale_front", False),
            limit_growth=not h.get("disable_nl", False),
            matricize=bool(h.get("matricize")),
            **{name: h[name] for name in names if name in h},
        )

    def view(state: Any, params: dict[str, Tensor | None]) -> Checks:
        return _moments(state, params) | fields(state, params, limiter_norm="norm")

    return Steps(per_leaf(meta, build), learning_rates(meta), view=view)


SYSTEMS = {
    "subset_norm": snsm,
    "subspace_momentum": snsm,
    "galore": galore,
    "ldadam": ldadam,
    "apollo": apollo,
}
CONFORMANCE = {"subspace_projectors": subspace_projectors}
