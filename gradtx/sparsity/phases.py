"""When masks change: schedules of phases as data."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.plain import Plain, plain

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class PhaseSchedule(Plain):
    """The steps before which masks are chosen or dropped; made by ``phase_schedule`` and its like.

    Attributes:
        prune: steps, from 0 on, before which new masks are chosen.
        restore: steps before which everything is let go again. A step in both prunes.

    >>> import gradtx as gx
    >>> phases = gx.sparsity.phases(("dense", 2), ("sparse", 3), ("dense", 1), ("sparse", 2))
    >>> [phases.event(t) or "-" for t in range(8)]
    ['-', '-', 'prune', '-', '-', 'restore', 'prune', '-']
    >>> [phases.is_sparse(t) for t in range(8)]
    [False, False, True, True, True, False, True, True]
    """

    prune: tuple[int, ...]
    restore: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, steps in (("prune", self.prune), ("restore", self.restore)):
            if list(steps) != sorted(set(steps)) or any(step < 0 for step in steps):
                raise ValueError(f"PhaseSchedule: {name} must be ascending steps >= 0, got {steps}")
        first = next(iter(self.restore), 0)
        if first > 0 and (not self.prune or first < self.prune[0]):
            raise ValueError(
                f"PhaseSchedule: nothing has been pruned at the first restore, step {first}"
            )

    @property
    def has_events(self) -> bool:
        """Whether anything ever happens."""
        return bool(self.prune or self.restore)

    def event(self, step: int) -> str | None:
        """What happens before a step: "prune", "restore" or None."""
        if step in self.prune:
            return "prune"
        return "restore" if step in self.restore else None

    def is_sparse(self, step: int) -> bool:
        """Whether masks hold in a step."""
        last = max((s for s in self.prune if s <= step), default=-1)
        return last >= 0 and last >= max((s for s in self.restore if s <= step), default=-1)

    def due(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a step prunes, and whether it restores; 0-d tensors."""
        prune, restore = (
            torch.any(step == torch.tensor(steps or (-1,), dtype=step.dtype, device=step.device))
            for steps in (self.prune, self.restore)
        )
        return prune, restore & ~prune


def phase_schedule(
    prune: Iterable[Triple], restore: Iterable[Triple] = (), steps_per_epoch: int = 1
) -> PhaseSchedule:
    """Phases from triples (start, step, end): epochs start, start + step, ... below end.

    Args:
        prune: triples of epochs, from 0 on, at whose first step new masks are chosen.
        restore: at whose first step masks are dropped. An epoch in both prunes, with a warning.
        steps_per_epoch: >= 1.

    Raises:
        ValueError: a triple that does not go forward, or restores before anything is pruned.

    Source: arXiv 2106.12379.

    >>> import gradtx as gx
    >>> gx.sparsity.phase_schedule([(1, 2, 6)], [(2, 2, 5)], steps_per_epoch=10)
    PhaseSchedule(prune=(10, 30, 50), restore=(20, 40))
    """
    check_whole("phase_schedule", "steps_per_epoch", steps_per_epoch, 1)
    found = []
    for name, triples in (("prune", prune), ("restore", restore)):
        epochs: set[int] = set()
        for start, step, end in triples:
            if start < 0 or step < 1 or end < start:
                raise ValueError(
                    f"phase_schedule: {name} needs 0 <= start <= end and step >= 1, "
                    f"got {(start, step, end)}"
                )
            epochs |= set(range(start, end, step))
        found.append(epochs)
    if both := found[0] & found[1]:
        warnings.warn(
            f"phase_schedule: epochs {sorted(both)} prune and restore; they prune", stacklevel=2
        )
    pruned, restored = (tuple(e * steps_per_epoch for e in sorted(x)) for x in found)
    return PhaseSchedule(pruned, tuple(s for s in restored if s not in pruned))


def phases(*lengths: tuple[str, int]) -> PhaseSchedule:
    """Phases one after the other, each with its length in steps.

    Args:
        lengths: ("dense", steps) or ("sparse", steps); two sparse ones in a row choose anew.

    Raises:
        ValueError: no pair, another word, or a length < 1.

    >>> import gradtx as gx
    >>> gx.sparsity.phases(("dense", 5), ("sparse", 5), ("dense", 3), ("sparse", 8))
    PhaseSchedule(prune=(5, 13), restore=(10,))
    """
    prune, restore, step, sparse = [], [], 0, False
    for phase in lengths:
        if not isinstance(phase, tuple) or len(phase) != 2:
            raise ValueError(f"phases: a phase is a pair such as ('dense', 10), got {phase!r}")
        word, length = phase
        if word not in ("dense", "sparse"):
            raise ValueError(f"phases: a phase is 'dense' or 'sparse', got {word!r}")
        check_whole("phases", "a length", length, 1)
        if word == "sparse":
            prune.append(step)
        elif sparse:
            restore.append(step)
        step, sparse = step + length, word == "sparse"
    return PhaseSchedule(tuple(prune), tuple(restore))


