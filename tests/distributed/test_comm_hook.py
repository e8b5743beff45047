"""Gradients between two processes, compressed, against the plain mean."""

from __future__ import annotations

import inspect
import io
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.nn.parallel import DistributedDataParallel

import gradtx as gx
from gradtx import compressors
from gradtx.distributed import Meeting, drive
from gradtx.distributed.rounds import Wire
from gradtx.distributed.sum_over import SumOver
from gradtx.optim.arguments import with_mean_value

from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

STEPS = 6


def module() -> nn.Module:
    """Weights of more than a megabyte, so that DDP rebuilds its buckets after the first step."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 62, 600), nn.Tanh(), nn.Linear(600, 320)
    )


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * rank + step)
    x = torch.randn(8, 1, 64, generator=generator)
    return x, (x[:, 0] - x[:, 0].roll(1, 1)).repeat(1, 5)


def loss_of(model: nn.Module, rank: int, step: int) -> Tensor:
    x, y = batch(rank, step)
    return (model(x) - y).square().mean()


def local_gradients(net: nn.Module, rank: int, step: int) -> dict[str, Tensor]:
    """What this process contributes, without communication."""
    params = dict(net.named_parameters())
    grads = torch.autograd.grad(loss_of(net, rank, step), list(params.values()))
    return dict(zip(params, grads, strict=True))


KINDS = {
    "identity": (compressors.identity(), 1.0),
    "top_k": (compressors.top_k(0.05), 0.102),
    "top_k whole": (compressors.top_k(1.0), 2.0),
    "block_top_k": (compressors.block_top_k(0.05, 512), 0.09),
    "random_k": (compressors.random_k(0.05, 512), 0.06),
    "sign": (compressors.sign(), 0.07),
    "sign in blocks": (compressors.sign(100), 0.08),
    "threshold": (compressors.threshold(1e-4), 1.0),
    "low_rank": (compressors.low_rank(4), 0.06),
    "low_rank, two iterations": (compressors.low_rank(2, iterations=2), 0.06),
}


def sums(rank: int) -> dict[str, dict[str, Any]]:
    """For every kind: what was received, what this process has given and what it remembers."""
    out = {}
    for name, (compressor, _) in KINDS.items():
        net = module()
        ddp = DistributedDataParallel(net, bucket_cap_mb=0.3)
        hook = gx.distributed.comm_hook(compressor)
        ddp.register_comm_hook(net, hook)
        given = {k: torch.zeros_like(p) for k, p in net.named_parameters()}
        got = {k: torch.zeros_like(p) for k, p in net.named_parameters()}
        for step in range(STEPS):
            for k, g in local_gradients(net, rank, step).items():
                given[k] += g
            ddp.zero_grad()
            loss_of(ddp, rank, step).backward()
            for k, p in net.named_parameters():
                got[k] += p.grad
        errors = hook.state_dict()[f"rank_{rank}_of_2"]["errors"]
        out[name] = {"given": given, "got": got, "errors": errors, "sent": hook.sent_bytes}
    return out


@pytest.fixture(scope="module")
def summed() -> list[Any]:
    return in_processes(sums)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_received_and_remembered_is_what_was_given(name: str, summed: list[Any]) -> None:
    """The mean of what processes give is what they receive and the mean of what they remember."""
    one, two = (results[name] for results in summed)
    whole = 4 * sum(p.numel() for p in module().parameters()) * STEPS
    flags = 4 * len(one["got"]) * STEPS  # which leaves have a gradient anywhere
    assert one["sent"] <= KINDS[name][1] * whole + flags
    for k, got in one["got"].items():
        assert torch.equal(got, two["got"][k])
        mean = (one["given"][k] + two["given"][k]) / 2
        kept = (one["errors"][k] + two["errors"][k]) / 2
        torch.testing.assert_close(got + kept, mean, rtol=1e-4, atol=2e-6)
        if name in ("identity", "top_k whole"):
            torch.testing.assert_close(got, mean, rtol=1e-5, atol=1e-7)


LEARNERS = {
    "plain": None,
    "top_k": (compressors.top_k(0.05), gx.codecs.affine(8)),
    "sign": (compressors.sign(), torch.bfloat16),
    "low_rank": (compressors.low_rank(4), None),
}


def training(rank: int) -> dict[str, tuple[list[float], list[Tensor]]]:
    """For every learner: losses and final parameters."""
    out = {}
    for name, options in LEARNERS.items():
        net = module()
        ddp = DistributedDataParallel(net, bucket_cap_mb=0.3)
        if options is not None:
            ddp.register_comm_hook(net, gx.distributed.comm_hook(*options))
        opt = gx.optim.Adam(net.parameters(), lr=2e-3)
        losses = []
        for step in range(50):
            opt.zero_grad()
            loss = loss_of(ddp, rank, step % 4)
            loss.backward()
            opt.step()
            losses.append(loss.item())
        out[name] = losses, [p.detach() for p in net.parameters()]
    return out


def test_training_keeps_up_with_the_plain_mean() -> None:
    one, two = in_processes(training)
    for name in LEARNERS:
        for p, q in zip(one[name][1], two[name][1], strict=True):
            assert torch.equal(p, q)
    start = one["plain"][0][0]
    end = {name: sum(losses[-4:]) / 4 for name, (losses, _) in one.items()}
    assert end["plain"] < start / 5
    for name in ("top_k", "sign", "low_rank"):
        assert end[name] < start / 3, end


def overflow(rank: int) -> list[bool]:
    """One infinite gradient on one process, then ordinary ones."""
    net = nn.Linear(20, 20)
    ddp = DistributedDataParallel(net)
    ddp.register_comm_hook(net, gx.distributed.comm_hook(compressors.low_rank(2)))
    seen = []
    for scale in (1.0, float("inf") if rank else 1.0, 1.0):
        ddp.zero_grad()
        (ddp(torch.ones(3, 20)).square().sum() * scale).backward()
        seen.append(all(bool(torch.isfinite(p.grad).all()) for p in net.parameters()))
    return seen


def missed(rank: int) -> tuple[str, bool]:
    """A backward pass that one process leaves after its first bucket."""
    group = dist.new_group(timeout=timedelta(seconds=2))
    net = module()
    ddp = DistributedDataParallel(net, process_group=group, bucket_cap_mb=0.5)
    hook = gx.distributed.comm_hook(compressors.top_k(0.1), group=group)
    ddp.register_comm_hook(net, hook)
    for step in range(2):  # buckets have been rebuilt
        ddp.zero_grad()
        loss_of(ddp, rank, step).backward()
    kept = gx.tree.map(lambda x: x.clone() if isinstance(x, Tensor) else x, hook.state_dict())
    exchanged, first = hook._exchanged, hook._exchanges

    def leave(exchanges: Any) -> Any:
        if rank == 1 and hook._exchanges > first:
            raise RuntimeError("left")
        return exchanged(exchanges)

    hook._exchanged = leave  # type: ignore[method-assign]
    with pytest.raises(RuntimeError) as error:
        loss_of(ddp, rank, 2).backward()
    assert hook._exchanges > first
    message = str(error.value)
    now = hook.state_dict()
    dist.barrier()
    same = zip(gx.tree.leaves(kept), gx.tree.leaves(now), strict=True)
    return message, all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in same)


def overflow_and_missed(rank: int) -> tuple[list[bool], tuple[str, bool]]:
    return overflow(rank), missed(rank)


def test_an_overflow_does_not_last_and_who_is_missing_is_named() -> None:
    found = in_processes(overflow_and_missed)
    assert [seen for seen, _ in found] == [[True, False, True]] * 2
    assert all(unchanged for _, (_, unchanged) in found)
    message = found[0][1][0]
    assert "comm_hook: rank 1 missed an exchange of gradients" in message, message
    assert "what is remembered is as before it" in message


def resumed(rank: int) -> list[Tensor]:
    """Gradients of two more steps, from a hook and from one that was loaded from its state."""
    net = module()
    hook = gx.distributed.comm_hook(compressors.top_k(0.05), gx.codecs.affine(4))
    ddp = DistributedDataParallel(net)
    ddp.register_comm_hook(net, hook)
    out = []
    for step in range(4):
        if step == 2:
            saved = hook.state_dict()
        ddp.zero_grad()
        loss_of(ddp, rank, step).backward()
        out += [p.grad.clone() for p in net.parameters()] if step > 1 else []
    other = gx.distributed.comm_hook(compressors.top_k(0.05), gx.codecs.affine(4))
    other.load_state_dict(saved)
    again = DistributedDataParallel(net)
    again.register_comm_hook(net, other)
    for step in (2, 3):
        again.zero_grad()
        loss_of(again, rank, step).backward()
        out += [p.grad.clone() for p in net.parameters()]
    return out


def test_resumes() -> None:
    for grads in in_processes(resumed):
        half = len(grads) // 2
        for one, two in zip(grads[:half], grads[half:], strict=True):
            assert torch.equal(one, two)


HALVES = {**KINDS, "low_rank, whole": (compressors.low_rank(16), 0)}
SAVED = {
    "top_k, 4 bits": (compressors.top_k(0.1), gx.codecs.affine(4)),
    "sign, 8 bits": (compressors.sign(), gx.codecs.blockwise(8, min_size=0)),
    "random_k": (compressors.random_k(0.1), torch.bfloat16),
    "low_rank": (compressors.low_rank(2), None),
}


class Weighted(nn.Module):
    """Parameters in half precision with given gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(16, 16, dtype=torch.float16))
        self.b = nn.Parameter(torch.zeros(16, dtype=torch.float16))

    def forward(self, x: float) -> Tensor:
        return (self.w.float() * x).sum() + (self.b.float() * x).sum()


