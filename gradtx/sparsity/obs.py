"""Pruning by second order: what is dropped costs least, and what remains makes up for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..core import tree
from ..core.fields import static
from ..core.plain import Plain
from ..core.tree import PyTree
from ..ops import top_mask
from .fisher import InverseFisher, all_finite, inverse_fisher
from .keep import check_mask

NEVER = math.inf  # the score of what has been dropped before, where it is not counted


class Pruned(NamedTuple):
    """What ``obs_prune`` gives.

    Attributes:
        params: the parameters, zero where their mask is False.
        masks: bool, shaped like the parameters; None for leaves without one.
        dropped: entries that this event has dropped.
    """

    params: PyTree
    masks: PyTree
    dropped: int


@dataclass(frozen=True)
class obs_prune(Plain):
    """Drop the entries that a quadratic model of the loss misses least, and correct the others.

    With F the Fisher matrix of some gradients: the live entries with the smallest w_k^2 / (2
    F^-1_kk) are dropped until a share ``sparsity`` of all is zero, and w <- w - F^-1 t, with t_k =
    w_k / F^-1_kk for those that are dropped. An instance is called: ``obs_prune(0.5)(params,
    masks, gradients)``.

    Args:
        sparsity: share of all maskable entries that is zero afterwards, in [0, 1).
        damping: of F, > 0.
        block: entries that F couples, >= 1, or None for all.
        packed: blocks are cut from the live entries of all leaves together, or from every leaf.
        score: "obs", or "magnitude" |w_k|, which needs no gradients.
        update: "independent", one weight's correction for every dropped one as published, exact
            where F does not couple them; "joint", the minimum with all of them at zero; "none".
        scope: compare entries "global"ly or in every "leaf".
        group: drop single entries (1) or groups of consecutive ones, whose score is that of the
            whole group; not packed then.
        eps: added to the denominator of scores and to F^-1_kk in corrections.

    Raises:
        ValueError: a value outside its range; when called, a sparsity below the present one, a
            mask or gradients of another form, or weights or gradients that are not finite.

    Source: arXiv 2107.03356, arXiv 2203.07259.

    >>> import torch, gradtx as gx
    >>> params, masks = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.ones(2, dtype=torch.bool)}
    >>> prune = gx.sparsity.obs_prune(0.5, damping=1.0)
    >>> prune(params, masks, torch.tensor([[1.0, 1.0]])).params
    {'w': tensor([0.0000, 2.5000])}
    """

    sparsity: float = static(within="[0, 1)")
    damping: float = static(1e-5, within="(0, inf)")
    block: int | None = 128
    packed: bool = True
    score: Literal["obs", "magnitude"] = "obs"
    update: Literal["independent", "joint", "none"] = "independent"
    scope: Literal["global", "leaf"] = "global"
    group: int = static(1, at_least=1)
    eps: float = 0.0

    def __post_init__(self) -> None:
        if self.group > 1 and self.packed:
            raise ValueError(f"obs_prune: groups of {self.group} need packed=False")
        if self.group > 1 and (self.block is None or self.block % self.group):
            raise ValueError(
                f"obs_prune: groups of {self.group} do not fill blocks of {self.block!r}"
            )

    def __call__(
        self, params: PyTree, masks: PyTree, gradients: Tensor | PyTree | None = None
    ) -> Pruned:
        """Prune.

        Args:
            params: tree of tensors.
            masks: tree like it, bool, True where an entry is kept; None for leaves that stay.
            gradients: (m, n) for the n entries of all leaves with a mask, one after the other; or
                a tree like ``masks`` of (m, *shape). One row is the gradient of one batch.
        """
        leaves, spec = tree.flatten(params)
        names = tree.names(spec)
        given = tree.leaves_like("obs_prune", spec, masks, "mask")
        there = [i for i, m in enumerate(given) if m is not None]
        where = [i for i in there if leaves[i].numel()]
        for i in where:
            check_mask("obs_prune", names[i], given[i], leaves[i])
            if not all_finite(leaves[i]):
                raise ValueError(f"obs_prune: leaf {names[i]!r} has a NaN or an infinity")
            if leaves[i].numel() % self.group:
                raise ValueError(
                    f"obs_prune: leaf {names[i]!r} has {leaves[i].numel()} entries, which groups "
                    f"of {self.group} do not fill"
                )
        if not there:
            raise ValueError("obs_prune: no leaf has a mask")
        if not where:
            return Pruned(params, masks, 0)
        w = torch.cat([leaves[i].detach().reshape(-1) for i in where]).double()
        live = torch.cat([given[i].reshape(-1) for i in where])
        sizes = [leaves[i].numel() for i in where]
        w = torch.where(live, w, 0)
        shapes = {i: leaves[i].shape for i in where}
        rows = self._rows(gradients, spec, shapes, live)
        try:
            drop, change = self._event(w, live, rows, sizes)
        except ValueError:
            if rows is not None:
                _check_finite([names[i] for i in where], rows, sizes)
            raise
        kept = live & ~drop
        new = torch.where(kept, change.add_(w), 0)
        parts = zip(where, new.split(sizes), kept.split(sizes), strict=True)
        out, out_masks = list(leaves), list(given)
        for i, x, m in parts:
            out[i] = x.reshape(leaves[i].shape).to(leaves[i].dtype)
            out_masks[i] = m.reshape(leaves[i].shape)
        return Pruned(spec.unflatten(out), spec.unflatten(out_masks), int(drop.sum()))

    def _rows(
        self, gradients: Any, spec: Any, shapes: dict[int, torch.Size], live: Tensor
    ) -> Tensor | None:
        """The gradients of all entries, (m, n), zero for dead ones."""
        where, sizes = list(shapes), [shape.numel() for shape in shapes.values()]
        if gradients is None:
            if self.score == "obs" or self.update != "none":
                raise ValueError(
                    "obs_prune: needs gradients, unless score='magnitude' and update='none'"
                )
            return None
        if not isinstance(gradients, Tensor):
            given = tree.leaves_like("obs_prune", spec, gradients, "gradient")
            for i in where:
                if given[i] is None or given[i].shape[1:] != shapes[i]:
                    got = None if given[i] is None else tuple(given[i].shape)
                    raise ValueError(
                        f"obs_prune: gradients of leaf {tree.names(spec)[i]!r} must be "
                        f"(m, {', '.join(map(str, shapes[i]))}), got {got}"
                    )
            gradients = torch.cat([given[i].reshape(len(given[i]), -1) for i in where], dim=1)
        if gradients.ndim != 2 or gradients.shape[1] not in (sum(sizes), int(live.sum())):
            raise ValueError(
                f"obs_prune: gradients must be (m, {sum(sizes)}), got {tuple(gradients.shape)}"
            )
        if gradients.shape[1] != len(live):
            wide = gradients.new_zeros(len(gradients), len(live))
            wide[:, live] = gradients
            gradients = wide
        if bool(live.all()) and (self.score == "obs" or self.update != "none"):
            return gradients  # what is not finite shows when they are factored
        _check_finite([tree.names(spec)[i] for i in where], gradients, sizes)
        return torch.where(live, gradients, 0)

    def _event(
        self, w: Tensor, live: Tensor, rows: Tensor | None, sizes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """What is dropped, and the change of what stays."""
        if not self.packed or rows is None or bool(live.all()):
            return self._decide(w, live, rows, sizes, None if self.packed else sizes)
        drop, change = torch.zeros_like(live), torch.zeros_like(w)
        each = [int(part.sum()) for part in live.split(sizes)]
        inside = torch.ones(int(live.sum()), dtype=torch.bool, device=w.device)
        total = (sum(sizes), sizes)
        rows = rows if len(inside) == len(live) else rows[:, live]
        drop[live], change[live] = self._decide(w[live], inside, rows, each, None, total)
        return drop, change

    def _decide(
        self,
        w: Tensor,
        live: Tensor,
        rows: Tensor | None,
        sizes: list[int],
        cut: list[int] | None,
        total: tuple[int, list[int]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The same for a vector; ``total`` are numbers of entries before dead ones were removed."""
        inverse = None
        if rows is not None and (self.score == "obs" or self.update != "none"):
            inverse = inverse_fisher(rows, self.damping, self.block, cut)
        diagonal = None if inverse is None else inverse.diagonal()
        score = self._scores(w, live, inverse, diagonal)
        every, each = total or (len(w), sizes)
        drop = torch.zeros_like(live)
        if self.scope == "global":
            drop = self._smallest(score, live, every, every - int(live.sum()), len(w))
        else:
            parts = zip(score.split(sizes), live.split(sizes), each, strict=True)
            drop = torch.cat(
                [self._smallest(s, m, n, n - int(m.sum()), len(m)) for s, m, n in parts]
            )
        if self.update == "none" or inverse is None or diagonal is None:
            return drop, torch.zeros_like(w)
        if self.update == "joint":
            return drop, inverse.pinned(w, drop)
        if self.group > 1:
            blocks = inverse.groups(self.group)
            t = torch.linalg.solve(blocks, w.reshape(-1, self.group)).reshape(-1)
        else:
            t = w / (diagonal + self.eps)
        return drop, inverse.times(torch.where(drop, t, 0)).neg_()

    def _scores(
        self, w: Tensor, live: Tensor, inverse: InverseFisher | None, diagonal: Tensor | None
    ) -> Tensor:
        """What dropping an entry costs; -inf for dead ones."""
        if self.score == "magnitude" or inverse is None or diagonal is None:
            size = w.abs().reshape(-1, self.group).sum(dim=1)
            return torch.where(live, size.repeat_interleave(self.group), -NEVER)
        if self.group == 1:
            cost = w.square().div_((2 * diagonal).add_(self.eps))
            return torch.where(live, cost, -NEVER)
        groups = w.reshape(-1, self.group)
        z = torch.linalg.solve(inverse.groups(self.group), groups)
        cost = 0.5 * (groups * z).sum(dim=1)
        return torch.where(live, cost.repeat_interleave(self.group), -NEVER)

    def _smallest(self, score: Tensor, live: Tensor, n: int, dead: int, size: int) -> Tensor:
        """The live entries to drop of ``size``, of which there were n before any were removed."""
        count = math.floor(n * self.sparsity + 1e-9) - dead
        if self.group > 1:
            count = math.floor(n // self.group * self.sparsity + 1e-9) * self.group - dead
        if count < 0:
            raise ValueError(
                f"obs_prune: sparsity {self.sparsity} is below the present one, {dead / n:.6g}"
            )
        return top_mask(score.neg(), size - int(live.sum()) + count) & live


def _check_finite(names: list[str], gradients: Tensor, sizes: list[int]) -> None:
    for name, part in zip(names, gradients.split(sizes, dim=1), strict=True):
        if not all_finite(part):
            raise ValueError(
                f"obs_prune: gradients of leaf {name!r} have a NaN or an infinity; nothing has "
                "been changed"
            )
