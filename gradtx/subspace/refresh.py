"""When a subspace is chosen anew: policies of the step count alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import tree
from ..core.checks import can_read
from ..core.constants import constant
from ..core.fields import static
from ..core.plain import Plain


@dataclass(frozen=True)
class Refresh(Plain):
    """Base class of policies. t is the number of this update of the leaf, from 1 on.

    Every policy but ``never`` refreshes at t = 1.

    >>> import torch, gradtx as gx
    >>> t = torch.arange(1, 8)
    >>> for policy in (gx.subspace.zero_based(3), gx.subspace.one_based(3)):
    ...     print(t[policy.due(t, ())].tolist())
    [1, 4, 7]
    [1, 3, 6]
    """

    @property
    def period(self) -> int:
        """After how many steps ``due`` repeats itself; 1 where it does not."""
        return 1

    def init(self, p: Tensor, name: str = "") -> Tensor | tuple[()]:
        """The leaf's phase, or () if the policy knows none."""
        return ()

    def due(self, t: Tensor, phase: Any) -> Tensor | bool:
        """Whether the subspace is chosen anew before update ``t``."""
        raise NotImplementedError

    def due_all(self, ts: list[Tensor], phases: list[Any]) -> list[Tensor | bool]:
        """``due`` of several leaves."""
        return [self.due(t, phase) for t, phase in zip(ts, phases, strict=True)]


@dataclass(frozen=True)
class every_step(Refresh):
    """A new subspace for every update.

    >>> import torch, gradtx as gx
    >>> gx.subspace.every_step().due(torch.tensor(5), ())
    True
    """

    def due(self, t: Tensor, phase: Any) -> bool:
        return True


@dataclass(frozen=True)
class never(Refresh):
    """No update chooses the subspace: whoever knows more puts it into the state.

    Bases are zero until then. ``gx.distributed.lordo`` chooses them from what all workers did.

    >>> import torch, gradtx as gx
    >>> gx.subspace.never().due(torch.tensor(1), ())
    False
    """

    def due(self, t: Tensor, phase: Any) -> bool:
        return False


@dataclass(frozen=True)
class _Every(Refresh):
    every: int = static(at_least=1, steps=True)

    @property
    def period(self) -> int:
        return self.every

    def due_all(self, ts: list[Tensor], phases: list[Any]) -> list[Tensor | bool]:
        if len({t.device for t in ts}) != 1 or not all(map(can_read, ts)):
            return super().due_all(ts, phases)
        phase = torch.stack(phases) if isinstance(phases[0], Tensor) else ()
        due: list[Tensor | bool] = self.due(torch.stack(ts), phase).tolist()  # type: ignore[union-attr]
        return due


@dataclass(frozen=True)
class zero_based(_Every):
    """At t = 1, k + 1, 2 k + 1 and so on, as GaLore and APOLLO do.

    Args:
        every: k >= 1.

    Raises:
        ValueError: ``every`` < 1.

    >>> import torch, gradtx as gx
    >>> gx.subspace.zero_based(2).due(torch.tensor(3), ())
    tensor(True)
    """

    def due(self, t: Tensor, phase: Any) -> Tensor:
        return (t - 1) % self.every == 0


@dataclass(frozen=True)
class one_based(_Every):
    """At t = 1, k, 2 k and so on, as Subspace-Momentum does.

    Args:
        every: k >= 1.

    Raises:
        ValueError: ``every`` < 1.

    >>> import torch, gradtx as gx
    >>> gx.subspace.one_based(2).due(torch.tensor(3), ())
    tensor(False)
    """

    def due(self, t: Tensor, phase: Any) -> Tensor:
        return (t == 1) | (t % self.every == 0)


@dataclass(frozen=True)
class staggered(_Every):
    """At t = 1 and then every k updates at the leaf's own phase, which spreads the cost.

    Args:
        every: k >= 1.
        offset: the phase, in [0, k); None takes it from the leaf's name.

    Raises:
        ValueError: ``every`` < 1, or an offset outside its range.

    >>> import torch, gradtx as gx
    >>> policy, t = gx.subspace.staggered(4, offset=2), torch.arange(1, 8)
    >>> t[policy.due(t, policy.init(torch.ones(2, 2)))].tolist()
    [1, 3, 7]
    """

    offset: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offset is not None and not 0 <= self.offset < self.every:
            raise ValueError(f"staggered: offset must be in [0, {self.every}), got {self.offset}")

    def init(self, p: Tensor, name: str = "") -> Tensor:
        offset = _phase(name, self.every) if self.offset is None else self.offset
        return torch.full((), offset, dtype=torch.int32, device=p.device)

    def due(self, t: Tensor, phase: Any) -> Tensor:
        return (t == 1) | ((t - 1) % self.every == phase)


@constant
def _phase(name: str, every: int) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % every


def either(flag: Tensor | bool, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """``yes()`` where the flag holds, else ``no()``; both give trees of one structure.

    What is rare and dear, such as a singular value decomposition, is left out where the flag can be
    read: outside transformations, compilation and graph capture. There both are made and chosen
    from.
    """
    if isinstance(flag, bool) or can_read(flag):
        return yes() if flag else no()
    return tree.where(flag, yes(), no())


def can_overwrite(x: Tensor) -> bool:
    """Whether a tensor that a transform has made may be overwritten: nothing else records it."""
    return can_read(x) and not x.requires_grad
