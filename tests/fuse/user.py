"""A transform as a user would write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import gradtx as gx


class SoftsignState(NamedTuple):
    size: Tensor


@dataclass(frozen=True)
class scale_by_softsign(gx.LeafTransform):
    """u / (|u| + largest |u| so far), with a few unusual operations."""

    decay: gx.Hyper = gx.dynamic(0.5, within="[0, 1]")

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> SoftsignState:
        return SoftsignState(torch.zeros((), dtype=torch.float32))

    def update_leaf(self, u: Tensor, s: SoftsignState, p: Any, h: Any) -> Any:
        size = torch.lerp(s.size, u.abs().amax().float(), 1 - h.decay)
        out = torch.where(u.isfinite(), u / (u.abs() + size), 0.0)
        out = torch.addcmul(out, torch.sigmoid(u), torch.cos(u), value=0.1)
        return out.clamp(-1, 1) + torch.tanh(u) ** 3, SoftsignState(size)


class ExtremesState(NamedTuple):
    low: Tensor
    high: Tensor
    found: Tensor


@dataclass(frozen=True)
class scale_by_extremes(gx.LeafTransform):
    """Scale by what is kept per row and per column, with most kinds of reductions."""

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> ExtremesState:
        x = p.reshape(p.shape[0] if p.ndim else 1, -1)
        low, high = torch.zeros_like(x[:, 0]), torch.zeros_like(x[0])
        wide = torch.promote_types(p.dtype, torch.float32)
        found = torch.zeros(len(high), dtype=torch.bool)
        return ExtremesState(low.to(wide), high.to(wide), found)

    def update_leaf(self, u: Tensor, s: ExtremesState, p: Any, h: Any) -> Any:
        x = u.reshape(u.shape[0] if u.ndim else 1, -1)
        low = torch.minimum(x.amin(1), s.low) - x.mean()
        high = torch.maximum(x.amax(0), s.high) + torch.linalg.vector_norm(x, dim=0).mean()
        spread = high - high.amin()
        size = 1 + x.norm(dim=1, keepdim=True) + low.abs().amax() / x.shape[1]
        out = (x * spread / (1 + high.abs().amax()) - low[:, None] * torch.ones_like(x)) / size
        return out.reshape(u.shape), ExtremesState(low, high, (x > 0.5).any(0))


class OrderState(NamedTuple):
    mean: Tensor


@dataclass(frozen=True)
class by_order(gx.LeafTransform):
    """Keeps means of the larger dimension, of the first one of a square leaf."""

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> OrderState:
        return OrderState(torch.zeros(max(p.shape)))

    def update_leaf(self, u: Tensor, s: OrderState, p: Any, h: Any) -> Any:
        if u.shape[0] >= u.shape[1]:
            mean = s.mean + u.mean(1)
            return u * mean[:, None], OrderState(mean)
        mean = s.mean + u.mean(0)
        return u * mean, OrderState(mean)
