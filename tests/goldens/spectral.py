"""Muon, NorMuon, Dion, Trion, DCT-AdamW; cosine transforms and Newton-Schulz iterations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

import gradtx as gx
from gradtx.core.execution import Execution
from gradtx.core.protocol import Wrapper
from gradtx.ops.column_adam import move_columns

from .golden import Tree
from .steppers import Checks, Extra, Hyper, Meta, Steps, fields, learning_rates

Rows = list[tuple[str, Any, Any]]


# -- hyperparameters ---------------------------------------------------------------------------


def per_leaf(meta: Meta, build: Any) -> gx.GradientTransformation:
    """``build(hyperparameters, algorithm)`` for every leaf; the leaf's own entry is the name of an
    algorithm, or hyperparameters of its own with or without one."""
    own = meta.get("per_leaf") or {}
    chains: dict[str, gx.GradientTransformation] = {}
    labels = {}
    for leaf in meta["leaves"]:
        entry = own.get(leaf, {})
        entry = {"algorithm": entry} if isinstance(entry, str) else dict(entry)
        algorithm = entry.pop("algorithm", entry.pop("algo", None))
        key = f"{algorithm}{sorted(entry.items())}".replace(".", "_")
        labels[leaf] = key
        if key not in chains:
            chains[key] = build({**meta["hyperparameters"], **entry}, algorithm)
    if len(chains) == 1:
        return next(iter(chains.values()))
    return gx.partition(chains, by=lambda info: labels[info.name])


def is_matrix_algorithm(name: str | None) -> bool:
    return name is None or name in ("muon", "normuon", "dion", "dion2", "trion", "matrix")


def newton_schulz(h: Hyper) -> dict[str, Any]:
    """Arguments of the iteration; the table of triples wins over a name."""
    name = h.get("coefficients", h.get("ns", "quintic5"))
    table = h.get("coefficient_table")
    out: dict[str, Any] = {
        "coefficients": name,
        "ns_steps": h.get("ns_steps"),
        "ns_eps": h.get("ns_eps", h.get("eps", 1e-7)),
        "ns_dtype": getattr(torch, h.get("ns_dtype", "float32")),
    }
    if table is not None and not isinstance(name, str):
        out |= {"coefficients": tuple(map(tuple, table)), "ns_steps": len(table)}
    elif not isinstance(name, str):
        out["coefficients"] = tuple(name)
    return out


SCALES = {"kj": "original", "rms_norm": "match_rms_adamw", None: "none"}


def common(h: Hyper, *names: str) -> dict[str, Any]:
    return {name: h[name] for name in ("lr", "weight_decay", "momentum", *names) if name in h}


def adamw(h: Hyper, prefix: str = "") -> gx.GradientTransformation:
    """AdamW; hyperparameters may have a prefix."""
    b1, b2 = h.get(f"{prefix}betas", (0.9, 0.95))
    return gx.adamw(
        lr=h.get(f"{prefix}lr", 3e-4),
        b1=b1,
        b2=b2,
        eps=h.get(f"{prefix}eps", 1e-10 if prefix else 1e-8),
        weight_decay=h.get(f"{prefix}weight_decay", 0.0),
    )


def eps_before_correction(h: Hyper) -> gx.GradientTransformation:
    """AdamW with eps added to the root that is not yet corrected."""
    b1, b2 = h["betas"]
    step = gx.quotient(
        gx.chain(gx.first_moment(b1), gx.undo_bias(b1)),
        gx.root_second_moment(b2, h["eps"], eps_at="root"),
    )
    decay = gx.add_decayed_weights(h.get("weight_decay", 0.0))
    return gx.chain(step, decay, gx.scale_by_learning_rate(h["lr"]))


def others(h: Hyper, algorithm: str) -> gx.GradientTransformation:
    """What leaves get that are no matrices."""
    if algorithm == "lion":
        b1, b2 = h["betas"]
        return gx.lion(h["lr"], b1=b1, b2=b2, weight_decay=h.get("weight_decay", 0.0))
    if "aux" in h:
        return adamw(h["aux"])
    if any(key.startswith("adam_") for key in h):
        return adamw(h, "adam_")
    if h.get("algo") == "muon_reference" or h.get("eps_placement") == "uncorrected":
        return eps_before_correction(h)
    return adamw(h)


# -- states ------------------------------------------------------------------------------------


def tensors_of(state: Any, leaves: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors in fields of these names by leaf; chains may have members of the same names."""
    found: dict[str, Tensor] = {}

    def visit(node: Any, leaf: str | None) -> None:
        for key, child in gx.tree.children(node) or ():
            if leaf is not None and key in names and isinstance(child, Tensor):
                found[leaf] = child
            else:
                visit(child, key if key in leaves else leaf)

    visit(state, None)
    return found


