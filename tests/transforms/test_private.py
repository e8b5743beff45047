"""Per-example gradients with clipping and noise."""

from __future__ import annotations

import pytest
import torch

import gradtx as gx


def test_noise_has_the_deviation_that_is_said_and_depends_on_seed_name_and_step() -> None:
    def drawn(seed: int, steps: int = 1) -> dict[str, torch.Tensor]:
        tx = gx.differentially_private_aggregate(0.5, 3.0, seed)
        grads = {"a": torch.zeros(4, 5000), "b": torch.zeros(4, 5000)}
        state = tx.init({"a": torch.zeros(5000), "b": torch.zeros(5000)})
        for _ in range(steps):
            updates, state = tx.update(grads, state)
        return updates

    one = drawn(1)
    assert one["a"].shape == (5000,)
    torch.testing.assert_close(one["a"].std(), torch.tensor(1.5 / 4), rtol=0.05, atol=0)
    assert torch.equal(one["a"], drawn(1)["a"])
    for other in (one["b"], drawn(2)["a"], drawn(1, 2)["a"]):
        assert torch.corrcoef(torch.stack([one["a"], other]))[0, 1].abs() < 0.06


def test_members_of_an_ensemble_have_their_own_noise_and_bounds() -> None:
    grads = {"w": torch.tensor([[3.0, 4.0], [0.3, 0.4]])}

    def step(bound: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        tx = gx.differentially_private_aggregate(bound, 1.0, seed)
        return tx.update(grads, tx.init({"w": torch.zeros(2)}))[0]["w"]

    out = torch.func.vmap(step)(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1, 2, 3]))
    assert not torch.equal(out[0], out[1])
    assert not out[2].any()


def test_dpsgd_learns_from_examples() -> None:
    x = torch.linspace(-1, 1, 16)[:, None]
    params = {"w": torch.zeros(1), "b": torch.zeros(())}

    def loss(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return (p["w"] * x + p["b"] - (2 * x + 1)).square().sum()

    tx = gx.dpsgd(0.3, l2_norm_clip=1.0, noise_multiplier=0.01, momentum=0.5)
    state, each = tx.init(params), torch.func.vmap(torch.func.grad(loss), (None, 0))
    for _ in range(100):
        updates, state = tx.update(each(params, x), state, params)
        params = gx.apply_updates(params, updates)
    assert abs(params["w"].item() - 2) < 0.1
    assert abs(params["b"].item() - 1) < 0.1


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match=r"l2_norm_clip must be in \[0, inf\), got -1"):
        gx.differentially_private_aggregate(-1.0, 1.0)
    tx = gx.differentially_private_aggregate(1.0, 1.0)
    params = {"a": torch.zeros(2), "b": torch.zeros(2)}
    with pytest.raises(ValueError, match="same number of examples"):
        tx.update({"a": torch.zeros(3, 2), "b": torch.zeros(4, 2)}, tx.init(params))
