"""Inverse roots of stacks of symmetric matrices, and the methods that compute them."""

from .chebyshev import chebyshev
from .denman_beavers import newton_db
from .eigen import evd
from .higher_order import higher_order_newton
from .method import RootMethod
from .newton import coupled_newton
from .root import METHODS, MatrixRoot, matrix_root, root_residual
from .scaling import frobenius, power_iteration

__all__ = [
    "METHODS",
    "MatrixRoot",
    "RootMethod",
    "chebyshev",
    "coupled_newton",
    "evd",
    "frobenius",
    "higher_order_newton",
    "matrix_root",
    "newton_db",
    "power_iteration",
    "root_residual",
]
