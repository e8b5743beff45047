"""What the optimizers with a composable numerator share: its branches, features and codecs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..codecs import Codec, rank1
from ..core.chain import Chain, chain
from ..core.functions import identity
from ..core.hyper import Hyper
from ..core.parallel import parallel
from ..core.protocol import GradientTransformation
from ..core.quotient import as_gradients
from ..core.random import Seed
from ..core.select import Labels
from ..transforms import (
    accumulate,
    add_decayed_weights,
    cautious_mask,
    first_moment,
    grams,
    orthogonalize_grad,
    slow_moment,
    stochastic_round,
    undo_bias,
)
from ._assemble import is_off
from ._learning_rate import with_learning_rate

BIAS = ("step", "numerator", "fast")


@dataclass(frozen=True)
class Moments:
    """How moments are kept between steps.

    Attributes:
        factored: rank-1 factors with one-bit signs instead of dense tensors.
        vector_reshape: factor 1-D leaves too.
        codec: any other codec or a dtype; wins over ``factored``.
        signed: False drops the signs of factored first moments.
    """

    factored: bool
    vector_reshape: bool = True
    codec: Codec | torch.dtype | None = None
    signed: bool = True

    def first(self) -> Codec | torch.dtype | None:
        """The codec of first moments."""
        return self.codec or self._rank1(self.signed)

    def other(self) -> Codec | torch.dtype | None:
        """The codec of slow and second moments."""
        return self.codec or self._rank1(True)

    def _rank1(self, signs: bool) -> Codec | None:
        return rank1(vector_reshape=self.vector_reshape, signs=signs) if self.factored else None


@dataclass(frozen=True)
class Numerator:
    """The numerator of an adaptive step.

    Attributes:
        b1: decay of the first moment; zero leaves it out, and masks with it.
        moments: how moments are kept.
        cautious: drop entries of the first moment that point against the gradient.
        grams: give its entries the gradient's signs.
        ademamix: add a slow moment.
        b3, alpha, t_alpha: of the slow moment.
        alpha_grad: a number makes the numerator a decayed sum with this weight on the newest
            gradient.
        debias: divide the first moment by 1 - b1^t.
    """

    b1: Hyper
    moments: Moments
    cautious: bool = False
    grams: bool = False
    ademamix: bool = False
    b3: Hyper = 0.9999
    alpha: Hyper = 5.0
    t_alpha: int | None = None
    alpha_grad: Hyper | None = None
    debias: bool = False

    def check(self, who: str) -> None:
        """Raise where two features exclude each other."""
        if self.cautious and self.grams:
            raise ValueError(f"{who}: cautious and grams exclude each other; choose one")
        if self.alpha_grad is None:
            return
        for name in ("ademamix", "cautious", "grams"):
            if getattr(self, name):
                raise ValueError(f"{who}: simplified_ademamix and {name} exclude each other")
        if is_off(self.b1):
            raise ValueError(f"{who}: simplified_ademamix needs b1 > 0")

    def build(self) -> GradientTransformation:
        """The transform."""
        codec = self.moments.first()
        if self.alpha_grad is not None:
            return accumulate(self.b1, self.alpha_grad, debias=False, codec=codec)
        fast: GradientTransformation = identity()
        if not is_off(self.b1):
            parts: list[GradientTransformation] = [first_moment(self.b1, codec)]
            parts += [undo_bias(self.b1)] if self.debias else []
            parts += [cautious_mask()] if self.cautious else [grams()] if self.grams else []
            fast = chain(*parts)
        if not self.ademamix:
            return fast
        slow = slow_moment(self.b3, self.alpha, self.t_alpha, self.moments.other())
        return parallel(fast, slow)


def finish(
    *members: GradientTransformation,
    lr: Hyper | None,
    weight_decay: Hyper,
    mask: Labels | None,
    after: tuple[GradientTransformation, ...] = (),
    rounding_seed: Seed | None = None,
) -> Chain:
    """Decoupled decay, the learning rate, and what comes after it."""
    tx = with_learning_rate(chain(*members, add_decayed_weights(weight_decay, mask)), lr)
    rounding = () if rounding_seed is None else (stochastic_round(rounding_seed),)
    return chain(tx, *after, *rounding)


def orthogonal(orthograd: bool, *members: GradientTransformation) -> GradientTransformation:
    """The members, after OrthoGrad and on its gradients if asked for."""
    if orthograd:
        return chain(orthogonalize_grad(), as_gradients(*members))
    return chain(*members)
