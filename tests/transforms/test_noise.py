"""add_noise: variance, independence, reproducibility."""

from __future__ import annotations

import copy

import pytest
import torch

import gradtx as gx
from gradtx.core.numbered import of_parts


def run(tx, params, state, steps, hyper=None):
    out = []
    for _ in range(steps):
        updates, state = tx.update(gx.tree.zeros_like(params), state, hyper=hyper)
        out.append(updates)
    return out, state


def test_variance_follows_the_formula():
    tx = gx.add_noise(eta=0.5, gamma=1.5, seed=1)
    params = {"w": torch.zeros(200, 200)}
    noises, _ = run(tx, params, tx.init(params), 4)
    for t, noise in enumerate(noises):
        variance = 0.5 / (1 + t) ** 1.5
        # The standard error of a variance of n normal numbers is sqrt(2 / n) of it: 0.7 % here.
        assert noise["w"].var().item() == pytest.approx(variance, rel=0.035)
        assert abs(noise["w"].mean().item()) < 5 * (variance / 40000) ** 0.5


def test_leaves_steps_and_seeds_are_independent():
    params = {"a": torch.zeros(1000), "b": torch.zeros(1000)}
    first, other = gx.add_noise(1.0, 0.0, seed=0), gx.add_noise(1.0, 0.0, seed=1)
    noises, _ = run(first, params, first.init(params), 2)
    draws = [noises[0]["a"], noises[0]["b"], noises[1]["a"], noises[1]["b"]]
    draws.append(run(other, params, other.init(params), 1)[0][0]["a"])
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(5)
    assert correlation.abs().max() < 0.15


def test_members_of_an_ensemble_draw_noise_of_their_own():
    params = {"w": torch.zeros(500)}

    def noise(seed):
        tx = gx.add_noise(1.0, 0.0, seed=seed)
        return tx.update(params, tx.init(params))[0]["w"]

    draws = torch.func.vmap(noise)(torch.arange(4))
    assert torch.equal(draws, torch.stack([noise(i) for i in range(4)]))
    assert (torch.corrcoef(draws) - torch.eye(4)).abs().max() < 0.2


@pytest.mark.parametrize("seed", [torch.tensor(0.0), torch.tensor([1, 2]), torch.tensor(True), 0.5])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        gx.add_noise(1.0, 0.0, seed=seed)


def test_a_restored_state_continues_the_stream_bit_by_bit():
    tx = gx.add_noise(0.1, 0.55, seed=3)
    params = {"w": torch.zeros(5, 3), "s": torch.zeros(())}
    through, _ = run(tx, params, tx.init(params), 6)
    _, state = run(tx, params, tx.init(params), 3)
    resumed, _ = run(tx, params, copy.deepcopy(state), 3)
    for want, got in zip(through[3:], resumed, strict=True):
        assert all(torch.equal(want[name], got[name]) for name in params)


def test_a_leaf_does_not_depend_on_its_neighbours():
    tx = gx.add_noise(0.1, 0.55, seed=3)
    alone, both = {"w": torch.zeros(5)}, {"a": torch.zeros(2), "w": torch.zeros(5)}
    one, two = run(tx, alone, tx.init(alone), 2)[0], run(tx, both, tx.init(both), 2)[0]
    assert torch.equal(one[1]["w"], two[1]["w"])


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    tx = gx.add_noise(0.1, 0.55)
    run(tx, {"w": torch.zeros(5)}, tx.init({"w": torch.zeros(5)}), 1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", [1.5, True, 2**64])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="add_noise: seed must be a 64-bit integer"):
        gx.add_noise(0.1, 0.5, seed=seed)


@pytest.mark.parametrize("shape", [(7, 5), (6, 1), (4, 6)])
def test_parts_have_the_noise_that_they_have_in_their_leaf(shape):
    tx = gx.add_noise(eta=1.0, gamma=0.0, seed=1)
    whole, own = {"w": torch.zeros(shape)}, of_parts(tx)
    wanted, _ = run(tx, whole, tx.init(whole), 2)
    for rows, columns in (((0, 2), (0, 9)), ((1, 4), (0, 1)), ((3, 4), (1, 4)), ((2, 2), (0, 2))):
        where = slice(*rows), slice(*columns)
        part = {"w": whole["w"][where]}
        numbers = rows[0] * shape[1] + columns[0], max(part["w"].shape[1], 1), shape[1]
        for make in (int, torch.tensor):
            names = ("part_first", "part_length", "part_distance")
            hyper = dict(zip(names, map(make, numbers), strict=True))
            found, _ = run(own, part, own.init(part), 2, hyper)
            for some, every in zip(found, wanted, strict=True):
                assert torch.equal(some["w"], every["w"][where])
