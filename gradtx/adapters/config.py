"""How adapters of low rank are scaled: which ranks are trained, and the weight of each column."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..core.names import suggestion
from ..core.plain import Plain
from ..core.random import Seed, check_seed

Kind: TypeAlias = Literal["matryoshka", "lora", "dylora"]
Scaling: TypeAlias = Literal["none", "rank", "sqrt"]
Normalize: TypeAlias = Literal["sum", "mean"]
Start: TypeAlias = Literal["reference", "peft"]

_CHOICES = {
    "kind": ("matryoshka", "lora", "dylora"),
    "scaling": ("none", "rank", "sqrt"),
    "normalize": ("sum", "mean"),
    "init_A": ("reference", "peft"),
}


@dataclass(frozen=True)
class AdapterConfig(Plain):
    """What all adapters of a model have in common.

    A layer ``y = x W^T + b`` becomes ``y = x W^T + b + ((x A) P) B`` with A (in, r) and B (r, out),
    the transposes of PEFT's factors, and P a constant vector, see ``adapter_diagonal``. At rank b,
    trained or not, an adapter is ``s(b) x A[:, :b] B[:b]``, without P.

    Args:
        rank: r, >= 1.
        kind: "matryoshka" trains all ranks of a set at once, "lora" the full rank, "dylora" one of
            the set at a time.
        train_ranks: the set, each in [1, rank], without repetition; None for the powers of two up
            to ``rank`` and ``rank`` itself, for "lora" for ``rank`` alone.
        scaling: s(k): "none" 1, "rank" 1/k, "sqrt" 1/sqrt(k).
        alpha: multiplies s, > 0.
        normalize: "sum", the published method, or "mean": "matryoshka" divides P by the number of
            ranks.
        truncate: drop ranks above ``rank`` from the set instead of raising.
        init_A: "reference", uniform in ±1/sqrt(r), or "peft", uniform in ±1/sqrt(in). B is zero.
        seed: of A's numbers; an integer of at most 64 bits.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2605.07850; "lora" arXiv 2106.09685, "sqrt" arXiv 2312.03732, "dylora" arXiv
    2210.07558.

    >>> import gradtx as gx
    >>> gx.adapters.AdapterConfig(rank=12).train_ranks
    (1, 2, 4, 8, 12)
    """

    rank: int = 16
    kind: Kind = "matryoshka"
    train_ranks: Sequence[int] | None = None
    scaling: Scaling = "sqrt"
    alpha: float = 1.0
    normalize: Normalize = "sum"
    truncate: bool = False
    init_A: Start = "reference"  # noqa: N815
    seed: Seed = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice("AdapterConfig", name, getattr(self, name), choices)
        check_rank("AdapterConfig", "rank", self.rank, None)
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"AdapterConfig: alpha must be in (0, inf), got {self.alpha}")
        check_seed("AdapterConfig", self.seed)
        ranks = self._ranks()
        object.__setattr__(self, "train_ranks", ranks)
        if ranks[-1] < self.rank:
            warnings.warn(
                f"AdapterConfig: the largest of train_ranks is {ranks[-1]}; the last "
                f"{self.rank - ranks[-1]} of {self.rank} columns get no gradient",
                stacklevel=4,
            )

    def scale(self, k: int) -> float:
        """What an adapter of rank k is multiplied by: alpha s(k)."""
        return self.alpha * scale(k, self.scaling)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that are trained, ascending."""
        assert isinstance(self.train_ranks, tuple)
        return self.train_ranks

    def check(self, name: str, value: int) -> int:
        """An inference rank.

        Raises:
            ValueError: it is not in [1, rank].
        """
        check_rank(name, "rank", value, self.rank)
        return value

    def diagonal(self, device: torch.device | str = "cpu") -> Tensor:
        """P for training, float32 (rank,).

        Raises:
            ValueError: the kind is "dylora", whose P changes with the rank that was drawn.
        """
        if self.kind == "dylora":
            raise ValueError(
                "adapter_diagonal: kind 'dylora' needs active, the rank that was drawn"
            )
        sums = [math.fsum(self.scale(k) for k in self.ranks if k > i) for i in range(self.rank)]
        if self.kind == "matryoshka" and self.normalize == "mean":
            sums = [x / len(self.ranks) for x in sums]
        return torch.tensor(sums, dtype=torch.float32, device=device)

    def _ranks(self) -> tuple[int, ...]:
        given: Any = self.train_ranks
        if self.kind == "lora":
            if given is not None and tuple(given) != (self.rank,):
                raise ValueError(
                    f"AdapterConfig: kind 'lora' trains its own rank {self.rank} alone, got "
                    f"train_ranks {tuple(given)}"
                )
            return (self.rank,)
        if given is None:
            powers = {2**i for i in range(self.rank.bit_length()) if 2**i <= self.rank}
            return tuple(sorted(powers | {self.rank}))
        ranks = tuple(given)
        if not ranks:
            raise ValueError("AdapterConfig: train_ranks must not be empty")
        for k in ranks:
            most = None if self.truncate else self.rank
            check_rank("AdapterConfig", "train_ranks", k, most)
        if len(set(ranks)) < len(ranks):
            raise ValueError(f"AdapterConfig: train_ranks must not repeat, got {ranks}")
        kept = tuple(sorted(int(k) for k in ranks if k <= self.rank))
        if not kept:
            raise ValueError(
                f"AdapterConfig: train_ranks has none that is at most {self.rank}, got {ranks}"
            )
        return kept


