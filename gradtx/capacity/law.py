"""From the error to effective bits, capacity and the loss that it predicts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .format import Format
from .sparse import Sparsifier, composed


class Capacity(NamedTuple):
    """The constants of ``capacity``: ``ceiling``, ``slope`` and ``power``, all > 0."""

    ceiling: float
    slope: float
    power: float


@dataclass(frozen=True)
class ScalingLaw:
    """L = A (N rho)^-alpha + B D^-beta + E.

    Attributes:
        A, alpha: of the parameters N, of which a share rho counts.
        B, beta: of the training data D.
        E: what no model goes below.

    >>> import gradtx as gx
    >>> gx.capacity.ScalingLaw(A=400.0, alpha=0.5, B=400.0, beta=0.5, E=1.0).E
    1.0
    """

    A: float
    alpha: float
    B: float
    beta: float
    E: float


def effective_bits(gmse: float, stderr: float = 0.0) -> float:
    """The bits a value that a perfect code would need for this error: -log2(gmse) / 2.

    By rate-distortion no code of b bits a value has an error below 4^-b, so that effective bits
    are never more than stored bits.

    Args:
        gmse: error relative to the variance, in [0, 1]; 0 gives infinity.
        stderr: its standard error. More than four of them above 1 gives a warning: the
            representation is worse than zeros.

    Raises:
        ValueError: a negative error, or NaN.

    Source: arXiv 2506.01863.

    >>> import gradtx as gx
    >>> gx.capacity.effective_bits(1 / 256), gx.capacity.effective_bits(0.0)
    (4.0, inf)
    """
    if not gmse >= 0:
        raise ValueError(f"effective_bits: gmse must be in [0, 1], got {gmse}")
    if gmse > 1.0 + 4.0 * stderr:
        warnings.warn(
            f"effective_bits: gmse should be in [0, 1], got {gmse:.3g}; the representation is not "
            "scaled, or worse than zeros",
            stacklevel=2,
        )
    return math.inf if gmse == 0 else 0.0 - 0.5 * math.log2(gmse)


def capacity(gmse: float, ceiling: float, slope: float, power: float) -> float:
    """The share of its parameters that a network in a format is worth: L tanh(F b^C).

    b is the effective bits. L (``ceiling``), F (``slope``) and C (``power``) are fitted once for a
    family of models, see ``fit_capacity``; there are no values that would hold for all.

    Args:
        gmse: error of the format on normal numbers, in [0, 1]; 1 has capacity 0.
        ceiling: L, > 0.
        slope: F, > 0.
        power: C, > 0.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2506.01863.

    >>> import gradtx as gx
    >>> gx.capacity.capacity(0.0, 1.0, 0.5, 1.0), gx.capacity.capacity(1.0, 1.0, 0.5, 1.0)
    (1.0, 0.0)
    """
    for name, value in (("ceiling", ceiling), ("slope", slope), ("power", power)):
        if not 0 < value < math.inf:
            raise ValueError(f"capacity: {name} must be in (0, inf), got {value}")
    return ceiling * math.tanh(slope * max(effective_bits(gmse), 0.0) ** power)


def capacity_product(gmses: Sequence[float], ceiling: float, slope: float, power: float) -> float:
    """The capacity of several formats together as the product of theirs.

    An approximation for weights that are sparse and quantized, or for weights and activations; the
    error of ``compose(formats)`` gives the direct value.

    Args:
        gmses: the error of each.
        ceiling: L, > 0.
        slope: F, > 0.
        power: C, > 0.

    Raises:
        ValueError: a value outside its range, or no formats.

    Source: arXiv 2506.01863.

    >>> import gradtx as gx
    >>> one = gx.capacity.capacity(0.01, 1.0, 0.5, 1.0)
    >>> gx.capacity.capacity_product([0.01, 0.01], 1.0, 0.5, 1.0) == one * one
    True
    """
    if not gmses:
        raise ValueError("capacity_product: needs at least one error")
    return math.prod(capacity(g, ceiling, slope, power) for g in gmses)


def compose(formats: Sequence[Format]) -> Format:
    """Several formats one behind the other as one; what one sets to zero the next do not see.

    Args:
        formats: one or more, sparsifiers first.

    Raises:
        ValueError: no formats, or a sparsifier before two, as the third would see its zeros.
        TypeError: something that is no format.

    >>> import gradtx as gx
    >>> both = gx.capacity.compose([gx.capacity.n_of_m(2, 4), gx.capacity.uniform_midtread(4)])
    >>> both.bits_per_value((1 << 20,)) < 2.7
    True
    """
    formats = list(formats)
    if not formats:
        raise ValueError("compose: needs at least one format")
    out = formats[0]
    if not isinstance(out, Format):
        raise TypeError(f"compose: needs formats, got {type(out).__name__}")
    if len(formats) > 2 and any(isinstance(f, Sparsifier) for f in formats[:-1]):
        raise ValueError(
            "compose: a sparsifier can stand in front of one other format only, got "
            f"{len(formats)} formats"
        )
    for following in formats[1:]:
        out = composed(out, following)
    return out


def scaling_law(n: float, d: float, rho: float, law: ScalingLaw) -> float:
    """The loss after training n parameters of capacity rho on d data.

    L = A (n rho)^-alpha + B d^-beta + E.

    Args:
        n: parameters, > 0.
        d: training data, > 0.
        rho: capacity of the format, > 0.
        law: the constants.

    Raises:
        ValueError: a number that is not positive.

    Source: arXiv 2502.16440, arXiv 2506.01863.

    >>> import gradtx as gx
    >>> law = gx.capacity.ScalingLaw(A=400.0, alpha=0.5, B=400.0, beta=0.5, E=1.0)
    >>> gx.capacity.scaling_law(1e4, 1e4, 1.0, law), gx.capacity.scaling_law(4e4, 1e4, 0.25, law)
    (9.0, 9.0)
    """
    for name, value in (("n", n), ("d", d), ("rho", rho)):
        if not value > 0:
            raise ValueError(f"scaling_law: {name} must be > 0, got {value}")
    return float(law.A * (n * rho) ** -law.alpha + law.B * d**-law.beta + law.E)