def acdc_imagenet_schedule(steps_per_epoch: int = 1) -> PhaseSchedule:
    """The published phases of 100 epochs on ImageNet: 10 dense, then 5 and 5, 10 dense, 15 sparse.

    Source: arXiv 2106.12379.

    >>> import gradtx as gx
    >>> gx.sparsity.acdc_imagenet_schedule().prune
    (10, 20, 30, 40, 50, 60, 70, 85)
    """
    return phase_schedule(
        [(10, 10, 71), (85, 20, 100)], [(15, 10, 66), (75, 20, 86)], steps_per_epoch
    )


def layerwise_schedule(
    total_epochs: int,
    warmup_epochs: int,
    phase_length_epochs: int,
    finetuning_epochs: int,
    steps_per_epoch: int = 1,
) -> PhaseSchedule:
    """Phases of one length after a warm-up, sparse from ``finetuning_epochs`` to the end.

    Args:
        total_epochs: > ``warmup_epochs``.
        warmup_epochs: dense ones at the beginning, >= 0.
        phase_length_epochs: length of every phase, >= 1; the first is sparse.
        finetuning_epochs: the epoch, from 0 on, from which everything is sparse.
        steps_per_epoch: >= 1.

    Raises:
        ValueError: a value outside its range.

    Source: the optimizer package of arXiv 2106.12379's authors.

    >>> import gradtx as gx
    >>> gx.sparsity.layerwise_schedule(10, 2, 1, 8)
    PhaseSchedule(prune=(2, 4, 6, 8), restore=(0, 3, 5, 7))
    """
    who = "layerwise_schedule"
    check_whole(who, "warmup_epochs", warmup_epochs, 0)
    check_whole(who, "total_epochs", total_epochs, warmup_epochs + 1)
    check_whole(who, "phase_length_epochs", phase_length_epochs, 1)
    check_whole(who, "finetuning_epochs", finetuning_epochs, warmup_epochs)
    check_whole(who, "steps_per_epoch", steps_per_epoch, 1)
    prune, restore, before = [], [0], False
    for epoch in range(total_epochs):
        phase = (epoch - warmup_epochs) // phase_length_epochs
        now = epoch >= warmup_epochs and (phase % 2 == 0 or epoch >= finetuning_epochs)
        if now and not before:
            prune.append(epoch * steps_per_epoch)
        elif before and not now:
            restore.append(epoch * steps_per_epoch)
        before = now
    return PhaseSchedule(tuple(prune), tuple(s for s in restore if s not in prune))


def cubic_sparsity(
    initial: float, final: float, step: int, start: int, end: int, degree: float = 3.0
) -> float:
    """The sparsity of gradual pruning: s_f + (s_i - s_f) (1 - (step - start) / (end - start))^3.

    Args:
        initial: sparsity s_i at the start, in [0, 1).
        final: sparsity s_f at the end, in [s_i, 1).
        step: the step; it counts as ``start`` before and as ``end`` after.
        start: first step of pruning.
        end: last step of pruning, > ``start``.
        degree: in place of 3, > 0; 1 is linear, 1 / 3 prunes most at the end.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 1710.01878.

    >>> import gradtx as gx
    >>> [round(gx.sparsity.cubic_sparsity(0.0, 0.8, t, 0, 4), 3) for t in range(5)]
    [0.0, 0.463, 0.7, 0.788, 0.8]
    """
    if not 0 <= initial <= final < 1:
        raise ValueError(
            f"cubic_sparsity: needs 0 <= initial <= final < 1, got {initial!r} and {final!r}"
        )
    if not start < end:
        raise ValueError(f"cubic_sparsity: end must be after start, got {start!r} and {end!r}")
    if not degree > 0:
        raise ValueError(f"cubic_sparsity: degree must be > 0, got {degree!r}")
    done = min(max((step - start) / (end - start), 0.0), 1.0)
    return final + (initial - final) * (1 - done) ** degree


def equal_ratios(initial: float, final: float, times: int) -> list[float]:
    """Sparsities that each leave the same share of what the one before left.

    s_j = 1 - (1 - s_i) ((1 - s_f) / (1 - s_i))^(j / times) for j = 1 .. times.

    Args:
        initial: sparsity s_i before, in [0, 1).
        final: sparsity s_f after the last event, in [s_i, 1).
        times: events, >= 1.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2107.03356.

    >>> import gradtx as gx
    >>> gx.sparsity.equal_ratios(0.0, 0.75, 2)
    [0.5, 0.75]
    """
    if not 0 <= initial <= final < 1:
        raise ValueError(
            f"equal_ratios: needs 0 <= initial <= final < 1, got {initial!r} and {final!r}"
        )
    check_whole("equal_ratios", "times", times, 1)
    left, ratio = 1 - initial, (1 - final) / (1 - initial)
    return [1 - left * ratio ** (j / times) for j in range(1, times + 1)]


def check_whole(who: str, name: str, value: int, least: int) -> None:
    """Raise unless a value is an integer of at least ``least``.

    Raises:
        ValueError: it is not.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{who}: {name} must be an integer >= {least}, got {value!r}")
