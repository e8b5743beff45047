"""Optimizer states by qualified names, in one process."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

import gradtx as gx


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


def train(net: nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
    for t in steps:
        x = torch.randn(7, 6, generator=torch.Generator().manual_seed(t))
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()


CLASSES: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "AdamW8bit": {"min_size": 8, "block_size": 8},
    "SGD": {"lr": 0.1},
    "Prodigy": {},
    "SOAP": {},
    "ScheduleFreeAdamW": {},
}


@pytest.mark.parametrize("name", CLASSES)
def test_goes_on_and_has_the_keys_of_torch(name: str, tmp_path: Path) -> None:
    cls, options = getattr(gx.optim, name), CLASSES[name]
    net, other = network(), network()
    opt = cls(net.named_parameters(), **options)
    train(net, opt, range(3))
    flat = gx.optim.flat_state_dict(opt)
    torchs = get_optimizer_state_dict(
        net, opt, options=StateDictOptions(flatten_optimizer_state_dict=True)
    )
    mine = {key for key in flat if not key.endswith(".param_names")}
    assert mine == {key for key in torchs if not key.endswith(".param_names")}
    other.load_state_dict(net.state_dict())
    fresh = cls(other.named_parameters(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no process group": that is meant here
        dcp.save({"optim": flat}, checkpoint_id=tmp_path, no_dist=True)
        gx.optim.load_checkpoint(fresh, tmp_path)
    train(net, opt, range(3, 5))
    train(other, fresh, range(3, 5))
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_stages_are_one_checkpoint_and_groups_may_change() -> None:
    net, other = network(), network()
    named = list(net.named_parameters())
    stages = [gx.optim.AdamW(named[:2], lr=0.1), gx.optim.AdamW(named[2:], lr=0.2)]
    for t in range(2):
        train(net, stages[t], range(1))
    flat = {k: v for stage in stages for k, v in gx.optim.flat_state_dict(stage).items()}
    named = list(other.named_parameters())
    groups = [{"params": named[:1]}, {"params": named[1:2]}, {"params": named[2:], "lr": 5.0}]
    opt = gx.optim.AdamW(groups)
    gx.optim.load_flat_state_dict(opt, flat)
    assert [g["lr"] for g in opt.param_groups] == [0.1, 0.1, 0.2]
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        stage = stages[name.startswith("2")]
        assert torch.equal(
            stage.state[p]["scale_by_adam"]["mu"], opt.state[q]["scale_by_adam"]["mu"]
        )
    one = gx.optim.AdamW(other.named_parameters())
    with pytest.raises(
        ValueError, match=r"param_groups\.2\.weight\.lr is 0\.2, of the others 0\.1"
    ):
        gx.optim.load_flat_state_dict(one, flat)


def test_bad_input(tmp_path: Path) -> None:
    net = network()
    with pytest.raises(ValueError, match=r"make the optimizer from model\.named_parameters"):
        gx.optim.flat_state_dict(gx.optim.AdamW(net.parameters()))
    opt = gx.optim.Lion(net.named_parameters())
    flat = gx.optim.flat_state_dict(opt)
    before = [x.clone() for x in gx.tree.leaves(opt.state_dict()["state"])]
    mu = next(key for key in flat if key.startswith("state.0.weight"))

    def refused(entries: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=re.escape(text)):
            gx.optim.load_flat_state_dict(opt, entries)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save({"optim": entries}, checkpoint_id=folder, no_dist=True)
            with pytest.raises(ValueError, match=re.escape(text.split(" is ")[0])):
                gx.optim.load_checkpoint(opt, folder)
        now = gx.tree.leaves(opt.state_dict()["state"])
        assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))

    refused(
        {k: v for k, v in flat.items() if k != mu}, f"Lion: the state does not fit: missing {mu}"
    )
    refused({**flat, "state.0.weight.more": flat[mu]}, "unexpected state.0.weight.more")
    lr = "param_groups.0.weight.lr"
    refused({k: v for k, v in flat.items() if k != lr}, lr)
    folder = tmp_path / "half"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"optim": {**flat, mu: flat[mu].half()}}, checkpoint_id=folder, no_dist=True)
        with pytest.raises(
            ValueError, match=r"optim\.state\.0\.weight\..* was saved as torch\.float16"
        ):
            gx.optim.load_checkpoint(opt, folder)


def test_asking_for_the_state_is_no_step() -> None:
    net, twin = network(), network()
    opt, alone = (gx.optim.Prodigy(n.named_parameters(), lr=1.0) for n in (net, twin))
    get_optimizer_state_dict(net, opt)
    assert all(state for state in opt.state.values())
    for model, o in ((net, opt), (twin, alone)):
        train(model, o, range(3))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