# -- Muon and Dion -----------------------------------------------------------------------------


def muon(h: Hyper) -> gx.GradientTransformation:
    convolutions = (
        "kernel" if h["algo"] == "kj" else "flatten" if h.get("flatten", True) else "batch"
    )
    sizes = h.get("split_sizes")
    b2 = h.get("muon_beta2", 0.95) if h["algo"] == "normuon" else None
    scaling = h.get("ns_norm")
    return gx.muon(
        **common(h, "nesterov"),
        **newton_schulz(h),
        average=h.get("momentum_form", "ema") == "ema",
        ns_scaling=scaling,
        scale=SCALES.get(h.get("adjust_lr"), h.get("adjust_lr")),
        convolutions=convolutions,
        split_sizes=None if sizes is None else tuple(sizes),
        num_heads=h.get("num_heads"),
        cautious_decay=h.get("cautious_wd", False),
        neuron_b2=b2,
    )


def dion(h: Hyper) -> gx.GradientTransformation:
    names = ("rank_fraction", "rank_multiple_of", "power_iters", "eps")
    scale = SCALES.get(h.get("adjust_lr", "spectral_norm"), h.get("adjust_lr"))
    return gx.dion(**common(h, *names), scale=scale or "spectral_norm")


def dion2(h: Hyper) -> gx.GradientTransformation:
    own = {"momentum": h["ef_decay"]} if "ef_decay" in h else {}
    normalized = h["algo"] in ("nordion2", "dion3") or "muon_beta2" in h
    return gx.dion2(
        **{**common(h, "fraction"), **own},
        **newton_schulz(h),
        b2=h.get("muon_beta2", 0.95) if normalized else None,
        scale=SCALES.get(h.get("adjust_lr"), h.get("adjust_lr")),
    )


FAMILIES = {"dion": dion, "dion2": dion2, "nordion2": dion2, "dion3": dion2}


@dataclass(frozen=True)
class starting_at(Wrapper):
    """A transform whose power iterations start at recorded bases."""

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    bases: Mapping[str, Tensor] = field(compare=False)

    def init(self, params: Any) -> Any:
        return self._placed(self.transform.init(params), None)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return self.update_transform(updates, state, params, extra)

    def _placed(self, node: Any, leaf: str | None) -> Any:
        inside = gx.tree.children(node)
        if inside is None:
            return node
        new = []
        for key, child in inside:
            start = self.bases.get(leaf) if key == "basis" else None
            below = key if key in self.bases else leaf
            new.append(
                self._placed(child, below) if start is None else start.to(child.dtype, copy=True)
            )
        return gx.tree.rebuild(node, new)


