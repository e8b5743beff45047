"""A compact decoder-only transformer over bytes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

VOCABULARY = 256


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a :class:`GPT`; ``width / heads`` must be an even integer."""

    layers: int = 4
    heads: int = 4
    width: int = 160

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"GPTConfig: width / heads must be even, got {self.width} / {self.heads}"
            )


def rotation_angles(length: int, width: int, device: torch.device) -> Tensor:
    """Angles (length, width / 2) of rotary position embeddings, arXiv:2104.09864."""
    frequencies = 10_000 ** -torch.linspace(0, 1, width // 2, device=device)
    return torch.outer(torch.arange(length, device=device), frequencies)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the channel pairs of x (..., time, width), so that q·k sees relative positions."""
    even, odd = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((even * cos - odd * sin, even * sin + odd * cos), dim=-1)


class Attention(nn.Module):
    """Causal multi-head self-attention with rotary positions."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, time, 3 * width) -> three of (batch, heads, time, width / heads)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        angles = rotation_angles(*q.shape[-2:], x.device)
        q, k = rotate(q, angles), rotate(k, angles)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width, bias=False)
        self.down = nn.Linear(4 * config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(F.relu(self.up(self.mlp_norm(x))).square())


class GPT(nn.Module):
    """Bytes in, next-byte logits out; the output layer is the embedding transposed."""

    def __init__(self, config: GPTConfig, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self._initialise(torch.Generator().manual_seed(seed))

    def _initialise(self, generator: torch.Generator) -> None:
        # Two additions to the residual stream per block: scaling their last layers by
        # 1/sqrt(2 * layers) keeps the stream's variance independent of depth.
        residual_scale = (2 * len(self.blocks)) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("out.weight", "down.weight"))
                std = 0.04 * (residual_scale if last else 1.0)
                nn.init.normal_(parameter, std=std, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 tokens (batch, time) to float32 logits (batch, time, 256)."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def next_byte_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per byte."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
