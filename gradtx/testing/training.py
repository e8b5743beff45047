"""Derivatives of whole runs: right by every mode, and through scans."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..meta.leaves import jvp
from .claims import require_close, require_finite
from .subject import Subject, holds_for_all
from .trees import call, tensors
from .unrolled import Unrolled, gradient, vdot

STEP = 1e-6  # of differences


@holds_for_all
def differences(s: Subject) -> None:
    """First and second derivatives of training are the limits of differences, in float64."""
    u = s.unrolled
    ahead, behind = u.moved(STEP), u.moved(-STEP)
    slope = (u.loop(*ahead) - u.loop(*behind)) / (2 * STEP)
    require_close(vdot(u.gradient, u.along), slope, "the slope", rtol=1e-5, atol=1e-5)
    derive = gradient(u.loop)
    change = tree.map(lambda a, b: (a - b) / (2 * STEP), derive(*ahead), derive(*behind))
    require_close(u.curvature, change, "the Hessian times a vector", rtol=1e-4, atol=1e-4)


@holds_for_all
def modes_agree(s: Subject) -> None:
    """Reverse and forward mode, and all their combinations, give the same derivatives."""
    u = s.unrolled
    at, along = u.at, u.along
    size = _rounding(u)
    same = {"rtol": size, "atol": size}
    require_finite((u.gradient, u.curvature), "the derivatives of training")
    require_close(u.slope, vdot(u.gradient, along), "forward against reverse mode", **same)
    slope_of = lambda *x: jvp(u.loop, x, along)[1]  # noqa: E731
    found = {
        "reverse over reverse": gradient(lambda *x: vdot(gradient(u.loop)(*x), along))(*at),
        "reverse over forward": gradient(slope_of)(*at),
    }
    for how, hvp in found.items():
        require_close(hvp, u.curvature, f"{how} against forward over reverse mode", **same)
    twice = jvp(slope_of, at, along)[1]
    what = "forward over forward against forward over reverse mode"
    require_close(twice, vdot(u.curvature, along), what, **same)


@holds_for_all
def scan(s: Subject) -> None:
    """Training by ``gx.meta.scan`` is the loop, derivatives included."""
    u = s.unrolled
    require_close(gradient(u.scanned)(*u.at), u.gradient, "the gradient of a scan", rtol=1e-9)


@holds_for_all
def checkpointed_scan(s: Subject) -> None:
    """So it is with ``remat``: by torch.func, by autograd, and with second derivatives."""
    u = s.unrolled

    def scanned(params: Any, hyper: Any) -> Tensor:
        return u.scanned(params, hyper, remat=True)

    require_close(gradient(scanned)(*u.at), u.gradient, "the gradient", rtol=1e-9)
    hvp = jvp(gradient(scanned), u.at, u.along)[1]
    size = _rounding(u)
    require_close(hvp, u.curvature, "the Hessian times a vector", rtol=size, atol=size)
    leaves = tree.map(lambda x: x.clone().requires_grad_(), u.at)
    grads = torch.autograd.grad(scanned(*leaves), tensors(leaves), materialize_grads=True)
    require_close(list(grads), tensors(u.gradient), "the gradient by autograd", rtol=1e-9)


@holds_for_all
def linearize(s: Subject) -> None:
    """``torch.func.linearize`` of an update, by gradients and parameters."""
    u = s.unrolled
    params, away = {"w": u.at[0]["w"]}, {"w": u.along[0]["w"]}  # every leaf takes its time
    grads = tree.map(torch.cos, params)
    before = tree.map(lambda g: 0.8 * g, grads)  # others, so that a largest value is of one of both
    _, state = call(u.tx, before, u.tx.init(params), params)

    def update(grads: Any, params: Any) -> list[Tensor]:
        return tensors(call(u.tx, grads, state, params)[0])

    at, along = (grads, params), (tree.map(torch.sin, away), away)
    with warnings.catch_warnings():
        for message in (".*get_attr Node", ".*torch.jit.script"):  # linearize itself
            warnings.filterwarnings("ignore", message)
        _, apply = torch.func.linearize(update, *at)
    want = jvp(update, at, along)[1]
    require_close(apply(*along), want, "what was linearized", rtol=1e-9, atol=1e-9)


def _rounding(u: Unrolled) -> float:
    """What derivatives may differ by: those of what is kept in fewer bits are rounded too."""
    kept = {x.dtype for x in tensors(u.tx.init(u.at[0]))}
    few = {torch.uint8, torch.bfloat16, torch.float16, torch.float32}
    return 1e-3 if kept & few else 1e-9