def half_precision(rank: int) -> dict[str, bool]:
    """Whether gradients stay finite whose sums, with each other and with errors, are not."""
    out = {}
    for name, (compressor, _) in HALVES.items():
        net = Weighted()
        ddp = DistributedDataParallel(net)
        ddp.register_comm_hook(net, gx.distributed.comm_hook(compressor))
        for step in range(4):
            ddp.zero_grad()
            ddp(40000.0).backward()
            finite = [bool(torch.isfinite(p.grad).all()) for p in net.parameters()]
            out[name] = out.get(name, True) and all(finite)
            if step == 0 and name in ("identity", "low_rank"):
                out[name] &= all(bool((p.grad == 40000).all()) for p in net.parameters())
        out[f"{name}, tiny"] = nothing_is_lost(compressor)
    return {**out, **means_of_halves(rank)}


def nothing_is_lost(compressor: Any) -> bool:
    """Whether gradients come through whose shares are zero in their dtype."""
    net, hook = Weighted(), gx.distributed.comm_hook(compressor)
    ddp = DistributedDataParallel(net)
    ddp.register_comm_hook(net, hook)
    got = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in net.named_parameters()}
    for _ in range(4):
        ddp.zero_grad()
        ddp(2.0**-24).backward()
        for name, p in net.named_parameters():
            got[name] += p.grad
    errors = hook.state_dict()[f"rank_{dist.get_rank()}_of_2"]["errors"]
    whole = [(x + errors[name]) / (4 * 2.0**-24) for name, x in got.items()]
    return all(torch.allclose(x, torch.ones_like(x), rtol=1e-4) for x in whole)


