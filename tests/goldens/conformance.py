"""Files without steps: modifiers of updates, and the factored state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import gradtx as gx

Rows = list[tuple[str, Any, Any]]


def update_modifiers(arrays: Mapping[str, Tensor]) -> Rows:
    """OrthoGrad, cautious masks, Grams and atan2 on numbered cases; stochastic rounding."""
    rows: Rows = list(_rounded(arrays))
    for key, want in arrays.items():
        name = key.removeprefix("out/").rstrip("0123456789")
        case = key.removeprefix("out/" + name)
        if not key.startswith("out/") or name not in _MODIFIERS:
            continue
        given, transform, at = _MODIFIERS[name]
        u, against = (arrays[f"in/{x}{case}"] for x in given)
        got, _ = transform.update({"x": u}, (), **{at: {"x": against}})
        rows.append((key, got["x"], want))
    for key, want in arrays.items():
        if key.startswith("out/atan2"):
            case = key.removeprefix("out/atan2")
            u, d = arrays[f"in/mask_u{case}"], arrays[f"in/mask_g{case}"].abs()
            rows.append((key, gx.atan2(u, d), want))
    return rows


# name -> the inputs (update, and what it is compared with), the transform, the argument of the
# second input.
_MASK = ("mask_u", "mask_g")
_MODIFIERS: dict[str, tuple[tuple[str, str], gx.GradientTransformation, str]] = {
    "ortho": (("ortho_g", "ortho_p"), gx.orthogonalize_grad(), "params"),
    "cautious_mean_clamp": (_MASK, gx.cautious_mask("mean"), "grads"),
    "cautious_sum_plus_one": (_MASK, gx.cautious_mask("sum_plus_one"), "grads"),
    "grams": (_MASK, gx.grams(), "grads"),
}


def _rounded(arrays: Mapping[str, Tensor]) -> Iterator[tuple[str, Any, Any]]:
    if "in/sr_source" not in arrays:
        return
    source, bits = arrays["in/sr_source"], arrays["in/sr_rand"]
    # -0 + x is x, also where x is a zero of either sign.
    params = {"x": torch.full_like(source, -0.0, dtype=torch.bfloat16)}
    got = gx.apply_updates(params, {"x": source}, random_bits={"x": bits})["x"]
    yield "out/sr_bf16_bits", got.view(torch.int16).int() & 0xFFFF, arrays["out/sr_bf16_bits"]


def smmf_factored(arrays: Mapping[str, Tensor]) -> Rows:
    """Rank-one factors with signs, and the shapes in which leaves are factored.

    The codec sees every leaf as its own nearest-square matrix; of matrices that are not, only the
    packed signs can be asked for.
    """
    rows: Rows = []
    codec = gx.codecs.rank1()
    for key, m in arrays.items():
        if key.startswith("in/m"):
            name = key.removeprefix("in/")
            rows.append((f"out/sign/{name}", gx.ops.pack_signs(m), arrays[f"out/sign/{name}"]))
            if gx.codecs.square_matricize(m.numel()) != m.shape:
                continue
            code: Any = codec.encode(m, codec.init(m, signed=True))
            rows += [
                (f"out/{what}/{name}", got, arrays[f"out/{what}/{name}"])
                for what, got in (
                    ("row", code.row),
                    ("col", code.col),
                    ("sign", code.sign),
                    ("reconstructed", codec.decode(code, like=m)),
                )
            ]
        elif key.startswith("in/numel"):
            out = key.replace("in/numel", "out/effective_shape")
            got = torch.tensor([gx.codecs.square_matricize(int(n)) for n in m])
            rows.append((out, got, arrays[out]))
    return rows


CONFORMANCE = {"update_modifiers": update_modifiers, "smmf_factored": smmf_factored}
