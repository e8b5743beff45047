"""Measures of solutions against numbers known otherwise, and the report."""

import math
import re

import pytest
import torch
from torch import nn

import gradtx as gx

S = gx.solutions


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_norms():
    params = {"w": draw(3, 4), "b": None, "deep": {"v": draw(5)}}
    norms = S.weight_norms(params)
    assert list(norms) == ["w", "deep.v"]
    total = sum(x.square() for x in norms.values()).sqrt()
    torch.testing.assert_close(total, gx.tree.global_norm(params))
    start = gx.tree.zeros_like(params)
    assert S.update_norms(params, start) == norms
    assert S.update_norms(params, params)["w"] == 0
    with pytest.raises(gx.TreeMismatchError):
        S.update_norms(params, {"w": params["w"]})


def test_ranks_and_spectra():
    values = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    left, right = (torch.linalg.qr(draw(5, 5, seed=i)).Q for i in (1, 2))
    W = left[:, :3] * values @ right[:3]
    params = {"w": W, "conv": W.reshape(5, 5, 1, 1), "vector": draw(7), "zero": torch.zeros(2, 3)}
    assert list(S.spectra(params)) == ["w", "conv", "zero"]
    torch.testing.assert_close(S.spectra(params)["w"][:3], values)
    p = values / values.sum()
    for name in ("w", "conv"):
        assert S.stable_ranks(params)[name].item() == pytest.approx(21 / 16)
        wanted = math.exp(-(p * p.log()).sum().item())
        assert S.effective_ranks(params)[name].item() == pytest.approx(wanted)
    assert S.stable_ranks(params)["zero"] == S.effective_ranks(params)["zero"] == 0
    assert S.effective_ranks({"w": torch.ones(4, 4).bfloat16()})["w"].dtype == torch.float32


def test_zeros():
    w = torch.tensor([0.0, 1e-4, 0.5, 1.0])
    assert S.sparsity({"w": w})["w"] == 0.25
    assert S.sparsity({"w": w}, near=0.01)["w"] == 0.5
    assert S.sparsity({"w": torch.zeros(3)}, near=0.01)["w"] == 1
    with pytest.raises(ValueError, match=r"sparsity: near must be >= 0, got -1"):
        S.sparsity({"w": w}, near=-1)


def test_rounding():
    params = {"w": draw(40, 10).float(), "b": draw(7).float()}
    four, eight = (gx.capacity.absmax(f"int{bits}", 64) for bits in (4, 8))
    back = S.quantized(params, four)
    assert torch.equal(back["b"], params["b"])
    assert back["w"].shape == (40, 10)
    errors = S.quantization_errors(params, four)
    assert list(errors) == ["w"]
    wanted = (params["w"] - back["w"]).square().sum() / params["w"].square().sum()
    torch.testing.assert_close(errors["w"], wanted)
    assert errors["w"].item() == pytest.approx(four.exact_gmse(), rel=0.25)
    fine = S.quantization_errors(params, eight)["w"].item()
    assert fine == pytest.approx(eight.exact_gmse(), rel=0.25)
    assert S.quantization_errors({"w": torch.zeros(8, 8)})["w"] == 0


def test_outliers():
    x = draw(200, 500)
    normal = S.activation_outliers({"x": x})["x"]
    assert normal.kurtosis.item() == pytest.approx(3, abs=0.1)
    assert 5 < normal.peak < 9
    x[0, 0] = 100 * x[0, 0].sign()
    loud = S.activation_outliers({"x": x})["x"]
    assert loud.kurtosis > 100
    assert loud.peak.item() == pytest.approx(100 / x.abs().median().item())


def test_inputs_of_layers():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    params = {name: p.detach() * 2 for name, p in model.named_parameters()}
    x = draw(5, 3).float()
    found = S.layer_inputs(model, params, x)
    assert list(found) == ["0", "2"]
    hidden = torch.tanh(x @ params["0.weight"].mT + params["0.bias"])
    torch.testing.assert_close(found["2"], hidden)
    assert not model[0]._forward_pre_hooks
    assert list(S.layer_inputs(model, params, x, kind=nn.Tanh)) == ["1"]


def quadratic(eigenvalues):
    n = len(eigenvalues)
    basis = torch.linalg.qr(draw(n, n, seed=3)).Q
    H = basis * torch.tensor(eigenvalues, dtype=torch.float64) @ basis.mT

    def loss(p):
        x = torch.cat([p["a"].reshape(-1), p["b"]])
        return 0.5 * x @ H @ x + x.sum()

    return H, loss, {"a": draw(2, 2, seed=4), "b": draw(n - 4, seed=5)}


@pytest.mark.parametrize("eigenvalues", [(5, 2, 1, 0, -1, -3), (2, 1, 1, 0, -1, -9), (-1,) * 6])
def test_curvature_of_a_quadratic(eigenvalues):
    H, loss, params = quadratic(list(map(float, eigenvalues)))
    v = {"a": draw(2, 2, seed=6), "b": draw(2, seed=7)}
    got = S.hessian_product(loss, params, v)
    flat = H @ torch.cat([v["a"].reshape(-1), v["b"]])
    torch.testing.assert_close(torch.cat([got["a"].reshape(-1), got["b"]]), flat)
    largest = S.sharpness(loss, params, iterations=200, tolerance=1e-8)
    assert largest == pytest.approx(max(eigenvalues), abs=1e-3)
    trace = S.hessian_trace(loss, params, samples=60)
    assert abs(trace.value - sum(eigenvalues)) <= 4 * trace.stderr + 1e-9
    assert S.hessian_trace(loss, params, 4) == S.hessian_trace(loss, params, 4)
    assert S.sharpness(loss, params, seed=1) != S.sharpness(loss, params, seed=2) or max(
        eigenvalues
    ) == min(eigenvalues)


