"""Inverse roots are at least as exact as published solvers, setting by setting."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import gradtx as gx
from gradtx.precondition.inverse_roots import (
    chebyshev,
    coupled_newton,
    evd,
    frobenius,
    higher_order_newton,
    newton_db,
    power_iteration,
)
from tests.goldens.test_goldens import FOLDER

FILES = sorted((FOLDER / "inverse_roots").glob("cond*.npz"))
needs_files = pytest.mark.skipif(not FILES, reason=f"no inverse roots in {FOLDER}")
BF16 = torch.bfloat16


def settings(scale):
    """The method and eps behind every name of the table; DASH's scale is in bfloat16."""
    norm = frobenius(scale)
    several = power_iteration(vectors=16, dtype=scale)
    out = {
        "evd_shampoo_eps1e-10": (evd("shift_and_add", dtype=None), 1e-10),
        "evd_absadd_eps1e-10": (evd("abs_add", dtype=None), 1e-10),
        "meta_eigh_eps1e-12": (evd(dtype=None), 1e-12),
        "meta_newton_100it_1e-6": (coupled_newton(100), 0.0),
        "meta_higher_order3": (higher_order_newton(tol=1e-20), 0.0),
        "cn_pim2_10": (coupled_newton(10, scaling=several, stop="stack"), 0.0),
        "ndb_pim2_10": (newton_db(10, several), 0.0),
    }
    for steps in (10, 30):
        out[f"cn_fro_{steps}"] = (coupled_newton(steps, scaling=norm, stop="stack"), 0.0)
    for steps in (10, 20, 40):
        out[f"ndb_fro_{steps}"] = (newton_db(steps, norm), 0.0)
    for name, low in (("fp16", torch.float16), ("bf16", BF16)):
        newton = coupled_newton(10, scaling=norm, stop="stack", matmul_dtype=low)
        out[f"cn_fro_10_{name}"] = (newton, 0.0)
        out[f"ndb_fro_10_{name}"] = (newton_db(10, norm, low), 0.0)
    for name, degree, resolution in (
        ("20", 20, 1e-10),
        ("100", 100, 1e-10),
        ("60_eps1e-3", 60, 1e-3),
        ("60_eps1e-2", 60, 1e-2),
    ):
        polynomial = chebyshev(degree, resolution, norm, rescale=False)
        out[f"cbshv_fro_{name}"] = (polynomial, 0.0)
    return out


def errors(x, exact):
    """Relative error, and that after the best factor."""
    x, size = x.double(), exact.norm()
    factor = (x * exact).sum() / (x * x).sum()
    return [float((x - exact).norm() / size), float((factor * x - exact).norm() / size)]


# Published figures above this are of iterations that diverge: noise, of any size.
NOISE = 0.4


@needs_files
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", [BF16, None], ids=["their_scale", "our_scale"])
def test_figures_of_published_solvers(path, scale):
    arrays = np.load(path)
    a = torch.from_numpy(arrays["A"])
    condition = float((arrays["eigenvalues"].max(-1) / arrays["eigenvalues"].min(-1)).max())
    known, worse = settings(scale), []
    for key, published in json.loads(str(arrays["meta"]))["figures"].items():
        name, dtype, root = key.split("/")
        method, eps = known[name]
        p = int(root[1:])
        x = a.to(torch.float32 if dtype == "f32" else torch.float64)
        got = gx.matrix_root(x, p, method, eps=eps).root
        rows = [i for i, row in enumerate(published) if row is not None and row[1] < NOISE]
        if not rows:
            continue
        exact = torch.from_numpy(arrays[f"inv_root{p}"])
        # Where iterations stagnate at rounding it is chance which of two matrices fares better.
        ours = [
            max(column) for column in zip(*(errors(got[i], exact[i]) for i in rows), strict=True)
        ]
        theirs = [
            max(column) for column in list(zip(*(published[i] for i in rows), strict=True))[:2]
        ]
        least = 1e-16 * condition if dtype == "f64" else 0.0
        # With a scale of our own only what a factor cannot change can be compared.
        pairs = list(zip(ours, theirs, strict=True))[0 if scale else 1 :]
        if not all(o <= 2 * t + least for o, t in pairs):
            worse.append((key, ours, theirs))
    assert not worse


@needs_files
@pytest.mark.parametrize("p", [2, 4])
def test_float64_inside_is_better_than_the_best_of_all(p):
    for path in FILES[:8]:  # beyond 1e8 float32 does not hold the matrix
        arrays = np.load(path)
        a = torch.from_numpy(arrays["A"]).float()
        figures = json.loads(str(arrays["meta"]))["figures"]
        best = min(
            max(row[1] if row else np.inf for row in rows)
            for key, rows in figures.items()
            if key.endswith(f"f32/p{p}")
        )
        for method in (evd(), coupled_newton(dtype=torch.float64), newton_db(dtype=torch.float64)):
            got = gx.matrix_root(a, p, method).root
            exact = torch.from_numpy(arrays[f"inv_root{p}"])
            ours = max(errors(x, e)[1] for x, e in zip(got, exact, strict=True))
            assert ours <= best, (path.stem, method)
