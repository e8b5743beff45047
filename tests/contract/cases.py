"""The optimizers that every contract test runs on, and small tools to drive them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import gradtx as gx

SHAPES = ((4, 3), (5,), (), (2, 3, 2))


class OddState(NamedTuple):
    step: Tensor
    codes: Tensor
    picks: Tensor
    seen: Tensor
    wide: Tensor


@dataclass(frozen=True)
class odd_dtypes(gx.LeafTransform):
    """A transform whose state has every dtype that a cast to the parameter's would destroy."""

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> OddState:
        return OddState(
            torch.zeros((), dtype=torch.int32, device=p.device),
            torch.zeros(p.shape, dtype=torch.uint8, device=p.device),
            torch.full((2,), 1001, dtype=torch.int16, device=p.device),
            torch.zeros(p.shape, dtype=torch.bool, device=p.device),
            torch.zeros(p.shape, dtype=torch.float32, device=p.device),
        )

    def update_leaf(self, u: Tensor, s: OddState, p: Any, h: Any) -> tuple[Tensor, OddState]:
        wide = s.wide + u.to(torch.float32) / 3
        codes = (s.codes.to(torch.int32) + (u > 0)).to(torch.uint8)
        out = u * (1 + 0.01 * codes.to(u.dtype)) + 0.01 * wide.to(u.dtype)
        return out, OddState(s.step + 1, codes, s.picks - 1, s.seen | (u > 0.5), wide)


@dataclass(frozen=True)
class Case:
    """One way to make an optimizer.

    Attributes:
        name: id in test reports.
        make: ``make(params, lr=..., **group_options)``.
        couples: the update of a parameter depends on the others.
        shares: paths in the state of what all parameters share.
        decays: parameters shrink without a gradient signal.
        noisy: random numbers take part, which depend on the parameter's name.
    """

    name: str
    make: Callable[..., torch.optim.Optimizer]
    couples: bool = False
    shares: tuple[str, ...] = ()
    decays: bool = False
    noisy: bool = False


def _class(name: str, **options: Any) -> Callable[..., torch.optim.Optimizer]:
    def make(params: Any, lr: Any = 1e-2, **more: Any) -> torch.optim.Optimizer:
        return getattr(gx.optim, name)(params, lr=lr, **{**options, **more})

    return make


def _chain(build: Callable[[], Any]) -> Callable[..., torch.optim.Optimizer]:
    def make(params: Any, lr: Any = 1e-2, **more: Any) -> torch.optim.Optimizer:
        return gx.optim.from_transform(build(), params, lr=lr, **more)

    return make


def clipped_cautious() -> gx.GradientTransformation:
    return gx.chain(gx.clip_by_global_norm(1.0), gx.scale_by_adam(), gx.cautious_mask())


def scheduled() -> gx.GradientTransformation:
    return gx.chain(gx.trace(gx.schedules.linear(0.5, 0.9, 4)))


CASES = [
    Case("AdamW", _class("AdamW"), decays=True),
    Case("SGD", _class("SGD", momentum=0.9)),
    Case("Lion", _class("Lion"), decays=True),
    Case("Adafactor", _class("Adafactor"), decays=True),
    Case("ScheduleFreeAdamW", _class("ScheduleFreeAdamW")),
    Case("MicroAdam", _class("MicroAdam", density=0.3, window=3, state_dtype="float32")),
    Case("clip_adam_cautious", _chain(clipped_cautious), couples=True),
    Case(
        "multi_steps",
        _chain(lambda: gx.multi_steps(gx.scale_by_adam(), every_k=2)),
        shares=("multi_steps.mini_step", "multi_steps.gradient_step"),
    ),
    Case(
        "apply_if_finite",
        _chain(lambda: gx.apply_if_finite(gx.trace(0.9))),
        shares=("apply_if_finite.last_finite", "apply_if_finite.total_notfinite"),
    ),
    Case("scheduled_momentum", _chain(scheduled), shares=("trace.step",)),
    Case(
        "noise",
        _chain(lambda: gx.chain(gx.add_noise(eta=0.1, gamma=0.5, seed=7), gx.scale_by_adam())),
        noisy=True,
    ),
    Case("odd_dtypes", _chain(lambda: gx.chain(odd_dtypes(), gx.trace(0.9)))),
]
BY_NAME = {case.name: case for case in CASES}
IDS = list(BY_NAME)
# Each parameter evolves by itself, whatever its position.
POINTWISE = [c for c in CASES if not (c.couples or c.shares or c.noisy)]


def parameters(dtype: torch.dtype = torch.float32, seed: int = 0, shapes: Any = SHAPES) -> list:
    """Fresh parameters with reproducible values."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def set_gradients(params: Iterable[Tensor], t: int, scale: float = 1.0) -> None:
    """Gradients that depend on the step ``t`` alone."""
    generator = torch.Generator().manual_seed(1000 + t)
    for p in params:
        p.grad = (scale * torch.randn(p.shape, generator=generator)).to(p.dtype)


def asked(opt: torch.optim.Optimizer) -> dict[str, Any]:
    """What members of an optimizer's chains ask ``step`` for besides gradients."""
    chains = [opt.transform_of(g) for g in opt.param_groups] if hasattr(opt, "transform_of") else []
    given: dict[str, Any] = {}
    for member in (m for tx in chains for _, m in gx.core.protocol.members(tx)):
        if getattr(member, "needs_value", False):
            given["value"] = torch.tensor(1.5)
        for name in (*getattr(member, "needs_extra", ()), *getattr(member, "takes_extra", ())):
            grads = {p: p.grad for g in opt.param_groups for p in g["params"]}
            given[name] = {p: g * g + 0.5 for p, g in grads.items() if g is not None}
    return given


def run(opt: torch.optim.Optimizer, params: list[Tensor], steps: range) -> None:
    """Take steps on reproducible gradients."""
    for t in steps:
        set_gradients(params, t)
        opt.step(**asked(opt))


def copies(params: Iterable[Tensor]) -> list[Tensor]:
    """The present values."""
    return [p.detach().clone() for p in params]


def assert_equal(a: Iterable[Tensor], b: Iterable[Tensor]) -> None:
    """Bit for bit."""
    a, b = list(a), list(b)
    assert len(a) == len(b)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert x.dtype == y.dtype, i
        assert torch.equal(x, y), (i, x, y)


def assert_close(a: Iterable[Tensor], b: Iterable[Tensor], rtol: float = 1e-6) -> None:
    """Close relative to the scale of the whole tensor."""
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        scale = max(y.detach().abs().max().item(), 1e-12) if y.numel() else 1.0
        error = (x - y).detach().abs().max().item() if y.numel() else 0.0
        assert error <= rtol * scale, f"tensor {i}: error {error:.3g} at scale {scale:.3g}"


def leaves(nested: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """``(dotted path, value)`` of everything in nested dicts."""
    if isinstance(nested, dict):
        for key, value in nested.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, nested


def snapshot(opt: torch.optim.Optimizer) -> dict[str, Any]:
    """A deep copy of the state, flat, to compare with later."""
    found = leaves(opt.state_dict()["state"])
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in found}


def assert_same_state(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Same entries, dtypes and bits."""
    assert list(a) == list(b)
    for key, value in a.items():
        if isinstance(value, Tensor):
            assert value.dtype == b[key].dtype, key
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key
