"""Chains that keep all parameters as one vector: checkpoints, missing gradients, other shapes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

import gradtx as gx

SHAPES = {"a": (3, 2), "b": (5,)}
CHAINS: dict[str, Callable[[], gx.GradientTransformation]] = {
    "mfac": lambda: gx.mfac(None, 3, 0.1, momentum=0.5, freeze_zeros=True),
    "mfac[all]": lambda: gx.flatten(gx.precondition_mfac(3, 0.1)),
    "sparse_mfac[global]": lambda: gx.sparse_mfac(None, 3, 0.1, density=0.5, scope="global"),
    "sparse_mfac[block]": lambda: gx.sparse_mfac(
        None, 3, 0.1, density=0.5, scope="block", block_size=4
    ),
    "ggt": lambda: gx.ggt(None, 3, density=0.5, eps=0.1),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    name: lambda ps, tx=tx: gx.optim.from_transform(tx(), ps, lr=0.01)
    for name, tx in CHAINS.items()
}
EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


def make(name: str, shapes: dict[str, Any] = SHAPES) -> tuple[dict[str, Any], Any]:
    params = {
        n: torch.nn.Parameter(1.0 + torch.arange(torch.Size(s).numel()).reshape(s).float())
        for n, s in shapes.items()
    }
    with torch.no_grad():
        params["a"][0, 0] = 0.0
    return params, OPTIMIZERS[name](params.items())


def run(params: dict[str, Any], opt: Any, steps: range) -> None:
    for t in steps:
        generator = torch.Generator().manual_seed(t)
        for p in params.values():
            p.grad = torch.randn(p.shape, generator=generator)
        opt.step()


def through(state: Any, how: str, tmp_path: Any, like: Any) -> Any:
    """A state dict through a file."""
    if how == "save":
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file)
    dcp.save({"optim": state}, checkpoint_id=tmp_path, no_dist=True)
    held = {"optim": like}
    dcp.load(held, checkpoint_id=tmp_path, no_dist=True)
    return held["optim"]


@pytest.mark.filterwarnings("ignore:torch.distributed")
@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("how", ["save", "dcp"])
@EVERY
def test_resumed_to_the_bit(name: str, how: str, fused: bool | None, tmp_path: Any) -> None:
    params, opt = make(name)
    opt.param_groups[0]["fused"] = fused
    run(params, opt, range(4))
    others, other = make(name)
    for p, q in zip(others.values(), params.values(), strict=True):
        p.data.copy_(q)
    other.init_state()
    other.load_state_dict(through(opt.state_dict(), how, tmp_path, other.state_dict()))
    for t in range(4, 8):
        run(params, opt, range(t, t + 1))
        run(others, other, range(t, t + 1))
        assert all(map(torch.equal, params.values(), others.values()))


@EVERY
def test_a_loaded_vector_is_kept_once(name: str) -> None:
    params, opt = make(name)
    run(params, opt, range(2))
    other = make(name)[1]
    other.load_state_dict(torch.load(save(opt)))
    own = [{x.data_ptr() for x in tensors(s) if x.numel() > 5} for s in other.state.values()]
    assert own[0] & own[1]
    assert not own[0] & {x.data_ptr() for s in opt.state.values() for x in tensors(s)}


def save(opt: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    return file


def tensors(nested: Any) -> list[Any]:
    if isinstance(nested, dict):
        return [x for value in nested.values() for x in tensors(value)]
    return [nested]


@pytest.mark.parametrize("fused", [None, False])
@EVERY
def test_every_leaf_needs_a_gradient(name: str, fused: bool | None) -> None:
    params, opt = make(name)
    opt.param_groups[0]["fused"] = fused
    run(params, opt, range(2))
    before = [p.detach().clone() for p in params.values()]
    params["b"].grad = None
    with pytest.raises(ValueError, match=r"parameter 'b' has no gradient; the chain .* one vector"):
        opt.step()
    assert all(map(torch.equal, before, params.values()))
    run(params, opt, range(2, 3))
    late, opt = make(name)
    late["a"].grad = torch.ones_like(late["a"])
    opt.step()
    with pytest.raises(ValueError, match="parameter 'b' had no gradient at the first step"):
        run(late, opt, range(1))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "mfac"])
def test_other_leaves_are_refused(name: str) -> None:
    params, opt = make(name)
    run(params, opt, range(2))
    others, other = make(name, {"a": (3, 2), "b": (6,)})
    run(others, other, range(1))
    before = {k: x.clone() for k, x in enumerate(tensors(dict(other.state)))}
    with pytest.raises(ValueError, match=r"state of all parameters does not fit.*needed is"):
        other.load_state_dict(opt.state_dict())
    assert all(map(torch.equal, before.values(), tensors(dict(other.state))))
    run(others, other, range(1, 2))
