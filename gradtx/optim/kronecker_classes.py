"""Torch optimizer classes that precondition with Kronecker factors."""

from __future__ import annotations

from .. import recipes
from .matrix_optimizer import ADAM, RENAME, MatrixOptimizer
from .recipe_optimizer import RecipeOptimizer


class DASH(RecipeOptimizer, recipe=recipes.dash):
    """Shampoo on a grid of blocks with Adam's norm on each; the chain is ``gx.dash``."""


class KLShampoo(RecipeOptimizer, recipe=recipes.kl_shampoo):
    """Shampoo whose factors fit the covariance jointly; the chain is ``gx.kl_shampoo``."""


class KLSOAP(RecipeOptimizer, recipe=recipes.kl_soap, defaults={"shampoo_beta": 0.98}):
    """Adam in the eigenbasis of KL-Shampoo's factors; the chain is ``gx.kl_soap``."""


class KLSOAPH(RecipeOptimizer, recipe=recipes.kl_soap_h):
    """KL-SOAP on the sphere of a parameter's own norm; the chain is ``gx.kl_soap_h``."""


class OneSidedShampoo(RecipeOptimizer, recipe=recipes.one_sided_shampoo):
    """Shampoo with one factor, on the shorter side; the chain is ``gx.one_sided_shampoo``."""


class REKLS(RecipeOptimizer, recipe=recipes.rekls):
    """KL-SOAP in the basis of the current factors; the chain is ``gx.rekls``."""


class Shampoo(RecipeOptimizer, recipe=recipes.shampoo):
    """Shampoo as Distributed Shampoo has it, with grafting; the chain is ``gx.shampoo``."""


class SOAP(RecipeOptimizer, recipe=recipes.soap, defaults={"shampoo_beta": 0.95}):
    """Adam in the eigenbasis of Shampoo's preconditioner; the chain is ``gx.soap``."""


class SOAPMuon(
    MatrixOptimizer,
    recipe=recipes.soap_muon,
    options="lr weight_decay momentum shampoo_beta precondition_frequency denominator_power eps "
    f"ns_steps max_precond_dim packed {ADAM}",
    rename={option: name for option, name in RENAME.items() if option != "eps"},
):
    """Muon after a SOAP step of the momentum; the chain is ``gx.soap_muon``.

    Vectors and groups with ``matrix=False`` get AdamW, as in ``gx.optim.Muon``.
    """
