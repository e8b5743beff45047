"""torch.func.vmap of an update."""

from __future__ import annotations

from typing import Any

import torch

from ..core import tree
from ..core.hyper import is_per_entry
from .claims import require_close
from .members import Dynamic, with_seed
from .subject import Subject, holds_for_all
from .trees import call, run, some_grads, some_params

BATCH = 3


def pick(trees: Any, i: int) -> Any:
    """One of a batch."""
    return tree.map(lambda x: x[i], trees)


def stack(trees: list[Any]) -> Any:
    """A batch of trees as one."""
    return tree.map(lambda *xs: torch.stack(xs), *trees)


@holds_for_all
def vmap(s: Subject) -> None:
    """A batch of trees in one call is the same as a run for each."""
    params = stack([some_params(), *(some_grads(50 + i) for i in range(BATCH - 1))])
    state = torch.func.vmap(s.tx.init)(params)
    step = torch.func.vmap(lambda g, s_, p: call(s.tx, g, s_, p))
    outs = []
    for t in range(3):
        out, state = step(stack([some_grads(10 * t + i) for i in range(BATCH)]), state, params)
        outs.append(out)
    for i in range(BATCH):
        want = alone(s, pick(params, i), i)
        require_close([pick(out, i) for out in outs], want[0], "the updates", rtol=1e-5)
        require_close(pick(state, i), want[1], "the state", rtol=1e-5)


def alone(s: Subject, params: Any, i: int) -> Any:
    """The run for one of the batch."""
    return run(s.tx, params, lambda t: some_grads(10 * t + i), steps=3)


@holds_for_all
def vmap_hyper(s: Subject) -> None:
    """Every dynamic hyperparameter may be batched."""
    params, grads, state = some_params(), some_grads(1), s.state_after(1)
    for d in s.dynamics:
        shares = [d.other_value(share) for share in (0.2, 0.5, 0.8)]
        values = torch.tensor(shares, dtype=torch.float32, device="cpu")

        def step(value: torch.Tensor, d: Dynamic = d) -> Any:
            return call(s.tx, grads, state, params, hyper={d.key: value})

        batched = torch.func.vmap(step)(values)
        for i, value in enumerate(values):
            require_close(pick(batched, i), step(value), f"with batched {d.key}", rtol=1e-5)


@holds_for_all
def vmap_per_entry(s: Subject) -> None:
    """So may hyperparameters of which every entry of every leaf has its own."""
    params, grads, state = some_params(), some_grads(1), s.state_after(1)
    for d in s.dynamics:
        if not is_per_entry(d.member, d.name):
            continue
        low, high = d.other_value(0.2), d.other_value(0.8)
        members = [
            tree.map(lambda x, a=low, b=high: a + (b - a) * torch.sigmoid(x), some_grads(50 + i))
            for i in range(BATCH)
        ]

        def step(values: Any, d: Dynamic = d) -> Any:
            return call(s.tx, grads, state, params, hyper={d.key: values})

        batched = torch.func.vmap(step)(stack(members))
        for i, values in enumerate(members):
            what = f"with a batch of {d.key}, one an entry"
            require_close(pick(batched, i), step(values), what, rtol=1e-5)


@holds_for_all
def vmap_seed(s: Subject) -> None:
    """The members of an ensemble draw numbers of their own if the seed is mapped over."""
    if with_seed(s.tx, 17) == s.tx:
        return
    params, grads = some_params(), [some_grads(1), some_grads(2)]

    def steps(seed: Any) -> Any:
        tx = with_seed(s.tx, seed)
        state, outs = tx.init(params), []
        for each in grads:
            out, state = call(tx, each, state, params)
            outs.append(out)
        return outs, state

    batched = torch.func.vmap(steps)(torch.tensor([17, -3], dtype=torch.int64, device="cpu"))
    for i, seed in enumerate((17, -3)):
        require_close(pick(batched, i), steps(seed), "with a batch of seeds", rtol=1e-5)
