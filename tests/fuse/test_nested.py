"""States as nested dicts, the way an optimizer keeps them."""

import pytest
import torch

import gradtx as gx
from gradtx.fuse import CannotFuseError, NestedEngine


def nested(step: int = 0, count: int = 0) -> dict:
    return {
        "scale_by_adam": {
            "step": torch.tensor(step, dtype=torch.int32),
            "mu": torch.zeros(3),
            "nu": torch.zeros(3),
        },
        "scale_by_schedule": {"step": torch.tensor(count, dtype=torch.int32)},
    }


def chain() -> gx.GradientTransformation:
    schedule = gx.schedules.linear(-1.0, 0.0, 10)
    return gx.chain(gx.scale_by_adam(), gx.scale_by_schedule(schedule))


def test_steps_of_some_parameters() -> None:
    engine = NestedEngine(chain())
    params = [torch.zeros(3), torch.zeros(3)]
    states = [nested(), nested()]
    row = engine.defaults()
    assert set(row) == {f"scale_by_adam.{n}" for n in ("b1", "b2", "eps", "eps_root")}
    for active in ([0, 1], [1], [0, 1], [0, 1]):
        here = [params[i] for i in active]
        engine.run(
            here,
            [torch.ones(3)] * len(here),
            [states[i] for i in active],
            lambda here=here: dict(enumerate(here)),
            [row],
            [0] * len(here),
            others=[s for i, s in enumerate(states) if i not in active],
        )
    assert [s["scale_by_adam"]["step"].item() for s in states] == [3, 4]
    assert [s["scale_by_schedule"]["step"].item() for s in states] == [4, 4]
    torch.testing.assert_close(params[0], torch.full((3,), -(1.0 + 0.8 + 0.7)))
    torch.testing.assert_close(params[1], torch.full((3,), -(1.0 + 0.9 + 0.8 + 0.7)))


def test_rows_and_maximize() -> None:
    tx = gx.chain(gx.trace(0.5), gx.scale(-1.0))
    engine = NestedEngine(tx)
    params = [torch.zeros(3), torch.zeros(3)]
    states = [{"trace": {"trace": torch.zeros(3)}} for _ in params]
    rows = [engine.defaults() | {"scale.step_size": -2.0}, engine.defaults()]
    tree = lambda: {"a": params[0], "b": params[1]}  # noqa: E731
    engine.run(params, [torch.ones(3)] * 2, states, tree, rows, [0, 1], [False, True])
    assert params[0].tolist() == [-2.0] * 3
    assert params[1].tolist() == [1.0] * 3


def test_a_missing_entry_is_refused() -> None:
    engine = NestedEngine(chain())
    p, state = torch.zeros(3), nested()
    del state["scale_by_adam"]["mu"]
    with pytest.raises(CannotFuseError, match=r"no entry 'scale_by_adam.mu'"):
        engine.run([p], [torch.ones(3)], [state], lambda: {"a": p}, [engine.defaults()], [0])
    assert p.eq(0).all()


def test_explain() -> None:
    params = {"w": torch.ones(1000)}
    text = gx.explain(gx.adamw(1e-3), params)
    assert "28.0 bytes, 1.00 times" in text
    assert "fused, 1 pass" in text
    text = gx.explain(gx.chain(gx.scale_by_adam(), gx.cautious_mask()), params)
    assert "fused, 2 passes" in text
    text = gx.explain(gx.chain(gx.trace(0.9), gx.centralize()), {"w": torch.ones(4, 4)})
    assert "fused, 2 passes" in text
    text = gx.explain(gx.chain(gx.trace(0.9), gx.flatten(gx.trace(0.5))), {"w": torch.ones(4, 4)})
    assert "torch operations" in text
    assert "flatten: " in text
    assert params["w"].eq(1).all()