def muon_dion(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any], algorithm: str | None) -> gx.GradientTransformation:
        if not is_matrix_algorithm(algorithm):
            return others(h, algorithm)
        return FAMILIES.get(h["algo"], muon)(h)

    split = any(meta["hyperparameters"].get(k) for k in ("split_sizes", "num_heads"))

    def view(state: Any, params: Tree) -> Checks:
        """The same buffer has other names in other references."""
        found: Checks = {}
        names = ("ema", "trace", "momentum", "mu")
        for key, ours in (
            ("momentum_buffer", names),
            ("momentum", names),
            ("exp_avg", ("mu",)),
            ("moment1", ("mu",)),
            ("exp_avg_sq", ("nu",)),
            ("moment2", ("nu",)),
            ("variance", ("nu",)),
            *([] if split else [("variance_neuron", ("variance",))]),
        ):
            found[key] = tensors_of(state, params, ours)
        for key in ("momentum_buffer", "momentum"):
            for leaf, x in found[key].items():
                found[key][leaf] = x.reshape(params[leaf].shape)
        steps = tensors_of(state, params, ("step",))
        found["step_dev"] = {leaf: t.float() for leaf, t in steps.items()}
        return {key: leaves for key, leaves in found.items() if leaves}

    bases = {k.removeprefix("Q0/"): v for k, v in extra.items() if k.startswith("Q0/")}
    tx = per_leaf(meta, build)
    return Steps(starting_at(tx, bases) if bases else tx, learning_rates(meta), view=view)


# -- cosine components -------------------------------------------------------------------------


def trion(meta: Meta, extra: Extra) -> Steps:
    hyper = meta["hyperparameters"]
    basis = hyper.get("basis", "dct2")

    def build(h: dict[str, Any], algorithm: str | None) -> gx.GradientTransformation:
        if not is_matrix_algorithm(algorithm):
            return others(h, algorithm)
        names = ("rank", "basis", "transform", "selection_norm", "scaling_type")
        return gx.trion(**common(h, *names), **newton_schulz(h))

    def view(state: Any, params: Tree) -> Checks:
        """The momentum as parameters lie, from its cosine components."""
        found = fields(state, params, momentum_buffer="momentum", exp_avg="mu", exp_avg_sq="nu")
        found["momentum_buffer"] = {
            leaf: gx.ops.rotate(z, basis, inverse=True)
            for leaf, z in found.get("momentum_buffer", {}).items()
        }
        return found

    return Steps(per_leaf(meta, build), learning_rates(meta), view=view)


def dct_adamw(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any], algorithm: str | None) -> gx.GradientTransformation:
        b1, b2 = h["betas"]
        names = (
            *("lr", "weight_decay", "eps", "rank", "basis", "transform", "update_proj_gap"),
            *("rotate_subspace", "use_ef", "ef_bits", "ef_levels", "scale_by_basis_norm"),
            *("max_shape", "side", "selection_norm"),
        )
        given = {name: h[name] for name in names if name in h}
        if "ell_norm" in h:
            given["selection_norm"] = f"l{abs(h['ell_norm'])}"
        return gx.dct_adamw(b1=b1, b2=b2, **given)

    def view(state: Any, params: Tree) -> Checks:
        """Of zeros any components may be chosen, and the reference takes the last."""
        found = fields(state, params, m="mu", v="nu", indices="indices")
        chosen = found.pop("indices", {})
        tied = any(not found["v"][leaf].any() for leaf in chosen)
        return found if tied else found | {"indices": chosen}

    return Steps(per_leaf(meta, build), learning_rates(meta), view=view)


# -- files without steps -----------------------------------------------------------------------