def scale(k: int, scaling: Scaling = "sqrt") -> float:
    """s(k), what an adapter of rank k is multiplied by: 1, 1/k or 1/sqrt(k).

    Raises:
        ValueError: k < 1, or another scaling than "none", "rank" and "sqrt".

    >>> import gradtx as gx
    >>> [gx.adapters.scale(4, s) for s in ("none", "rank", "sqrt")]
    [1.0, 0.25, 0.5]
    """
    check_choice("scale", "scaling", scaling, _CHOICES["scaling"])
    check_rank("scale", "k", k, None)
    return {"none": 1.0, "rank": 1.0 / k, "sqrt": 1.0 / math.sqrt(k)}[scaling]


def adapter_diagonal(
    rank: int,
    kind: Kind = "matryoshka",
    train_ranks: Sequence[int] | None = None,
    scaling: Scaling = "sqrt",
    normalize: Normalize = "sum",
    alpha: float = 1.0,
    active: int | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """P, the constant that weights the columns of an adapter in training.

    "matryoshka": P_i is the sum of s(k) over the trained ranks k > i, so that one product with P is
    the sum over all nested adapters. "lora": s(r). "dylora": s(b) where i < b, for the drawn b.

    Args:
        rank: r, >= 1.
        kind: "matryoshka", "lora" or "dylora".
        train_ranks: the set of ranks, see ``AdapterConfig``.
        scaling: "none", "rank" or "sqrt".
        normalize: "sum", or "mean" to divide by the number of ranks.
        alpha: multiplies s.
        active: b, for "dylora" alone.
        device: of the result.

    Returns:
        float32 (rank,), not increasing.

    Raises:
        ValueError: a value outside its range, or "dylora" without ``active``.

    Source: arXiv 2605.07850.

    >>> import gradtx as gx
    >>> gx.adapters.adapter_diagonal(8, train_ranks=(1, 2, 4, 8), scaling="none")
    tensor([4., 3., 2., 2., 1., 1., 1., 1.])
    """
    config = AdapterConfig(
        rank, kind, train_ranks, scaling=scaling, normalize=normalize, alpha=alpha
    )
    if kind != "dylora" or active is None:
        return config.diagonal(device)
    config.check("adapter_diagonal", active)
    columns = torch.arange(rank, dtype=torch.float32, device=device)
    return torch.where(columns < active, config.scale(active), torch.zeros_like(columns))


def check_choice(who: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise unless a name is one of those that there are.

    Raises:
        ValueError: says which there are, and which was meant.
    """
    if value not in choices:
        hint = suggestion(str(value), choices)
        raise ValueError(f"{who}: {name} must be one of {tuple(choices)}, got {value!r}{hint}")


def check_rank(who: str, name: str, value: Any, most: int | None) -> None:
    """Raise unless a rank is an integer from 1 to ``most``.

    Raises:
        ValueError: names the option and its range.
    """
    whole = hasattr(value, "__index__") and not isinstance(value, (bool, Tensor))
    if not whole or value < 1 or (most is not None and value > most):
        span = "an integer >= 1" if most is None else f"an integer in [1, {most}]"
        raise ValueError(f"{who}: {name} must be {span}, got {value!r}")