def means_of_halves(rank: int) -> dict[str, bool]:
    """Whether means of losses and of moments are right where sums or shares are out of range."""
    loss = {"value": torch.tensor(40000.0, dtype=torch.float16)}
    mean = with_mean_value(loss, [gx.momo()], lambda: SumOver(None), torch.zeros(1))["value"]
    params = {"w": torch.zeros(3)}
    kept = gx.root_second_moment(0.9, debias=False, codec=torch.float16).init(params)
    local = gx.tree.map(lambda x: torch.full_like(x, 2.0**-24), kept)
    rounds = gx.distributed.average_moments(1, 1).rounds(Meeting(params, local), (), 1)
    averaged = drive(rounds, Wire())[0].local["w"].nu
    return {
        "loss": mean.item() == 40000,
        "moments": averaged.dtype == torch.float16 and bool((averaged == 2.0**-24).all()),
    }


def saved_apart(rank: int, in_folder: str) -> dict[str, bool]:
    """Whether every process finds its own state again, in a file and in a common checkpoint."""
    out = {}
    for name, options in SAVED.items():

        def make(options: Any = options) -> tuple[nn.Module, nn.Module, Any]:
            torch.manual_seed(0)
            net = nn.Linear(16, 16)
            hook = gx.distributed.comm_hook(*options)
            ddp = DistributedDataParallel(net)
            ddp.register_comm_hook(net, hook)
            return net, ddp, hook

        def gradients(net: nn.Module, ddp: nn.Module, step: int) -> list[Tensor]:
            ddp.zero_grad()
            x = torch.randn(5, 16, generator=torch.Generator().manual_seed(10 * step + rank))
            ddp(x).square().sum().backward()
            return [p.grad.clone() for p in net.parameters()]

        net, ddp, hook = make()
        for step in range(3):
            gradients(net, ddp, step)
        folder = f"{in_folder}/{name}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save({"hook": hook.state_dict()}, checkpoint_id=folder)
        file = io.BytesIO()
        torch.save(hook.state_dict(), file)
        file.seek(0)
        from_file, common = make(), make()
        from_file[2].load_state_dict(torch.load(file, weights_only=True))
        common[2].init_state(common[0])
        loaded = {"hook": common[2].state_dict()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(loaded, checkpoint_id=folder)
        common[2].load_state_dict(loaded["hook"])
        want = gradients(net, ddp, 5)
        for other in (from_file, common):
            got = gradients(*other[:2], 5)
            same = all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
            out[name] = out.get(name, True) and same
    return out


def halves_and_files(rank: int, folder: str) -> dict[str, bool]:
    files = {f"saved {kind}": same for kind, same in saved_apart(rank, folder).items()}
    return {**half_precision(rank), **files}


def test_half_precision_and_checkpoints(tmp_path: Path) -> None:
    for results in in_processes(partial(halves_and_files, folder=str(tmp_path))):
        assert results == dict.fromkeys(results, True)


def test_state_of_another_process_is_refused() -> None:
    hook = gx.distributed.comm_hook(compressors.top_k(0.1))
    with pytest.raises(ValueError, match=r"that of \['rank_1_of_2'\], this process is rank_0_of_1"):
        hook.load_state_dict({"rank_1_of_2": {}})
    with pytest.raises(ValueError, match="residuals must be None, 'sum' or 'drop', got 'mean'"):
        hook.load_state_dict({}, residuals="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank_0_of_2 are missing or read by several"):
        hook.load_state_dict({"rank_1_of_2": {"errors": {}}}, residuals="sum")


def test_two_modules_are_refused() -> None:
    hook, first = gx.distributed.comm_hook(compressors.sign()), nn.Linear(2, 2)
    hook.init_state(first)
    with pytest.raises(ValueError, match="registered with two modules"):
        hook.init_state(nn.Linear(2, 2))


def test_state_of_another_shape_is_refused() -> None:
    one, other = nn.Linear(4, 3), nn.Linear(5, 3)
    hook = gx.distributed.comm_hook(compressors.top_k(0.1))
    hook.init_state(one)
    late = gx.distributed.comm_hook(compressors.top_k(0.1))
    late.load_state_dict(hook.state_dict())
    with pytest.raises(ValueError, match=r"errors\.weight is .* \(3, 4\), needed is .* \(3, 5\)"):
        late.init_state(other)


def test_state_as_earlier_versions_saved_it() -> None:
    net = nn.Linear(4, 3)
    codec, kept = gx.codecs.affine(4), compressors.low_rank(1)
    errors = {n: codec.init(p, signed=True) for n, p in net.named_parameters()}
    old = {"errors": errors, "compressors": {n: kept.init(p, n) for n, p in net.named_parameters()}}
    hook = gx.distributed.comm_hook(kept, codec)
    hook.load_state_dict(old)
    hook.init_state(net)
    assert type(hook._errors["weight"]) is type(errors["weight"])
    assert torch.equal(hook._states["weight"].basis, old["compressors"]["weight"].basis)


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"comm_hook: compressor must be one of gx\.compressors"):
        gx.distributed.comm_hook(0.01)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"comm_hook: quantizer must be one of gx\.codecs"):
        gx.distributed.comm_hook(compressors.sign(), 8)  # type: ignore[arg-type]
    hook = gx.distributed.comm_hook(compressors.sign())
    with pytest.raises(TypeError, match=r"register_comm_hook\(model.module, hook\)"):
        hook._name(None, nn.Parameter(torch.zeros(1)))
    assert list(inspect.signature(hook).parameters) == ["state", "bucket"]
