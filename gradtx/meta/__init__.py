"""Training as a function: scans, implicit and zero-order derivatives, curvature, inner loops."""

from .curvature import fisher_diag, ggn_vp, hessian_diag, hutchinson, hvp
from .gauss_newton import (
    LevenbergMarquardtState,
    gauss_newton,
    half_squares,
    levenberg_marquardt,
    natural_gradient,
)
from .implicit import implicit_fixed_point, implicit_root
from .inner_loop import FunctionalModel, InnerOptimizer, inner_loop
from .linear_algebra import nnls, power_iteration
from .microbatch import microbatch
from .scaled_gradient import scale_gradient
from .scan import scan, stop_gradient, truncated
from .solvers import cg, minres, neumann, normal_cg
from .zero_order import zero_order

__all__ = [
    "FunctionalModel",
    "InnerOptimizer",
    "LevenbergMarquardtState",
    "cg",
    "fisher_diag",
    "gauss_newton",
    "ggn_vp",
    "half_squares",
    "hessian_diag",
    "hutchinson",
    "hvp",
    "implicit_fixed_point",
    "implicit_root",
    "inner_loop",
    "levenberg_marquardt",
    "microbatch",
    "minres",
    "natural_gradient",
    "neumann",
    "nnls",
    "normal_cg",
    "power_iteration",
    "scale_gradient",
    "scan",
    "stop_gradient",
    "truncated",
    "zero_order",
]
