"""Sums of clipped per-example gradients against a loop over examples."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx

G = {
    "w": torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)),
    "b": torch.randn(5, generator=torch.Generator().manual_seed(1)),
    "n": None,
}


def test_global_norm() -> None:
    G["w"][2] = 0
    G["b"][2] = 0
    got, clipped = gx.per_example_global_norm_clip(G, 1.5)
    tx, want, count = gx.clip_by_global_norm(1.5), None, 0
    for i in range(5):
        one = gx.tree.map(lambda g, i=i: g[i], G)
        count += int(gx.tree.norm(one) > 1.5)
        cut = tx.update(one, ())[0]
        want = cut if want is None else gx.tree.add(want, cut)
    torch.testing.assert_close([got["w"], got["b"]], [want["w"], want["b"]])
    assert got["n"] is None
    assert clipped == count


@pytest.mark.parametrize("uniform", [True, False])
def test_layer_norm(uniform: bool) -> None:
    got, clipped = gx.per_example_layer_norm_clip(G, 1.5, uniform)
    for name, share in (("w", 6 / 7), ("b", 1 / 7)):
        most = 1.5 * (0.5 if uniform else share) ** 0.5
        norms = G[name].reshape(5, -1).norm(dim=1)
        factors = torch.clamp(most / norms.clamp(min=1e-30), max=1)
        torch.testing.assert_close(got[name], torch.tensordot(factors, G[name], 1))
        assert clipped[name] == (norms > most).sum()
    assert clipped["n"] is None


def test_examples_are_counted() -> None:
    for bad in ({"a": torch.ones(2), "b": torch.ones(3)}, {"a": torch.tensor(1.0)}, {"a": None}):
        with pytest.raises(ValueError, match="the same number of examples"):
            gx.per_example_global_norm_clip(bad, 1.0)