def dct(arrays: Mapping[str, Tensor]) -> Rows:
    """Transforms both ways and their basis; selection, transfer and quantisation."""
    rows: Rows = []
    for key, x in arrays.items():
        name, _, case = key.partition("/")
        if name == "x":
            for what, transform in (("dct2", gx.ops.dct), ("dct3", gx.ops.idct)):
                if f"{what}/{case}" not in arrays:
                    continue
                want = arrays[f"{what}/{case}"]
                # Rows of very different sizes are compared relative to their own norms.
                size = torch.linalg.vector_norm(x.double(), dim=-1, keepdim=True)
                size = torch.where((size > 1e3) | (size < 1e-3) & (size > 0), size, 1.0)
                for method in ("fft", "matmul"):
                    got = transform(x, method).double() / size
                    rows.append((f"{what}/{case}/{method}", got, want / size))
        elif name == "basis":
            rows.append((key, gx.ops.dct_matrix(int(case), torch.float64), x))
            rows.append((f"{key}/float32", gx.ops.dct_matrix(int(case)), x))
        elif name == "basis_entries":
            n = int(case)
            i, j = arrays[f"basis_rows/{n}"], arrays[f"basis_cols/{n}"]
            # In units of the largest entry, in which float32 resolves 6e-8.
            unit = (n / 2) ** 0.5
            got = gx.ops.dct_matrix(n)[i.long()][:, j.long()].double()
            rows.append((key, 10 * (got - x) * unit, torch.zeros_like(x)))
    if "scores" in arrays:
        got = gx.ops.top_indices(arrays["scores"], int(arrays["rank"]))
        rows.append(("selected", got, arrays["selected"]))
    if "transfer/in" in arrays:
        got = move_columns(*(arrays[f"transfer/{k}"] for k in ("in", "old", "new")))
        rows.append(("transfer/out", got, arrays["transfer/out"]))
    for key in arrays:
        if key.startswith("quant/") and key.endswith("/codes"):
            rows += quantized(arrays, int(key.split("/")[1]))
    return rows


def quantized(arrays: Mapping[str, Tensor], levels: int) -> Rows:
    x, at = arrays["quant/in"], f"quant/{levels}"
    codec = gx.codecs.affine_rows(8, levels)
    code: Any = codec.encode(x, codec.init(x, signed=True))
    rows: Rows = [
        (f"{at}/codes", code.codes.reshape(x.shape), arrays[f"{at}/codes"]),
        (f"{at}/min", code.lo, arrays[f"{at}/min"]),
        (f"{at}/max", code.hi, arrays[f"{at}/max"]),
        (f"{at}/dequant", codec.decode(code, x), arrays[f"{at}/dequant"]),
    ]
    if f"{at}/packed" in arrays:
        packed = gx.codecs.affine_rows(4, levels)
        code = packed.encode(x, packed.init(x, signed=True))
        rows.append((f"{at}/packed", code.codes, arrays[f"{at}/packed"]))
        rows.append((f"{at}/unpacked", packed.decode(code, x), arrays[f"{at}/dequant"]))
    return rows


_ITERATIONS = {
    "quintic5_add": gx.orthogonalize("quintic5", scaling="add"),
    "quintic5_clamp": gx.orthogonalize("quintic5", scaling="clamp"),
    "polar_express5": gx.orthogonalize("polar_express5", eps=1e-6),
    "five_polynomials": gx.orthogonalize("five_polynomials"),
    "aol4": gx.orthogonalize("aol4"),
}


def newton_schulz_units(arrays: Mapping[str, Tensor]) -> Rows:
    """Every set of coefficients; the exact factor of what is not singular; all as one batch."""
    rows: Rows = []
    inputs = {k.removeprefix("in/"): x for k, x in arrays.items() if k.startswith("in/")}
    for name, transform in _ITERATIONS.items():
        out, _ = transform.update(inputs, ())
        for case in inputs:
            if f"out/{name}/{case}" in arrays:
                rows.append((f"out/{name}/{case}", out[case], arrays[f"out/{name}/{case}"]))
        for case in (c for c in inputs if "zero" in c):
            rows.append((f"out/{name}/{case}", out[case], torch.zeros_like(inputs[case])))
    exact, _ = gx.orthogonalize("svd").update(inputs, ())
    rows += [
        (key, exact[key.removeprefix("polar/")], want)
        for key, want in arrays.items()
        if key.startswith("polar/")
    ]
    return rows


SYSTEMS = {"muon_dion": muon_dion, "trion": trion, "dct_adamw": dct_adamw}
CONFORMANCE = {"dct": dct, "newton_schulz": newton_schulz_units}
