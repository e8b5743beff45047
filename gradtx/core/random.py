"""Counter-based random numbers (Philox-4x32-10) in plain integer tensor arithmetic.

A *key* is an int64 tensor of shape ``(2,)``: ``(seed, counter)``. The same key gives the same
bits on every device, in eager mode, under ``vmap`` and inside ``torch.compile``; nothing reads or
advances a global generator. Element ``i`` depends on the key and on ``i`` alone, so a tensor may
be cut anywhere without changing its numbers.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from .constants import constant
from .fields import static

__all__ = [
    "Numbers",
    "Seed",
    "check_key",
    "check_seed",
    "derived_key",
    "fold_in",
    "make_key",
    "next_key",
    "normal",
    "normal_of",
    "philox",
    "random_bits",
    "random_bits16",
    "seed_field",
    "uniform",
]

Seed: TypeAlias = int | Tensor
_Word = TypeVar("_Word", int, Tensor)

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# Bits used by `uniform`: as many as the dtype's significand holds, so no value rounds up to 1.
_UNIFORM_BITS = {torch.float64: 32, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def philox(counter: Sequence[_Word], key: Sequence[_Word]) -> tuple[_Word, ...]:
    """Apply the Philox-4x32-10 bijection.

    Args:
        counter: four broadcastable int64 tensors holding uint32 values, or four such numbers.
        key: two of the same kind.

    Returns:
        Four of the same kind.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    words = [x for x in (*counter, *key) if isinstance(x, Tensor)]
    if any(x.device.type == "meta" for x in words):  # nobody sees the values
        shape = torch.broadcast_shapes(*(x.shape for x in words))
        none: Any = torch.empty(shape, dtype=torch.int64, device="meta")
        return none, none, none, none
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + _WEYL[0]) & _MASK
        k1 = (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def check_seed(who: str, seed: Seed) -> None:
    """Raise unless `seed` is one that ``make_key`` takes; names `who`."""
    if isinstance(seed, Tensor):
        if seed.ndim or seed.dtype not in _INTEGERS:
            raise ValueError(
                f"{who}: a seed that is a tensor must be a 0-d integer tensor, got {seed.dtype} "
                f"of shape {tuple(seed.shape)}"
            )
        return
    whole = hasattr(seed, "__index__") and not isinstance(seed, bool)
    if not whole or not -(2**63) <= seed < 2**64:
        raise ValueError(f"{who}: seed must be a 64-bit integer, got {seed!r}")


def seed_field(default: Seed = 0) -> Any:
    """Declare the seed of a transform's random numbers."""
    return static(default, check=lambda who, _, seed: check_seed(who, seed))


def make_key(seed: Seed, counter: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Make a key from a seed and a counter.

    Args:
        seed: any integer in ``[-2**63, 2**64)``; values that differ by ``2**64`` coincide. Or a
            0-d integer tensor: ``vmap`` over it gives every example a stream of its own.
        counter: the stream's position, usually a step count.
        device: where the key lives, and with it everything drawn from it.

    Raises:
        ValueError: if a number does not fit in 64 bits, or a tensor is no 0-d integer tensor.

    >>> import torch, gradtx as gx
    >>> from gradtx.core.random import make_key, uniform
    >>> uniform(make_key(0), (2,))
    tensor([0.3990, 0.8805])
    """
    if isinstance(seed, Tensor):
        check_seed("make_key", seed)
        first = seed.to(device=device, dtype=torch.int64)
        return torch.stack([first, torch.full_like(first, _signed(counter))])
    for name, value in (("seed", seed), ("counter", counter)):
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"make_key: {name} must fit in 64 bits, got {value}")
    return torch.tensor([_signed(int(seed)), _signed(counter)], dtype=torch.int64, device=device)


def next_key(key: Tensor) -> Tensor:
    """Advance the key: same seed, counter + 1."""
    check_key("next_key", key)
    return torch.stack([key[0], key[1] + 1])


def fold_in(key: Tensor, data: int | str) -> Tensor:
    """Derive an independent key: `data` is mixed into the seed, the counter is kept.

    The new seed is the first two words of block `data` of the stream at counter -1, which counts
    from 0 upwards never reach.

    Args:
        key: int64 tensor of shape ``(2,)``.
        data: an integer, or a string (hashed with BLAKE2b, stable across processes).
    """
    check_key("fold_in", key)
    ones = torch.full_like(key[0], _MASK)
    block = [torch.full_like(ones, word) for word in _split(_index(data))]
    words = philox((*block, ones, ones), _split(key[0]))
    high = words[1] - ((words[1] >> 31) << 32)  # as a signed number, so that the sum fits
    return torch.stack([high * 2**32 + words[0], key[1]])


def derived_key(seed: Seed, data: int | str, device: torch.device | str = "cpu") -> Tensor:
    """``fold_in(make_key(seed), data)``; of a seed that is a number without tensor operations.

    >>> import torch
    >>> from gradtx.core.random import derived_key, fold_in, make_key
    >>> torch.equal(derived_key(-3, "w"), fold_in(make_key(-3), "w"))
    True
    """
    if isinstance(seed, Tensor):
        return fold_in(make_key(seed, device=device), data)
    check_seed("derived_key", seed)
    words = philox((*_split(_index(data)), _MASK, _MASK), _split(int(seed)))
    return make_key((words[1] << 32) | words[0], device=device)


class Numbers(NamedTuple):
    """Which numbers the elements of a part of a tensor have among all of them, row-major.

    They lie in rows of `length` elements; one row begins `distance` numbers after the other. All
    three are whole numbers, or 0-d tensors that hold such.

    Attributes:
        first: the number of the first element.
        length: elements of a row; there may be fewer in all.
        distance: between the beginnings of rows.

    >>> import torch
    >>> from gradtx.core.random import Numbers, make_key, random_bits16
    >>> whole = random_bits16(make_key(1), 20).view(4, 5)
    >>> torch.equal(random_bits16(make_key(1), 4, Numbers(7, 2, 5)).view(2, 2), whole[1:3, 2:4])
    True
    """

    first: int | Tensor
    length: int | Tensor
    distance: int | Tensor


def random_bits(key: Tensor, numel: int) -> Tensor:
    """Draw `numel` uint32 values, held in an int64 tensor of shape ``(numel,)``.

    Element i is word ``i % 4`` of Philox with key ``seed`` and counter ``(i // 4, counter)``, each
    64-bit number split low word first.

    Raises:
        ValueError: if `key` is not an int64 tensor of shape ``(2,)`` or `numel` is negative.
    """
    _check_size("random_bits", key, numel)
    blocks = torch.arange((numel + 3) // 4, dtype=torch.int64, device=key.device)
    return _words(key, blocks).reshape(-1)[:numel]


def random_bits16(key: Tensor, numel: int, numbers: Numbers | None = None) -> Tensor:
    """Draw `numel` uint16 values, held in an int32 tensor of shape ``(numel,)``.

    The words of ``random_bits`` cut in halves, lower half first: element i is half ``i % 2`` of
    word ``(i // 2) % 4`` of Philox block ``i // 8``, so one block serves eight elements.

    Args:
        key: int64 tensor of shape ``(2,)``.
        numel: how many.
        numbers: of the elements, where they are part of a tensor.

    Raises:
        ValueError: if `key` is not an int64 tensor of shape ``(2,)`` or `numel` is negative.
    """
    if numbers is None:
        words = random_bits(key, -(-numel // 2))
        return _halves(words).reshape(-1)[:numel]
    _check_size("random_bits16", key, numel)
    blocks, within = _blocks(numel, numbers, 8, key.device)
    return _halves(_words(key, blocks)).flatten(1).gather(1, within).reshape(-1)[:numel]


def _check_size(who: str, key: Tensor, numel: int) -> None:
    check_key(who, key)
    if numel < 0:
        raise ValueError(f"{who}: numel must be >= 0, got {numel}")


def _words(key: Tensor, blocks: Tensor) -> Tensor:
    """The four words of every block, along a last dimension."""
    words = philox((*_split(blocks), *_split(key[1])), _split(key[0]))
    return torch.stack(words, dim=-1)


def _halves(words: Tensor) -> Tensor:
    """Both halves of words, the lower one first, along a last dimension."""
    return torch.stack([words & 0xFFFF, words >> 16], dim=-1).to(torch.int32)


def _blocks(numel: int, numbers: Numbers, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which blocks serve the elements of a part, and where in them.

    Args:
        numel: elements of the part.
        numbers: of these.
        size: elements that a block serves.
        device: of the result.

    Returns:
        Blocks, int64 of shape (rows, n), and int64 of shape (rows, length): by element of a row,
        its place among the n * size that its row's blocks serve. The last row may be too long.
    """
    first, length, distance = numbers
    if isinstance(first, int) and isinstance(length, int) and isinstance(distance, int):
        length = max(min(length, numel), 1)
        rows = torch.arange(-(-numel // length), dtype=torch.int64, device=device)
        begins = first + distance * rows
    else:  # nothing may wait for the values: every element is a row
        at = torch.arange(numel, dtype=torch.int64, device=device)
        begins, length = first + distance * (at // length) + at % length, 1
    count = (length + size - 2) // size + 1
    blocks = begins[:, None] // size + torch.arange(count, dtype=torch.int64, device=device)
    within = begins[:, None] % size + torch.arange(length, dtype=torch.int64, device=device)
    return blocks, within


def uniform(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw from the uniform distribution on ``[0, 1)``: ``(bits >> (32 - p)) * 2**-p``.

    p is 24 for float32, 32 for float64, 11 for float16 and 8 for bfloat16, so 1 is never reached.

    Args:
        key: int64 tensor of shape ``(2,)``.
        shape: the shape of the result; elements are numbered row-major.
        dtype: float32, float64, float16 or bfloat16.

    Raises:
        ValueError: for another dtype or a malformed key.
    """
    if dtype not in _UNIFORM_BITS:
        raise ValueError(f"uniform: dtype must be a floating dtype, got {dtype}")
    bits = _UNIFORM_BITS[dtype]
    mantissa = random_bits(key, math.prod(shape)) >> (32 - bits)
    return (mantissa.to(dtype) * 2.0**-bits).reshape(tuple(shape))


def normal(
    key: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    numbers: Numbers | None = None,
) -> Tensor:
    """Draw from the standard normal distribution (Box-Muller).

    Elements 2j and 2j + 1 are the cosine and sine branch of uniforms 2j (shifted to ``(0, 1]``)
    and 2j + 1. The transcendental functions run in float64 and the result is rounded once, so
    devices agree up to rare last-bit differences.

    Args:
        key: int64 tensor of shape ``(2,)``.
        shape: the shape of the result; elements are numbered row-major.
        dtype: a floating dtype.
        numbers: of the elements, where they are part of a tensor.

    Raises:
        ValueError: for a non-floating dtype or a malformed key.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"normal: dtype must be a floating dtype, got {dtype}")
    numel = math.prod(shape)
    if numbers is None:
        return normal_of(random_bits(key, numel + numel % 2), shape, dtype)
    _check_size("normal", key, numel)
    blocks, within = _blocks(numel, numbers, 4, key.device)
    values = normal_of(_words(key, blocks), (len(blocks), 4 * blocks.shape[1]), dtype)
    return values.gather(1, within).reshape(-1)[:numel].reshape(tuple(shape))


def signs(key: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw 1 or -1 with equal chances, by the lowest of the bits.

    Args:
        key: int64 tensor of shape ``(2,)``.
        shape: the shape of the result; elements are numbered row-major.
        dtype: of the result.

    Raises:
        ValueError: for a malformed key.
    """
    bits = random_bits(key, math.prod(shape)) & 1
    return (2 * bits - 1).to(dtype).reshape(tuple(shape))


def normal_of(bits: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Box-Muller on an even number of uint32 values, as many as there are results or one more."""
    numel = math.prod(shape)
    pairs = bits.reshape(-1, 2).to(torch.float64)
    radius = torch.sqrt(-2.0 * torch.log((pairs[:, 0] + 1.0) * 2.0**-32))
    angle = pairs[:, 1] * (2.0 * math.pi * 2.0**-32)
    values = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return values.reshape(-1)[:numel].to(dtype).reshape(tuple(shape))


def _multiply(word: _Word, multiplier: int) -> tuple[_Word, _Word]:
    """Return the high and low words of a 32 x 32 bit product.

    In halves: a product beyond 2**63 would be undefined behaviour in generated C++, and compilers
    do exploit that.
    """
    low = (word & 0xFFFF) * multiplier
    middle = (word >> 16) * multiplier + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def _split(value: _Word) -> tuple[_Word, _Word]:
    """Split 64-bit numbers into their low and high 32-bit words."""
    return value & _MASK, (value >> 32) & _MASK


def _signed(value: int) -> int:
    """Reinterpret a 64-bit number as a signed one."""
    return (value + 2**63) % 2**64 - 2**63


def _index(data: int | str) -> int:
    return _hash_string(data) if isinstance(data, str) else data


@constant
def _hash_string(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def check_key(name: str, key: Tensor) -> None:
    """Raise ValueError unless `key` is one; names `name`."""
    if key.dtype != torch.int64 or key.shape != (2,):
        raise ValueError(
            f"{name}: key must be an int64 tensor of shape (2,), "
            f"got {key.dtype} of shape {tuple(key.shape)}"
        )