def test_curvature_of_attention():
    """Fused kernels of attention have no second derivatives."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    x, y = draw(2, 5, 8), draw(2, 5, 8, seed=1)
    params = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(p):
        return (torch.func.functional_call(layer, p, x) - y).square().mean()

    assert S.sharpness(loss, params, iterations=5) > 0


def test_bad_curvature():
    with pytest.raises(ValueError, match="iterations must be >= 1 and tolerance >= 0, got 0"):
        S.sharpness(lambda p: p, {}, iterations=0)
    with pytest.raises(ValueError, match="samples must be >= 2, got 1"):
        S.hessian_trace(lambda p: p, {}, samples=1)


def test_paths():
    loss = lambda p: (p["x"].square() - 1).square().sum()  # noqa: E731
    a, b = ({"x": torch.tensor([v], dtype=torch.float64)} for v in (-1.0, 2.0))
    line = S.linear_mode_connectivity(loss, a, b, points=31)
    wanted = torch.stack([loss({"x": a["x"] + t * 3}) for t in line.places])
    torch.testing.assert_close(line.losses, wanted)
    torch.testing.assert_close(line.barrier, (wanted - wanted[-1] * line.places).max())
    convex = S.linear_mode_connectivity(lambda p: p["x"].square().sum(), a, b)
    assert convex.barrier == 0
    assert S.interpolate({"x": torch.ones(1).bfloat16()}, a, 0.5)["x"].dtype == torch.bfloat16
    assert S.forgetting(loss, a, b) == 9
    with pytest.raises(ValueError, match="points must be >= 3, got 2"):
        S.linear_mode_connectivity(loss, a, b, points=2)


def trees(scale):
    return [{"w": scale * draw(6, 8, seed=i).float(), "b": torch.zeros(6)} for i in range(3)]


def small_loss(p):
    x = torch.linspace(-1, 1, 32).reshape(4, 8)
    return (torch.tanh(x @ p["w"].mT + p["b"]) - 0.3).square().mean()


def test_report(tmp_path, capsys):
    solutions = {"small": trees(0.1), "large": trees(2.0)}
    after = {name: [{**p, "b": p["b"] + 1} for p in seeds] for name, seeds in solutions.items()}
    found = S.report(
        solutions,
        loss_fn=small_loss,
        start=gx.tree.zeros_like(trees(0.0)[0]),
        activations=lambda p: {"first": p["w"]},
        after=after,
        more={"entries": lambda p: p["w"].numel()},
        picture=tmp_path / "report.png",
    )
    printed = capsys.readouterr().out
    assert printed == f"{found}\n"
    header, *rows = printed.splitlines()
    assert header.split() == ["measure", "small", "large"]
    assert [re.split(r"  +", row)[0] for row in rows] == list(found.values)
    assert {
        *("weight norm", "update norm", "stable rank", "effective rank", "largest singular value"),
        *("exact zeros", "below 0.01 of the rms", "4-bit error", "8-bit error", "entries"),
        *("loss", "loss added by 4 bits", "sharpness", "Hessian trace", "barrier between seeds"),
        *("activation kurtosis", "activation max / median", "forgetting"),
    } == set(found.values)
    for measure, by_name in found.values.items():
        assert [len(v) for v in by_name.values()] == [3, 3], measure
    assert found.values["weight norm"] == found.values["update norm"]
    assert found.values["exact zeros"]["small"] == pytest.approx((6 / 54,) * 3)
    assert found.order("weight norm") == ["small", "large"]
    assert found.separated("weight norm", "small", "large")
    assert not found.separated("stable rank", "small", "large")
    assert found.values["forgetting"]["small"][0] == pytest.approx(
        (small_loss(after["small"][0]) - small_loss(solutions["small"][0])).item()
    )
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_report_of_single_trees():
    found = S.report({"a": {"w": torch.eye(3)}, "b": [torch.ones(2, 2)]}, show=False)
    assert found.values["stable rank"] == {"a": (3.0,), "b": (1.0,)}
    assert "loss" not in found.values
    for bad, words in (
        ({"solutions": {}}, "at least one solution"),
        ({"solutions": {"a": []}}, "at least one tree"),
        ({"start": trees(1.0)[:2]}, "start must be one tree or one for each of 3 seeds, got 2"),
        ({"after": {"a": trees(1.0)}}, "after needs loss_fn"),
        ({"after": {"b": trees(1.0)}, "loss_fn": small_loss}, "the names and seeds"),
    ):
        with pytest.raises(ValueError, match=f"report: .*{words}"):
            S.report(**{"solutions": {"a": trees(1.0)}, "show": False, **bad})


def test_measures_are_functions_of_stacked_trees():
    many = {"w": torch.stack([draw(4, 3, seed=i) for i in range(3)])}
    each = torch.func.vmap(S.effective_ranks)(many)["w"]
    alone = [S.effective_ranks({"w": w})["w"] for w in many["w"]]
    torch.testing.assert_close(each, torch.stack(alone))


def test_sharpness_of_a_saddle():
    """Eigenvalues of 1 and -1: the quotient does not move from where it begins."""
    start = {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}
    for seed in range(4):
        found = gx.solutions.sharpness(lambda p: p["x"] * p["y"], start, seed=seed)
        assert found == pytest.approx(1.0, abs=1e-3)


def test_report_without_matrices():
    found = gx.solutions.report({"a": {"b": torch.ones(3)}}, show=False)
    assert math.isnan(found.values["largest singular value"]["a"][0])


def test_inputs_given_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, x):
            return self.layer(input=x)

    model, x = Named(), torch.ones(4, 2)
    found = gx.solutions.layer_inputs(model, dict(model.named_parameters()), x)
    assert torch.equal(found["layer"], x)
