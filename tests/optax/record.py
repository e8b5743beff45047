"""Record ``optax.npz`` with Optax: ``python -m tests.optax.record``.

Run by hand, in an environment with optax, jax and numpy (any recent versions; the file keeps the
versions it was made with). The tests need none of them: they read the file.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from . import cases
from .calls import COUNTS, VALUES, Call, Case, Following, data, pull

RENAMED = {"transform": "inner", "by": "param_labels"}
RENAMED_OF = {"mechanize": {"transform": "base_optimizer"}}
LOOKAHEAD = {"transform": "fast_optimizer"}
MULTI_STEPS = {"transform": "opt", "every_k": "every_k_schedule"}
SCHEDULE = {"step_size": "step_size_fn"}


class OptaxFollowing(Following, optax.schedules.StatefulSchedule):
    pass


def build(x: Any) -> Any:
    """The Optax object that a call describes."""
    if isinstance(x, Call):
        arguments = {k: build(v) for k, v in (x.arguments | x.optax_only).items()}
        if x.name == "chain":
            return optax.chain(*arguments["members"])
        if x.name == "inject_hyperparams":
            factory = getattr(optax, arguments["transform"])
            following = {"following": OptaxFollowing(jnp.zeros((), jnp.float64))}
            values = {k: following.get(v, v) for k, v in arguments["hyperparams"].items()}
            return optax.inject_hyperparams(factory)(**values)
        renamed = RENAMED_OF.get(x.name, RENAMED)
        if x.name == "lookahead":
            renamed = LOOKAHEAD
        elif x.name == "multi_steps":
            renamed = MULTI_STEPS
            arguments["accumulator_dtype"] = jnp.float64
        elif x.name == "scale_by_schedule":
            renamed = SCHEDULE
        room = optax if hasattr(optax, x.optax_name) else optax.contrib
        if x.kind == "function":
            return functools.partial(getattr(room, x.optax_name), **arguments)
        made = getattr(room, x.optax_name)(**{renamed.get(k, k): v for k, v in arguments.items()})
        if x.kind == "schedule":
            # Transforms count in int32, which divides to float32 even when float64 is enabled.
            return lambda count: made(jnp.asarray(count, jnp.int64))
        return made.gradient_transformation() if x.name == "multi_steps" else made
    if isinstance(x, dict):
        return {k: build(v) for k, v in x.items()}
    if isinstance(x, list):
        return [build(v) for v in x]
    return jnp.float64 if isinstance(x, str) and x == "float64" else x


def trajectory(case: Case) -> list[dict[str, np.ndarray]]:
    """The updates of every step."""
    params, grads = data(case.tree)
    tx = build(case.call)
    slow = as_jax(params[0])
    lookahead = case.call.name == "lookahead"
    state = tx.init(optax.LookaheadParams(slow, slow) if lookahead else slow)
    out = []
    tx = tx if lookahead else optax.with_extra_args_support(tx)
    for p, g, value in zip(params, grads, VALUES, strict=True):
        if lookahead:
            both = optax.LookaheadParams(as_jax(p), slow)
            updates, state = tx.update(as_jax(g), state, both)
            slow = optax.apply_updates(slow, updates.slow)
            updates = updates.fast
        else:
            extra = {"grad_fn": pull} if case.call.name == "sam" else {"value": value}
            updates, state = tx.update(as_jax(g), state, as_jax(p), **extra)
        for name, u in updates.items():
            if u.dtype != jnp.float64:
                raise TypeError(f"{case.id}: {name} is {u.dtype}; record it in float64")
        out.append({name: np.asarray(u) for name, u in updates.items()})
    return out


def as_jax(tree: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(x, jnp.float64) for name, x in tree.items()}


ROOMS = (
    *("", "contrib", "microbatching", "projections", "schedules", "second_order"),
    *("transforms", "tree"),
)
LEFT_OUT = ("assignment", "losses", "perturbations")


def names() -> list[str]:
    """Public functions and transforms, ``room.name``; no types, nor what is not optimization."""
    room_of = {name: importlib.import_module(f"optax.{name}".rstrip(".")) for name in ROOMS}
    others = {n for room in LEFT_OUT for n in dir(importlib.import_module(f"optax.{room}"))}
    found = []
    for room, module in room_of.items():
        for name in dir(module):
            thing = getattr(module, name)
            own = name[0].islower() or name == "MultiSteps"
            if own and callable(thing) and (room == "tree" or name not in others):
                found.append(f"{room}.{name}".lstrip("."))
    return sorted(found)


def main() -> None:
    Path(__file__).with_name("names.txt").write_text("\n".join(names()) + "\n")
    jax.config.update("jax_enable_x64", True)
    arrays: dict[str, np.ndarray] = {
        "versions": np.array(f"optax {optax.__version__}, jax {jax.__version__}")
    }
    for name, call in cases.SCHEDULES.items():
        fn = build(call)
        values = [float(fn(jnp.asarray(t))) for t in range(COUNTS)]
        arrays[f"schedule/{name}"] = np.array(values)
    for case in cases.TRAJECTORIES:
        steps = trajectory(case)
        # One flat row per step: leaves in alphabetical order.
        rows = [np.concatenate([s[n].ravel() for n in sorted(s)]) for s in steps]
        arrays[f"updates/{case.id}"] = np.stack(rows)
    path = Path(__file__).with_name("optax.npz")
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(arrays)} arrays, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
