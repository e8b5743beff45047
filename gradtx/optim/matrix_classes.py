"""Torch optimizer classes for matrices, with AdamW for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from .. import recipes
from ..core.protocol import GradientTransformation
from .recipe_optimizer import RecipeOptimizer

# What vectors and scalars get, and whole groups with matrix=False.
_ADAM: Mapping[str, Any] = {
    "matrix": True,
    "adam_lr": 3e-4,
    "adam_betas": (0.9, 0.95),
    "adam_eps": 1e-10,
    "adam_weight_decay": 0.0,
}
_MATRIX, _OTHER = "partition.matrix", "partition.other"
_DIRECTION = f"{_MATRIX}.as_matrices.chain"
_FEEDS: Mapping[str, tuple[str, ...]] = {
    "lr": (f"{_MATRIX}.scale_by_learning_rate.lr|scale_by_learning_rate.lr",),
    "weight_decay": (
        f"{_MATRIX}.add_decayed_weights.weight_decay|add_decayed_weights.weight_decay",
    ),
    "momentum": ("decay",),
    "eps": (),
    "adam_lr": (f"{_OTHER}.scale_by_learning_rate.lr",),
    "adam_betas": tuple(f"{_OTHER}.scale_by_adam.{b}|scale_by_adam.{b}" for b in ("b1", "b2")),
    "adam_eps": (f"{_OTHER}.scale_by_adam.eps|scale_by_adam.eps",),
    "adam_weight_decay": (f"{_OTHER}.add_decayed_weights.weight_decay",),
}


class Muon(RecipeOptimizer):
    """Orthogonalised momentum, as torch.optim.Muon; the chain is ``gx.muon``.

    Vectors and scalars get AdamW with the ``adam_`` options. A group with ``matrix=False`` gets it
    as a whole, with its own ``lr`` and ``weight_decay``: ``gx.matrix_groups`` makes such groups.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": "quintic5",
        "eps": 1e-7,
        "ns_steps": 5,
        "adjust_lr_fn": None,
        "ns_dtype": None,
        "ns_scaling": "clamp",
        "average": True,
        "convolutions": "flatten",
        "split_sizes": None,
        "num_heads": None,
        "cautious_decay": False,
        **_ADAM,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = _FEEDS

    @staticmethod
    def build(
        matrix: bool,
        nesterov: bool,
        ns_coefficients: Any,
        eps: float,
        ns_steps: int | None,
        adjust_lr_fn: str | None,
        ns_dtype: torch.dtype | None,
        ns_scaling: str | None,
        average: bool,
        convolutions: Any,
        split_sizes: tuple[int, ...] | None,
        num_heads: int | None,
        cautious_decay: bool,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        if not matrix:
            return recipes.adamw()
        return recipes.muon(
            nesterov=nesterov,
            average=average,
            coefficients=ns_coefficients,
            ns_steps=ns_steps,
            ns_scaling=ns_scaling,
            ns_eps=eps,
            ns_dtype=ns_dtype,
            scale=adjust_lr_fn or "original",
            convolutions=convolutions,
            split_sizes=split_sizes,
            num_heads=num_heads,
            cautious_decay=cautious_decay,
        )


class NorMuon(RecipeOptimizer):
    """Muon with steps of one size for every row; the chain is ``gx.normuon``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 0.01,
        "momentum": 0.95,
        "b2": 0.95,
        "weight_decay": 0.01,
        "nesterov": False,
        "ns_coefficients": "polar_express5",
        "eps": 1e-8,
        "ns_steps": 5,
        "adjust_lr_fn": "spectral_norm",
        "ns_dtype": None,
        "split_sizes": None,
        "num_heads": None,
        "cautious_decay": False,
        **_ADAM,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **_FEEDS,
        "b2": (
            f"{_DIRECTION}.normalize_neurons.b2"
            f"|{_MATRIX}.as_matrices.split_rows.chain.normalize_neurons.b2",
        ),
    }

    @staticmethod
    def build(
        matrix: bool,
        nesterov: bool,
        ns_coefficients: Any,
        eps: float,
        ns_steps: int | None,
        adjust_lr_fn: str | None,
        ns_dtype: torch.dtype | None,
        split_sizes: tuple[int, ...] | None,
        num_heads: int | None,
        cautious_decay: bool,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        if not matrix:
            return recipes.adamw()
        return recipes.normuon(
            nesterov=nesterov,
            coefficients=ns_coefficients,
            ns_steps=ns_steps,
            ns_eps=eps,
            ns_dtype=ns_dtype,
            scale=adjust_lr_fn or "original",
            split_sizes=split_sizes,
            num_heads=num_heads,
            cautious_decay=cautious_decay,
        )


class Dion(RecipeOptimizer):
    """Orthonormal updates of low rank; the chain is ``gx.dion``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 0.01,
        "momentum": 0.95,
        "weight_decay": 0.01,
        "rank_fraction": 1.0,
        "rank_multiple_of": 1,
        "power_iters": 1,
        "eps": 1e-8,
        "scale": "spectral_norm",
        "seed": 0,
        **_ADAM,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = _FEEDS

    @staticmethod
    def build(
        matrix: bool,
        rank_fraction: float,
        rank_multiple_of: int,
        power_iters: int,
        eps: float,
        scale: str,
        seed: int,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        if not matrix:
            return recipes.adamw()
        return recipes.dion(
            rank_fraction=rank_fraction,
            rank_multiple_of=rank_multiple_of,
            power_iters=power_iters,
            eps=eps,
            scale=scale,
            seed=seed,
        )


class Dion2(RecipeOptimizer):
    """Muon on the largest rows of the momentum; the chain is ``gx.dion2``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 0.01,
        "momentum": 0.95,
        "weight_decay": 0.01,
        "fraction": 0.25,
        "b2": None,
        "ns_coefficients": "polar_express5",
        "eps": 1e-8,
        "ns_steps": 5,
        "ns_dtype": None,
        "scale": "spectral_norm",
        **_ADAM,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {**_FEEDS, "b2": ()}

    @staticmethod
    def build(
        matrix: bool,
        fraction: float,
        b2: float | None,
        ns_coefficients: Any,
        eps: float,
        ns_steps: int | None,
        ns_dtype: torch.dtype | None,
        scale: str,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        if not matrix:
            return recipes.adamw()
        return recipes.dion2(
            fraction=fraction,
            b2=b2,
            coefficients=ns_coefficients,
            ns_steps=ns_steps,
            ns_eps=eps,
            ns_dtype=ns_dtype,
            scale=scale,
        )


class Trion(RecipeOptimizer):
    """Muon on the largest cosine components; the chain is ``gx.trion``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 0.02,
        "momentum": 0.95,
        "weight_decay": 0.0,
        "rank": 128,
        "basis": "dct2",
        "transform": "auto",
        "selection_norm": "l1",
        "ns_coefficients": "quintic5",
        "eps": 1e-7,
        "ns_steps": 5,
        "ns_dtype": None,
        "scaling_type": "kj",
        **_ADAM,
    }
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = _FEEDS

    @staticmethod
    def build(
        matrix: bool,
        rank: int,
        basis: str,
        transform: Any,
        selection_norm: Any,
        ns_coefficients: Any,
        eps: float,
        ns_steps: int | None,
        ns_dtype: torch.dtype | None,
        scaling_type: Any,
    ) -> GradientTransformation:
        """The chain for these structural options."""
        if not matrix:
            return recipes.adamw()
        return recipes.trion(
            rank=rank,
            basis=basis,
            transform=transform,
            selection_norm=selection_norm,
            coefficients=ns_coefficients,
            ns_steps=ns_steps,
            ns_eps=eps,
            ns_dtype=ns_dtype,
            scaling_type=scaling_type,
        )


class DCTAdamW(RecipeOptimizer):
    """AdamW on the largest cosine components of matrices; the chain is ``gx.dct_adamw``."""

    signature: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "rank": 128,
        "basis": "dct2",
        "transform": "auto",
        "side": "std",
        "selection_norm": "l1",
        "scale_by_basis_norm": False,
        "update_proj_gap": 1,
        "rotate_subspace": True,
        "use_ef": False,
        "ef_bits": None,
        "ef_levels": None,
        "ef_domain": "parameter",
        "max_shape": 32000,
    }
    recipe = staticmethod(recipes.dct_adamw)
