"""Leaves cut by rows between processes, which are threads here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.fuse import CannotFuseError, NestedEngine, Rows
from gradtx.optim.leaves import Leaves, to_nested

# Even, uneven, with one part empty, and of dimensions that are merged.
SHAPES = {"w": (8, 6), "u": (7, 5), "o": (1, 6), "b": (12,), "k": (4, 3, 2)}
# With how many messages a step takes.
CHAINS: dict[str, tuple[gx.GradientTransformation, int]] = {
    "adafactor": (gx.adafactor(0.1, min_dim_size_to_factor=2), 2),
    "factored": (gx.adam_adv(0.1, factored=True), 1),
    "lamb": (gx.lamb(0.1, weight_decay=0.1), 1),
    "cautious": (gx.chain(gx.scale_by_adam(), gx.cautious_mask(), gx.scale(-0.1)), 1),
    "clipped": (gx.chain(gx.clip_by_global_norm(0.5), gx.scale_by_trust_ratio(), gx.scale(-1)), 2),
}


class Meeting:
    """``reduce`` between threads; counts messages."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=60)
        self.given: list[Any] = [None] * count
        self.messages = 0

    def side(self, i: int) -> Any:
        meeting = self

        class Side:
            def __init__(self) -> None:
                self.sum = lambda x: self.joined(x, torch.sum)
                self.max = lambda x: self.joined(x, torch.amax)

            def joined(self, x: Tensor, how: Callable[..., Tensor]) -> Tensor:
                meeting.given[i] = x
                meeting.barrier.wait()
                total = how(torch.stack(meeting.given), 0)
                meeting.messages += i == 0
                meeting.barrier.wait()
                return total

        return Side()


def given(seed: int, names: Iterable[str]) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(SHAPES[n], generator=g) for n in names}


def rows_of(shape: tuple[int, ...], own: int) -> Rows:
    n = shape[0]
    each, numel = -(-n // 2), torch.Size(shape).numel()
    bounds = (0, min(each, n) * (numel // n), numel)
    return Rows(torch.empty(shape, device="meta"), bounds, own)


def run(tx: gx.GradientTransformation, side: Any = None, own: int = 0) -> dict[str, Tensor]:
    """Three steps; of all rows, or of one part of them."""
    # Matrices that are stacked have factors of another kind.
    names = [n for n in SHAPES if not (n == "k" and "factored_rms" in repr(tx))]
    whole = given(0, names)
    state = tx.init(Leaves(whole))
    nested = {n: to_nested(state, n) for n in whole}
    rows = {n: rows_of(SHAPES[n], own) for n in names}
    params = whole if side is None else {n: rows[n].of(x).clone() for n, x in whole.items()}
    by_param = {} if side is None else {params[n]: rows[n] for n in params}
    engine = NestedEngine(tx, side, by_param)

    def cut(n: str, value: Any, path: tuple[str, ...], flags: dict[Any, Any]) -> Any:
        if isinstance(value, dict):
            return {k: cut(n, v, (*path, k), flags) for k, v in value.items()}
        return rows[n].of(value).clone() if path in flags else value.clone()

    if side is not None:
        nested = {
            n: cut(n, nested[n], (), engine.cut_states(p, Leaves({n: p})))
            for n, p in params.items()
        }
    for t in range(3):
        grads = given(t + 1, names)
        if side is not None:
            grads = {n: rows[n].of(g).contiguous() for n, g in grads.items()}
        engine.run(
            list(params.values()),
            list(grads.values()),
            list(nested.values()),
            lambda: Leaves(params),
            [engine.defaults()],
            [0] * len(params),
        )
    return params


@pytest.mark.parametrize("name", CHAINS)
def test_parts_equal_the_whole(name: str) -> None:
    tx, messages = CHAINS[name]
    meeting, found = Meeting(2), [dict[str, Tensor]() for _ in range(2)]
    errors: list[BaseException] = []

    def work(i: int) -> None:
        try:
            found[i] = run(tx, meeting.side(i), i)
        except BaseException as error:
            meeting.barrier.abort()
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next(
            (e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0]
        )
    want = run(tx)
    for n, x in want.items():
        got = torch.cat([part[n] for part in found])
        assert torch.allclose(got, x, rtol=1e-6, atol=1e-7), (n, (got - x).abs().max())
    assert meeting.messages == 3 * messages


def test_what_depends_on_positions_is_refused() -> None:
    p = torch.zeros(4, 6)
    blocks = gx.scale_by_adam(mu_codec=gx.codecs.blockwise(8, block_size=8, min_size=0))
    opt = gx.optim.ACDC([torch.nn.Parameter(p)])
    events = opt.transform_of(opt.param_groups[0])
    for tx in (blocks, events):
        engine = NestedEngine(tx, Meeting(1).side(0), {p: rows_of((8, 6), 0)})
        with pytest.raises(CannotFuseError):
            engine.cut_states(p, Leaves({"w": p}))


def test_where_there_are_no_rows_it_is_refused_as_elsewhere() -> None:
    """All processes must come to the same, and a basis is for whole matrices."""
    tx = gx.apollo(0.1, rank=2)
    for own, rows in enumerate((1, 1, 0)):
        p = torch.zeros(rows, 3)
        leaf = Rows(torch.empty(2, 3, device="meta"), (0, 3, 6, 6), own)
        engine = NestedEngine(tx, Meeting(1).side(0), {p: leaf})
        with pytest.raises(CannotFuseError):
            engine.cut_states(p, Leaves({"w": p}))
