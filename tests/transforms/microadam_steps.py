"""MicroAdam of one flat leaf in NumPy float32, written from its description."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

F = np.float32
Array = NDArray[np.float32]


@dataclass
class MicroAdamSteps:
    """One leaf; values and ranges are kept in float32."""

    p: Array
    lr: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    density: float = 0.1
    window: int = 3
    block_size: int = 16
    quant_block_size: int = 4
    alpha: float = 0.0
    window_correction: bool = False
    t: int = 0
    rows: list[Array] = field(default_factory=list)
    error: Array = field(init=False)

    def __post_init__(self) -> None:
        self.error = np.zeros_like(self.p)

    def step(self, g: Array) -> None:
        self.t += 1
        rest = g + self.error
        kept = np.zeros_like(rest)
        for start in range(0, rest.size, self.block_size):
            block = rest[start : start + self.block_size]
            order = np.argsort(-np.abs(block), kind="stable")
            where = start + order[: math.ceil(block.size * self.density)]
            kept[where] = rest[where]
            rest[where] = 0
        decoded = self.quantised(rest)
        self.rows = [*self.rows, kept][-self.window :]
        update = self.adam()
        p = self.p * F(1 - self.lr * self.weight_decay)
        if self.alpha == -2:
            p = p - rest + decoded
        else:
            update = update + F(self.alpha) * decoded
        self.p = p - F(self.lr) * update
        self.error = decoded
        if self.alpha > 0:
            self.error = self.quantised(F(1 - self.alpha) * decoded)

    def adam(self) -> Array:
        count = min(self.t, self.window) if self.window_correction else self.t
        first = sum(self.b1**age * row for age, row in enumerate(reversed(self.rows)))
        second = sum(self.b2**age * row**2 for age, row in enumerate(reversed(self.rows)))
        m = (1 - self.b1) / (1 - self.b1**count) * first
        v = (1 - self.b2) / (1 - self.b2**count) * second
        return (m / (np.sqrt(v) + self.eps)).astype(F)

    def quantised(self, x: Array) -> Array:
        out = np.empty_like(x)
        for start in range(0, x.size, self.quant_block_size):
            block = x[start : start + self.quant_block_size]
            low = block.min()
            step = (block.max() - low) / F(15)
            code = np.floor((block - low) / step + F(0.5)) if step else np.zeros_like(block)
            out[start : start + self.quant_block_size] = np.clip(code, 0, 15) * step + low
        return out
