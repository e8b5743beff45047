"""gradtx computes what Optax computes: recorded float64 trajectories are replayed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradtx as gx

from . import cases
from .calls import COUNTS, STEPS, VALUES, Call, Following, data, pull

PATH = Path(__file__).with_name("optax.npz")


@pytest.fixture(scope="module")
def recorded():
    with np.load(PATH) as file:
        return dict(file)


class OurFollowing(Following, gx.StatefulSchedule):
    pass


def build(x: Any) -> Any:
    """The gradtx object that a call describes."""
    if isinstance(x, Call):
        arguments = {k: build(v) for k, v in (x.arguments | x.ours_only).items()}
        if x.name == "chain":
            return gx.chain(*arguments["members"])
        if x.name == "inject_hyperparams":
            following = {"following": OurFollowing(torch.zeros((), dtype=torch.float64))}
            values = {k: following.get(v, v) for k, v in arguments["hyperparams"].items()}
            return gx.inject_hyperparams(getattr(gx, arguments["transform"])(), values)
        if x.kind == "function":
            return functools.partial(getattr(gx, x.name), **arguments)
        if "learning_rate" in arguments:
            arguments["lr"] = arguments.pop("learning_rate")
        return getattr(gx.schedules if x.kind == "schedule" else gx, x.name)(**arguments)
    if isinstance(x, dict):
        return {k: build(v) for k, v in x.items()}
    return [build(v) for v in x] if isinstance(x, list) else x


def as_torch(tree: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(x)) for name, x in tree.items()}


def flat(tree: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([tree[name].reshape(-1) for name in sorted(tree)]).numpy()


@pytest.mark.parametrize("case", cases.TRAJECTORIES, ids=lambda case: case.id)
def test_updates_are_those_of_optax(case, recorded):
    want = recorded[f"updates/{case.id}"]
    params, grads = data(case.tree)
    tx = build(case.call)
    state = tx.init(as_torch(params[0]))
    assert len(want) == STEPS
    for t, (p, g) in enumerate(zip(params, grads, strict=True)):
        updates, state = tx.update(as_torch(g), state, as_torch(p), value=VALUES[t], grad_fn=pull)
        np.testing.assert_allclose(
            flat(updates), want[t], rtol=case.rtol, atol=1e-14, err_msg=f"{case.id}, step {t}"
        )


@pytest.mark.parametrize("name", cases.SCHEDULES)
def test_schedule_values_are_those_of_optax(name, recorded):
    want = recorded[f"schedule/{name}"]
    schedule = build(cases.SCHEDULES[name])
    counts = torch.arange(COUNTS, dtype=torch.int32)
    one_by_one = [schedule(t) for t in range(COUNTS)]
    tensors = torch.stack([schedule(t) for t in counts])
    assert all(type(x) is float for x in one_by_one)
    assert tensors.dtype == torch.float64
    for got in (np.array(one_by_one), tensors.numpy(), torch.vmap(schedule)(counts).numpy()):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-14)


def test_every_trajectory_is_recorded_and_replayed(recorded):
    ids = [case.id for case in cases.TRAJECTORIES]
    assert len(ids) == len(set(ids))
    names = {f"updates/{i}" for i in ids} | {f"schedule/{n}" for n in cases.SCHEDULES}
    assert names == set(recorded) - {"versions"}


def test_every_schedule_of_optax_is_recorded():
    replayed = {call.name for call in cases.SCHEDULES.values()}
    assert replayed == set(gx.schedules.__all__) - {"Schedule", "warmup_stable_decay"}
