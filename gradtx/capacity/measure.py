"""How well a representation holds normal numbers, and how many bits it takes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..codecs import Codec, nbytes
from ..compressors import Compressor
from ..core.random import Seed, fold_in, make_key, normal
from .format import Format

Representation: TypeAlias = "Format | Codec | Compressor | Callable[[Tensor], Tensor]"

SAMPLES = 1 << 22
SHAPE = (256, 256)
_LEAST_BATCHES = 2  # of which a standard error can be told
_SIGMAS = 4.0


class GMSE(NamedTuple):
    """Attributes: ``value``, the error; ``stderr``, its standard error, 0 where it is exact."""

    value: float
    stderr: float


def gmse(
    representation: Representation,
    shape: Sequence[int] = SHAPE,
    samples: int = SAMPLES,
    seed: Seed = 0,
    scales: Sequence[float] | None = None,
    exact: bool = True,
) -> GMSE:
    """The mean square error on standard normal numbers: E|z - R(z)|² / n.

    In closed form where there is one, else by sampling leaves of one shape; the standard error is
    that of the mean over leaves. For a compressor it is what is dropped, as a share of all.

    Args:
        representation: a format, a codec (as of a signed state), a compressor, or a function from
            a tensor to one of its shape.
        shape: of a leaf.
        samples: numbers drawn, rounded up to whole leaves, at least two.
        seed: of the numbers.
        scales: multiply the leaf by each of these numbers before, divide after, and take the
            smallest error; None for 1 alone.
        exact: False samples also where there is a closed form.

    Raises:
        ValueError: no samples, a scale that is not positive, or a result that is not finite or
            has another shape.
        TypeError: something else than a representation.

    Source: arXiv 2506.01863.

    >>> import gradtx as gx
    >>> round(gx.capacity.gmse(gx.capacity.prune(0.5)).value, 6)
    0.071326
    >>> found = gx.capacity.gmse(gx.codecs.symmetric(bits=4), samples=1 << 18)
    >>> abs(found.value - 0.01158) < 4 * found.stderr
    True
    """
    if scales is None and exact and isinstance(representation, Format):
        known = representation.exact_gmse()
        if known is not None:
            return _checked(representation, GMSE(known, 0.0))
    found = sampled([representation], shape, samples, seed, scales or (1.0,))
    return found[0]


def sampled(
    representations: Sequence[Representation],
    shape: Sequence[int] = SHAPE,
    samples: int = SAMPLES,
    seed: Seed = 0,
    scales: Sequence[float] = (1.0,),
) -> list[GMSE]:
    """The errors of several representations on the same numbers."""
    size = math.prod(shape)
    if samples < 1 or size < 1:
        raise ValueError(f"gmse: needs samples, got {samples} in leaves of shape {tuple(shape)}")
    for scale in scales:
        if not 0 < scale < math.inf:
            raise ValueError(f"gmse: scales must be in (0, inf), got {scale}")
    batches = max(_LEAST_BATCHES, -(-samples // size))
    maps = [[mapping(r) for _ in scales] for r in representations]
    errors = torch.zeros(
        (len(maps), len(scales), batches), dtype=torch.float64, device=torch.device("cpu")
    )
    key = make_key(seed)
    for batch in range(batches):
        z = normal(fold_in(key, batch), shape)
        for i, of_scales in enumerate(maps):
            for j, (scale, roundtrip) in enumerate(zip(scales, of_scales, strict=True)):
                back = roundtrip(z * scale).detach() / scale
                if back.shape != z.shape:
                    raise ValueError(
                        f"gmse: {representations[i]!r} gives shape {tuple(back.shape)} for "
                        f"{tuple(z.shape)}"
                    )
                errors[i, j, batch] = (z.double() - back.double()).square().mean()
    return [_least(r, e) for r, e in zip(representations, errors, strict=True)]


def mapping(representation: Representation) -> Callable[[Tensor], Tensor]:
    """The map from a tensor to what is left of it; the state of a compressor goes on inside.

    Raises:
        TypeError: something else than a representation.
    """
    if isinstance(representation, Format):
        return representation
    if isinstance(representation, Codec):
        codec = representation

        def stored(x: Tensor) -> Tensor:
            return codec.decode(codec.encode(x, codec.init(x, signed=True)), like=x)

        return stored
    if isinstance(representation, Compressor):
        compressor, states = representation, []  # type: ignore[var-annotated]

        def kept(x: Tensor) -> Tensor:
            state = states.pop() if states else compressor.init(x)
            payload, state = compressor.compress(x, state)
            states.append(state)
            return compressor.decompress(payload)

        return kept
    if not callable(representation) or isinstance(representation, type):
        raise TypeError(
            "gmse: needs a format, a codec, a compressor or a function, got "
            f"{getattr(representation, '__name__', type(representation).__name__)}"
        )
    return representation


def stored_bits(representation: Representation, shape: Sequence[int] = SHAPE) -> float:
    """Bits a value that a leaf of normal numbers takes, side data included.

    Formats say it themselves. Of a codec the tensors of its encoding are counted, of a compressor
    what ``Compressor.nbits`` says of its payload. A function has unknown bits: NaN.

    >>> import gradtx as gx
    >>> gx.capacity.stored_bits(gx.codecs.symmetric(bits=4, block_size=64))
    4.5
    >>> gx.capacity.stored_bits(gx.compressors.sign())
    1.00048828125
    """
    return bits_of(representation, normal(make_key(0), shape))


def bits_of(representation: Representation, z: Tensor) -> float:
    """Bits a value that this leaf takes."""
    n = max(z.numel(), 1)
    if isinstance(representation, Format):
        return representation.bits_per_value(z.shape)
    if isinstance(representation, Codec):
        return 8.0 * nbytes(representation.init(z, signed=True)) / n
    if isinstance(representation, Compressor):
        payload, _ = representation.compress(z, representation.init(z))
        return representation.nbits(payload) / n
    return math.nan


def _least(representation: Any, errors: Tensor) -> GMSE:
    """The smallest of the means over leaves; ``errors`` has shape (scales, leaves)."""
    if not errors.isfinite().all():
        raise ValueError(f"gmse: {representation!r} gives numbers that are not finite")
    means = errors.mean(1)
    best = int(means.argmin())
    stderr = errors[best].std() / math.sqrt(errors.shape[1])
    return _checked(representation, GMSE(float(means[best]), float(stderr)))


def _checked(representation: Any, found: GMSE) -> GMSE:
    if found.value > 1.0 + _SIGMAS * found.stderr:
        warnings.warn(
            f"gmse: {representation!r} has an error of {found.value:.3g}, worse than zeros; its "
            "scale does not fit normal numbers",
            stacklevel=4,
        )
    return found
