"""SOAP, Shampoo, DASH and the KL family: preconditioners made of Kronecker factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

import gradtx as gx
from gradtx.core.execution import Execution
from gradtx.core.protocol import Wrapper
from gradtx.precondition import EigenbasisLeaf

from .golden import Tree
from .steppers import Checks, Extra, Meta, Steps, fields, options, per_leaf


def learning_rates(meta: Meta) -> Any:
    """Recorded learning rates by step, which these files keep in ``lr`` itself."""
    rates = meta["hyperparameters"]["lr"]
    return (lambda t: {"lr": rates[t - 1]}) if isinstance(rates, list) else None


def first_rate(h: Mapping[str, Any]) -> float:
    return h["lr"][0] if isinstance(h["lr"], list) else h["lr"]


# -- bases ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class with_bases(Wrapper):
    """A transform whose bases are recorded ones from its first call on.

    Factors are kept in coordinates of the bases, so that they are turned along.
    """

    execution: ClassVar[Execution] = Execution(leaves_independent=True)

    bases: Mapping[str, Mapping[int, Tensor]] = field(compare=False)

    def init(self, params: Any) -> Any:
        return self.transform.init(params)

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        updates, state = self.update_transform(updates, state, params, extra)
        return updates, self._placed(state, "")

    def _placed(self, node: Any, leaf: str) -> Any:
        if isinstance(node, EigenbasisLeaf):
            if node.step != 1 or leaf not in self.bases or not node.bases:
                return node
            ((olds, factors),) = zip(node.bases, node.factors, strict=True)
            news = [
                self.bases[leaf][k].to(q)
                for k, q in zip(sorted(self.bases[leaf]), olds, strict=True)
            ]
            turns = [q.mT @ new for q, new in zip(olds, news, strict=True)]
            factors = tuple(t.mT @ f @ t for t, f in zip(turns, factors, strict=True))
            return node._replace(bases=(tuple(n[None] for n in news),), factors=(factors,))
        inside = gx.tree.children(node)
        if not inside:
            return node
        new = [self._placed(x, key if key in self.bases else leaf) for key, x in inside]
        return gx.tree.rebuild(node, new)


def recorded_bases(tx: gx.GradientTransformation, extra: Extra) -> gx.GradientTransformation:
    bases: dict[str, dict[int, Tensor]] = {}
    for key, q in extra.items():
        if key.startswith("Q0/"):
            _, side, leaf = key.split("/", 2)
            bases.setdefault(leaf, {})[int(side)] = q
    return with_bases(tx, bases) if bases else tx


def factors_of(state: Any, params: Tree, sides: Callable[[str], tuple[int, ...]]) -> Checks:
    """Factors of leaves that are one block, as they are in the leaves' own coordinates.

    Args:
        state, params: of the chain.
        sides: a leaf's sides that have one.
    """
    found: Checks = {}

    def visit(node: Any, leaf: str | None) -> None:
        if isinstance(node, EigenbasisLeaf):
            if leaf is not None and len(node.bases) == 1:
                for k, q, f in zip(sides(leaf), node.bases[0], node.factors[0], strict=True):
                    found.setdefault(f"factor{k}", {})[leaf] = (q @ f @ q.mT)[0]
            return
        for key, child in gx.tree.children(node) or ():
            visit(child, key if key in params else leaf)

    visit(state, None)
    return found


def soap(meta: Meta, extra: Extra) -> Steps:
    def build(h: dict[str, Any]) -> gx.GradientTransformation:
        (b1, b2), beta = h["betas"], h["shampoo_beta"]
        names = (
            *("eps", "weight_decay", "precondition_frequency", "max_precond_dim", "merge_dims"),
            *("precondition_1d", "normalize_grads", "data_format", "correct_bias"),
        )
        given = {name: h[name] for name in names if name in h}
        return gx.soap(first_rate(h), b1, b2, shampoo_beta=None if beta < 0 else beta, **given)

    def view(state: Any, params: Tree) -> Checks:
        every = options(meta)

        def sides(leaf: str) -> tuple[int, ...]:
            h, most = every[leaf], every[leaf]["max_precond_dim"]
            cut = gx.blocks(
                view="merge_front" if h["merge_dims"] else "keep",
                limit=most,
                channels_last=h["merge_dims"] and h["data_format"] == "channels_last",
            )
            shape = cut.plan(params[leaf].shape).view
            return gx.kronecker_factors(max_dim=most, one_dim=h["precondition_1d"]).of(shape)

        return fields(state, params, exp_avg_sq="nu") | factors_of(state, params, sides)

    return Steps(recorded_bases(per_leaf(meta, build), extra), learning_rates(meta), None, view)


SYSTEMS = {"soap": soap}
