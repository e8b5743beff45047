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
