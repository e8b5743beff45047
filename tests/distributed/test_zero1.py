"""Optimizers of which every process updates some leaves, against one process."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gradtx as gx
from gradtx.core.protocol import members

from .test_sharded import CLIPPED, CLIPPED_MATRICES, CLIPPED_SOME
from .test_wrappers import message_of
from .workers import in_processes

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo"
)

STEPS = 3
Params = list[tuple[str, nn.Parameter]]
# What looks at one leaf, what sums over leaves, and what must see all of them.
EXACT: dict[str, Any] = {
    "AdamW": lambda ps: gx.optim.AdamW(ps, lr=0.01, weight_decay=0.1),
    "Muon": lambda ps: gx.optim.Muon(ps, lr=0.01),
    "AdamW8bit": lambda ps: gx.optim.AdamW8bit(ps, lr=0.01, min_size=1),
    "APOLLO": lambda ps: gx.optim.APOLLO(ps, lr=0.01, rank=2),
    "ScheduleFreeAdamW": lambda ps: gx.optim.ScheduleFreeAdamW(ps, lr=0.01),
    "hard_threshold": lambda ps: gx.optim.from_transform(
        gx.chain(gx.scale_by_adam(), gx.hard_threshold(20)), ps, lr=0.01
    ),
    "clipped, some": lambda ps: gx.optim.from_transform(CLIPPED_SOME, ps, lr=0.01),
}
ONE_OWNER = ("hard_threshold", "clipped, some")
ROUNDED: dict[str, Any] = {
    "Prodigy": lambda ps: gx.optim.Prodigy(ps, d0=1e-2, d_coef=20.0),
    "clipped": lambda ps: gx.optim.from_transform(CLIPPED, ps, lr=0.01),
    "clipped matrices": lambda ps: gx.optim.from_transform(CLIPPED_MATRICES, ps, lr=0.01),
    # Kernels on one rank alone would wait for sums that others do not send.
    "one group unfused": lambda ps: gx.optim.Prodigy(
        [{"params": ps[:1]}, {"params": ps[1:], "fused": False}], d0=1e-2, d_coef=20.0
    ),
}
MAKERS = {**EXACT, **ROUNDED}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 4)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def backward(model: nn.Module, t: int, part: int = 0, parts: int = 1) -> None:
    g = torch.Generator().manual_seed(t)
    x, y = torch.randn(8, 6, generator=g), torch.randn(8, 4, generator=g)
    model.zero_grad()
    x, y = x.chunk(parts)[part], y.chunk(parts)[part]
    (model(x) - y).square().mean().backward()


def apart(net: nn.Module, other: nn.Module) -> float:
    both = zip(net.parameters(), other.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in both)


def twins(make: Any) -> tuple[Net, Net, gx.optim.Optimizer, gx.optim.Optimizer]:
    """A module with a shared out optimizer, and one with an ordinary one."""
    net, twin = Net(), Net()
    opt = gx.optim.zero1(make(list(net.named_parameters())))
    return net, twin, opt, make(list(twin.named_parameters()))


def both_step(net: Net, twin: Net, opt: Any, alone: Any, t: int) -> None:
    backward(twin, t)
    late = dict(twin.named_parameters()).get("late")
    if late is not None:
        late.grad = torch.full_like(late, 0.1 + t)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        p.grad = None if q.grad is None else q.grad.clone()
    for one in (opt, alone):
        one.step(**extra_for(one))


def extra_for(opt: Any) -> dict[str, Any]:
    """What else a chain asks for: squared gradients will do."""
    opt = getattr(opt, "optim", opt)  # of a ZeroRedundancyOptimizer
    chains = [opt.transform_of(g) for g in opt.param_groups]
    wanted = {n for tx in chains for _, m in members(tx) for n in needs(m)}
    params = [p for g in opt.param_groups for p in g["params"]]
    there = {p: p.grad**2 for p in params if p.grad is not None}
    return {n: torch.tensor(1.0) if n == "value" else there for n in wanted}


def needs(member: Any) -> Iterable[str]:
    """The names of arguments that a member takes."""
    value = ("value",) if getattr(member, "needs_value", False) else ()
    return (*value, *getattr(member, "needs_extra", ()))


def trained(rank: int) -> dict[Any, Any]:
    """Differences at the end: of steps, of a loaded state, of a state that one process loads."""
    out: dict[Any, Any] = {}
    for name, make in MAKERS.items():
        net, twin, opt, alone = twins(make)
        for t in range(STEPS):
            both_step(net, twin, opt, alone, t)
        own = {n for n, p in net.named_parameters() if opt.state[p]}
        out[name, "own"] = own
        saved = copy.deepcopy(opt.state_dict())
        assert {n for n, p in net.named_parameters() if opt.state[p]} == own
        again, single = copy.deepcopy(net), copy.deepcopy(net)
        more = gx.optim.zero1(make(list(again.named_parameters())))
        one = make(list(single.named_parameters()))
        more.load_state_dict(saved)
        one.load_state_dict(saved)
        both_step(again, twin, more, alone, STEPS)
        out[name] = apart(again, twin)
        backward(single, STEPS)
        for p, q in zip(single.parameters(), twin.parameters(), strict=True):
            p.grad = q.grad
        one.step()
        out[name, "alone"] = apart(single, twin)
        if name == "ScheduleFreeAdamW":
            more.eval()
            alone.eval()  # type: ignore[attr-defined]
            out[name, "eval"] = apart(again, twin)
    return out


def test_shared_out_equals_alone() -> None:
    one, two = in_processes(trained)
    for name in MAKERS:
        leaves = {"first.weight", "first.bias", "last.weight", "last.bias"}
        mine, theirs = one[name, "own"] & leaves, two[name, "own"] & leaves
        assert mine | theirs == leaves, name
        assert not mine & theirs, name
        assert (bool(mine) and bool(theirs)) or name in ONE_OWNER, name
    for out in (one, two):
        for key, error in out.items():
            name = key if isinstance(key, str) else key[0]
            if not isinstance(error, set):
                assert error <= (2e-6 if name in ROUNDED else 0), key


def beside(rank: int) -> dict[Any, Any]:
    """Under DistributedDataParallel, with gradients for all and for owners; what is refused."""
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    out: dict[Any, Any] = {}
    for to_owners in (False, True):
        for name in ("AdamW", "Muon", "clipped"):
            net, twin = Net(), Net()
            del net.unused, twin.unused
            model = DistributedDataParallel(net)
            opt = MAKERS[name](list(net.named_parameters()))
            gx.optim.zero1(opt, model=model if to_owners else None)
            alone = MAKERS[name](list(twin.named_parameters()))
            halves = Net()
            del halves.unused
            for t in range(STEPS):
                backward(model, t, rank, 2)
                grads = []
                for part in range(2):  # the mean of both ranks' gradients
                    halves.load_state_dict(twin.state_dict())
                    backward(halves, t, part, 2)
                    grads.append([p.grad for p in halves.parameters()])
                for p, a, b in zip(twin.parameters(), *grads, strict=True):
                    assert a is not None
                    assert b is not None
                    p.grad = a / 2 + b / 2
                opt.step()
                alone.step()
            out[name, to_owners] = apart(net, twin)
    # Gradients that lie in memory as their parameters do.
    conv, other = (nn.Conv2d(2, 3, 3, bias=False) for _ in range(2))
    for one in (conv, other):
        one.weight.data = one.weight.data.contiguous(memory_format=torch.channels_last)
    other.load_state_dict(conv.state_dict())
    dist.broadcast(conv.weight.detach(), 0)
    dist.broadcast(other.weight.detach(), 0)
    model = DistributedDataParallel(conv)
    opt = gx.optim.zero1(gx.optim.SGD(conv.named_parameters(), lr=1.0), model=model)
    images = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    (model(images[rank : rank + 1]).square().sum()).backward()
    (other(images).square().sum() / 2).backward()
    opt.step()
    gx.optim.SGD(other.parameters(), lr=1.0).step()
    out["channels last"] = apart(conv, other)
    # Groups that come later, options that change what is kept, torch's state dicts.
    net, twin, opt, alone = twins(EXACT["AdamW"])
    for t in range(2 * STEPS):
        if t == 2:
            for o, n in ((opt, net), (alone, twin)):
                n.late = nn.Parameter(torch.ones(3, 2))
                o.add_param_group({"params": [("late", n.late)], "lr": 0.1})
        if t == 4:
            for o in (opt, alone):
                o.param_groups[0].update(amsgrad=True, lr=0.02)
        if t == 5:
            set_optimizer_state_dict(net, opt, get_optimizer_state_dict(net, opt))
        both_step(net, twin, opt, alone, t)
    out["changed"] = apart(net, twin)
    small = nn.Linear(6, 4)
    sgd = gx.optim.SGD(small.named_parameters(), lr=0.1)
    out["other model"] = message_of(
        lambda: gx.optim.zero1(sgd, model=DistributedDataParallel(nn.Linear(6, 4)))
    )
    hooked = DistributedDataParallel(small)
    shared: Any = gx.optim.zero1(sgd, model=hooked)
    out["hooked"] = message_of(lambda: gx.optim.zero1(sgd, model=hooked))
    out["worker"] = message_of(lambda: gx.distributed.Worker(hooked, gx.distributed.desloc(0.1)))
    out["layout"] = message_of(lambda: gx.optim.compute_layout(shared))
    some = list(small.named_parameters())[rank:]
    out["leaves"] = message_of(lambda: gx.optim.zero1(gx.optim.SGD(some, lr=0.1)))
    lbfgs: Any = gx.optim.LBFGS(small.named_parameters())
    with pytest.raises(TypeError, match="LBFGS looks at the loss more than once"):
        gx.optim.zero1(lbfgs)
    return out


def test_beside_distributed_data_parallel_and_what_is_refused() -> None:
    for rank, out in enumerate(in_processes(beside)):
        for to_owners in (False, True):
            for name in ("AdamW", "Muon", "clipped"):
                assert out[name, to_owners] <= (2e-6 if name in ROUNDED else 0), (name, to_owners)
        assert out["changed"] == 0
        assert out["channels last"] <= 1e-5
        assert "parameter 'weight' of the model is not in the optimizer" in out["other model"]
        assert "SGD: ranks 0 and 1 have other leaves" in out["leaves"], rank
        for who, what in (("zero1", "hooked"), ("Worker", "worker")):
            assert f"{who}: the module has a communication hook already" in out[what]
            assert "wrap it in DistributedDataParallel anew" in out[what]
        assert "layouts are of DTensors" in out["layout"]


def _rounding(error: float | str) -> bool:
    return isinstance(error, float) and error <= 2e-6


def classes() -> Iterator[tuple[str, Any]]:
    for name in sorted(gx.optim.__all__):
        cls: Any = getattr(gx.optim, name)
        if isinstance(cls, type) and vars(cls).get("signature"):
            yield name, cls


def in_groups(cls: Any, ps: Params) -> Any:
    """An optimizer of a class with its own defaults."""
    if "matrix" not in cls.signature:
        return cls(ps)
    some, rest = ([x for x in ps if (x[1].ndim == 2) == matrix] for matrix in (True, False))
    return cls([{"params": some}, {"params": rest, "matrix": False}])


def every_class(rank: int) -> dict[str, float | str]:
    out: dict[str, float | str] = {}
    for name, cls in classes():
        try:
            net, twin, opt, alone = twins(partial(in_groups, cls))
            for t in range(STEPS):
                both_step(net, twin, opt, alone, t)
            out[name] = apart(net, twin)
        except (TypeError, ValueError, RuntimeError) as error:
            out[name] = str(error)
    return out


def every_class_in_zero(rank: int) -> dict[str, float | str]:
    """The same of torch's ZeroRedundancyOptimizer, with matrices alone where a class has groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.distributed.optim uses torch.jit.script
        from torch.distributed.optim import ZeroRedundancyOptimizer
    out: dict[str, float | str] = {}
    for name, cls in classes():
        net, twin = Net(), Net()
        for one in (net, twin) if "matrix" in cls.signature else ():
            for part in one.children():
                part.register_parameter("bias", None)
        zero = ZeroRedundancyOptimizer(net.parameters(), cls)
        alone = cls(twin.parameters())
        try:
            for t in range(STEPS):
                both_step(net, twin, zero, alone, t)
            out[name] = apart(net, twin)
        except (TypeError, ValueError, RuntimeError) as error:
            out[name] = str(error)
    return out


@pytest.mark.slow
def test_every_class() -> None:
    for out in in_processes(every_class):
        assert len(out) > 70
        assert "looks at the loss more than once" in str(out.pop("LBFGS"))
        # Sums over leaves of several ranks, and windows of fewer leaves, are rounded otherwise.
        assert not {name: error for name, error in out.items() if not _rounding(error)}


@pytest.mark.slow
def test_every_class_in_zero_redundancy() -> None:
    for out in in_processes(every_class_in_zero):
        assert len(out) > 70
        assert "step needs a closure" in str(out.pop("LBFGS"))
        for name, error in out.items():
            refused = "looks at all leaves together, and in a ZeroRedundancyOptimizer"
            assert _rounding(error) or refused in str(error), (name, error)
