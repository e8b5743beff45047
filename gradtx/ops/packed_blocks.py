"""What the operators that pack codes of a few bits in blocks have in common."""

from __future__ import annotations

from collections.abc import Sequence


def check_format(name: str, bits: int, known: Sequence[int], block_size: int) -> None:
    """Raise ValueError unless codes have one of these widths and blocks are not empty."""
    if bits not in known:
        raise ValueError(f"{name}: bits must be one of {tuple(known)}, got {bits}")
    if block_size < 1:
        raise ValueError(f"{name}: block_size must be >= 1, got {block_size}")


def foldable(numel: int, bits: int, block_size: int) -> bool:
    """Whether examples of this size fill whole blocks and whole bytes."""
    return numel > 0 and numel % block_size == 0 and numel * bits % 8 == 0
