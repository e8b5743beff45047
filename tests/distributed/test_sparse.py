"""Workers that send few entries or frequencies, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.distributed import Simulation

gd = gx.distributed


def gradients(step: int, shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for _ in range(2)]


def cosines(n: int) -> Tensor:
    """The orthonormal DCT-II as a matrix, written out."""
    k, j = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    c = math.sqrt(2 / n) * torch.cos(math.pi * k * (2 * j + 1) / (2 * n))
    c[0] /= math.sqrt(2)
    return c


def strongest(m: Tensor, k: int, a: int, b: int) -> Tensor:
    """A matrix with only the k strongest frequencies of every a x b tile."""
    out, (left, right) = torch.zeros_like(m), (cosines(a), cosines(b))
    for i in range(0, m.shape[0], a):
        for j in range(0, m.shape[1], b):
            y = left @ m[i : i + a, j : j + b] @ right.T
            bound = y.abs().flatten().sort(descending=True).values[k - 1]
            out[i : i + a, j : j + b] = left.T @ torch.where(y.abs() >= bound, y, 0.0) @ right
    return out


def test_demo() -> None:
    """Tiles of 6 x 10 up to 4 have sides 3 and 2."""
    lr, momentum, decay, k = 0.1, 0.9, 0.01, 2
    method = gd.demo(lr, momentum, k, block=4, weight_decay=decay)
    p = gradients(0, (6, 10))[0].double()
    workers = Simulation(method, {"w": p}, 2)
    kept = [torch.zeros_like(p) for _ in range(2)]
    for step in range(1, 4):
        gs = [g.double() for g in gradients(step, (6, 10))]
        workers.step([{"w": g} for g in gs])
        sent = []
        for m, g in enumerate(gs):
            total = momentum * kept[m] + g
            sent.append(strongest(total, k, 3, 2))
            kept[m] = total - sent[m]
        mean = sum(sent) / 2
        p = p - lr * (mean.sign() + decay * p)
        for got in workers.params:
            torch.testing.assert_close(got["w"], p)
    assert workers.sent_bytes == 3 * 10 * k * (2 + 8)


def test_sparse_loco_remembers_what_it_does_not_send() -> None:
    """The anchor moves by the mean of what is sent; nothing of a drift is lost but for decay."""
    method = gd.sparse_loco(gx.sgd(1.0), density=0.1, decay=0.5, every=2, block_size=32)
    start = gradients(0, (16, 8))[0]
    workers = Simulation(method, {"w": start}, 2)
    error = torch.zeros(16, 8)
    for step in range(0, 6, 2):
        anchor = workers.states[0].syncs[0].anchor["w"]
        drift = torch.zeros(16, 8)
        for t in (step, step + 1):
            gs = gradients(10 + t, (16, 8))
            drift += sum(gs) / 2
            workers.step([{"w": g} for g in gs])
        sent = anchor - workers.states[0].syncs[0].anchor["w"]
        after = sum(s.syncs[0].residuals["w"].error for s in workers.states) / 2
        torch.testing.assert_close(0.5 * error + drift, sent + after, rtol=1e-5, atol=1e-5)
        error = after
        assert int((sent != 0).sum()) <= 2 * 4 * 4  # 4 of 32 in 4 blocks of 2 workers
    assert workers.sent_bytes == 3 * (16 * 2 + 4 + 4 * 8)


def test_few_bits_of_what_is_kept() -> None:
    compressor = gx.distributed.quantized(gx.compressors.top_k(k=4))
    x = torch.tensor([0.0, 9.0, -9.0, 1.0, 3.5, -2.5])
    payload, _ = compressor.compress(x, compressor.init(x))
    assert payload.to_dense().tolist() == [0.0, 9.0, -9.0, 0.0, 3.0, -3.0]
    assert compressor.residual(x, payload).tolist() == [0.0, 0.0, 0.0, 1.0, 0.5, 0.5]
    assert compressor.nbits(payload) == 4 * 32 + 8 + 2 * 32


def test_all_frequencies_are_everything() -> None:
    for shape in ((6, 10), (7,), (), (4, 3, 2), (0, 3)):
        x = torch.randn(shape)
        got, _ = gx.compressors.dct_top_k(1000, 8).compress(x, ())
        torch.testing.assert_close(got, x, rtol=1e-5, atol=1e-5)


def test_bad_options() -> None:
    c = gx.compressors
    with pytest.raises(TypeError, match="quantized: compressor must keep entries"):
        gd.quantized(c.sign())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must round to nearest"):
        gd.quantized(c.top_k(0.1), gx.codecs.affine(2, rounding="stochastic"))
    with pytest.raises(ValueError, match=r"block must be an integer in \[1, 181\], got 182"):
        c.dct_top_k(block=182)
    with pytest.raises(ValueError, match="density must be in"):
        gd.sparse_loco(gx.sgd(0.1), density=0.0)
    method = gd.LocalSteps(gx.sgd(0.1), (gd.exchange_held(gx.sgd(0.1)),))
    workers = Simulation(method, {"w": torch.zeros(1)})
    with pytest.raises(ValueError, match="nothing is held"):
        workers.step([{"w": torch.ones(1)}] * 2)
