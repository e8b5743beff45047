"""Every preconditioner behind clipping, before grafting, masks and decay: pure, fused, resumed."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx

SHAPES = {"deep": (3, 2, 4), "v": (7,), "w": (5, 6)}
SPARSE = gx.compressors.block_top_k(0.5, 8)
LOW = gx.compressors.low_rank(1, always=True)
FACTORS = gx.kronecker_factors(0.9, bias_correction=True)
MEMBERS: dict[str, Callable[[], gx.GradientTransformation]] = {
    "M-FAC": lambda: gx.precondition_mfac(3, 0.1),
    "sparse M-FAC": lambda: gx.error_feedback(SPARSE, inner=gx.precondition_mfac(3, 0.1, SPARSE)),
    "low-rank M-FAC": lambda: gx.error_feedback(LOW, inner=gx.precondition_mfac(3, 0.1, LOW)),
    "M-FAC of one vector": lambda: gx.flatten(gx.precondition_mfac(3, 0.1)),
    "GGT": lambda: gx.precondition_ggt(3, eps=0.1),
    "Shampoo": lambda: gx.scale_by_inverse_roots(FACTORS, eps=1e-2, every=2),
    "KL": lambda: gx.scale_by_inverse_roots(gx.kronecker_factors(0.9, "kl"), eps=1e-2),
    "SOAP": lambda: gx.in_eigenbasis(gx.scale_by_adam(eps=1e-3), basis=gx.eigenbasis(every=2)),
    "PSGD": lambda: gx.precondition_by_kron(),
    "Muon": lambda: gx.masked(gx.orthogonalize(), lambda info: len(info.shape) > 1),
}
NEIGHBOURS: dict[str, Callable[[Any], gx.GradientTransformation]] = {
    "clip": lambda tx: gx.chain(gx.clip_by_global_norm(1.0), gx.clip(0.5), tx),
    "graft": lambda tx: gx.parallel(gx.scale_by_adam(), tx, merge=gx.graft),
    "cautious": lambda tx: gx.chain(tx, gx.cautious_mask()),
    "decay": lambda tx: gx.chain(tx, gx.add_decayed_weights(0.1)),
}


def normal(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=generator) for k, s in SHAPES.items()}


@pytest.mark.parametrize("where", NEIGHBOURS)
@pytest.mark.parametrize("member", MEMBERS)
def test_between_neighbours(member: str, where: str) -> None:
    tx = gx.chain(NEIGHBOURS[where](MEMBERS[member]()), gx.scale_by_learning_rate(0.01))
    params, fused = normal(0), normal(0)
    state, kept = tx.init(params), tx.init(fused)
    step = gx.fuse(tx)
    for t in range(1, 5):
        if t == 3:  # from a file
            file = io.BytesIO()
            torch.save(gx.tree.leaves(state), file)
            file.seek(0)
            leaves, spec = gx.tree.flatten(state)
            state = spec.unflatten(torch.load(file))
            assert len(leaves) == len(gx.tree.leaves(state))
            kept = copy.deepcopy(kept)
        updates, state = tx.update(normal(t), state, params)
        assert all(u.isfinite().all() for u in updates.values())
        assert any(u.any() for u in updates.values()) or (member == "SOAP" and t == 1)
        params = gx.apply_updates(params, updates)
        fused, kept = step(fused, normal(t), kept)
    for name, p in params.items():
        torch.testing.assert_close(fused[name], p, rtol=1e-5, atol=1e-6)
