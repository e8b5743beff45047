"""The operator of Adam on chosen columns, against its formulas in float64."""

from __future__ import annotations

import pytest
import torch

from gradtx.ops import column_adam
from gradtx.ops.column_adam import moments


@pytest.mark.parametrize("transfer", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("length", [1, 37, 5000])
def test_against_float64(length, dim, transfer, threads):
    torch.manual_seed(length)
    k = 17
    old, now = (torch.randperm(40)[:k].sort().values for _ in range(2))
    x, mu, nu = torch.randn(length, k), torch.randn(length, k), torch.rand(length, k)
    if dim == 0:
        x, mu, nu = x.mT, mu.mT.contiguous(), nu.mT
    count, rates = torch.tensor(7, dtype=torch.int32), (0.9, 0.999, 1e-8)
    out = column_adam(x, mu, nu, old.int(), now, count, *rates, dim, transfer)
    doubles = (z.double() for z in (x, mu, nu))
    want = moments(*doubles, old, now, count, *rates, dim, transfer)
    single = moments(x, mu, nu, old, now, count, *rates, dim, transfer)
    for a, b, c in zip(out, want, single, strict=True):
        error = (a.double() - b).abs().max()
        assert error <= 2 * (c.double() - b).abs().max() + 1e-7 * b.abs().max()


def test_indices_need_no_order():
    """What is not sorted is found as the reference finds it."""
    x, index = torch.ones(2, 3), torch.tensor([5, 0, 3], dtype=torch.int32)
    mu, count = torch.arange(6.0).reshape(2, 3), torch.tensor(1, dtype=torch.int32)
    args = (x, mu, mu, index, torch.tensor([3, 4, 5]), count, 0.5, 0.5, 1e-8, 1, True)
    for a, b in zip(column_adam(*args), moments(*args), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
