"""gradtx: an optimizer is a value.

Chains of pure gradient transformations over pytrees of tensors, usable as they are, in torch.func
loops, and as ``torch.optim.Optimizer`` classes.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from ._collector import paused

with paused():
    from . import (
        codecs,
        compressors,
        distributed,
        meta,
        optim,
        precondition,
        recipes,
        schedules,
        sparsity,
        subspace,
        transforms,
    )
    from ._version import __version__
    from .core import masks, projections
    from .core import trees as tree
    from .core.accumulate import apply_every, lookahead, multi_steps
    from .core.apply import apply_updates, incremental_update, periodic_update
    from .core.chain import chain, named_chain
    from .core.conditional import (
        apply_if_finite,
        conditionally_mask,
        conditionally_transform,
        skip_large_updates,
    )
    from .core.counting import count_together
    from .core.errors import TreeMismatchError, UnsupportedLeafError
    from .core.execution import Events, Execution, NextShared, Stacked
    from .core.finite import apply_if_leaf_finite
    from .core.flatten import flatten
    from .core.functions import identity, stateless, stateless_with_tree_map, transformation
    from .core.hyper import Hyper, dynamic, static
    from .core.inject import StatefulSchedule, inject_hyperparams
    from .core.leaves import LeafInfo, LowRankUpdate, SparseUpdate
    from .core.names import suggestion
    from .core.norms import safe_norm, safe_root_mean_squares
    from .core.parallel import graft, parallel
    from .core.protocol import GradientTransformation, Wrapper
    from .core.quotient import as_gradients, atan2, divide, on_gradients, quotient
    from .core.roles import FirstMoment, SecondMoment
    from .core.rounding import round_stochastically
    from .core.select import freeze, masked, partition
    from .core.skips import skip_large, skip_not_finite
    from .core.split_complex import split_real_and_imaginary
    from .core.state import advance, new_count, state_full, state_zeros
    from .core.transform import LeafTransform, TreeState, TreeTransform
    from .fuse import explain, fuse
    from .meta import stop_gradient
    from .optim import matrix_groups
    from .precondition import *  # noqa: F403
    from .precondition import inverse_roots
    from .recipes import *  # noqa: F403
    from .sparsity import acdc, hard_threshold, keep_params_sparse, mask_updates, reset_on
    from .subspace import (
        in_subspace,
        lift,
        low_rank,
        project_to_subspace,
        quasi_hyperbolic,
        scale_by_ldadam,
        scale_by_low_rank_ratio,
        subspace_momentum,
    )
    from .transforms import *  # noqa: F403

if TYPE_CHECKING:
    from . import adapters, capacity, solutions, testing

# Rooms that few programs need are imported when they are first asked for.
_LATER = ("adapters", "capacity", "solutions", "testing")


def __getattr__(name: str) -> ModuleType:
    if name in _LATER:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_meant(name)}")


# What Optax calls otherwise; docs/optax.md says why.
_OPTAX = {
    "MultiSteps": "multi_steps",
    "global_norm": "tree.norm",
    "inject_stateful_hyperparams": "inject_hyperparams",
    "join_schedules": "schedules.join",
    "multi_transform": "partition",
    "scale_by_muon": "orthogonalize",
    "selective_transform": "masked",
    "sign_sgd": "signsgd",
}


def _meant(name: str) -> str:
    """What a name that is not here was meant to be, for the message."""
    plain = name.removesuffix("_schedule")
    if plain in schedules.__all__:
        return f"; did you mean 'schedules.{plain}'?"
    if name in _OPTAX:
        return f"; did you mean {_OPTAX[name]!r}?"
    return suggestion(name, __all__)


__all__ = [
    "Events",
    "Execution",
    "FirstMoment",
    "GradientTransformation",
    "Hyper",
    "LeafInfo",
    "LeafTransform",
    "LowRankUpdate",
    "NextShared",
    "SecondMoment",
    "SparseUpdate",
    "Stacked",
    "StatefulSchedule",
    "TreeMismatchError",
    "TreeState",
    "TreeTransform",
    "UnsupportedLeafError",
    "Wrapper",
    "__version__",
    "advance",
    "acdc",
    "adapters",
    "apply_every",
    "apply_if_finite",
    "apply_if_leaf_finite",
    "apply_updates",
    "as_gradients",
    "atan2",
    "capacity",
    "chain",
    "codecs",
    "compressors",
    "conditionally_mask",
    "conditionally_transform",
    "count_together",
    "distributed",
    "divide",
    "dynamic",
    "explain",
    "flatten",
    "freeze",
    "fuse",
    "graft",
    "hard_threshold",
    "identity",
    "incremental_update",
    "in_subspace",
    "inject_hyperparams",
    "inverse_roots",
    "keep_params_sparse",
    "lift",
    "lookahead",
    "low_rank",
    "masks",
    "mask_updates",
    "masked",
    "matrix_groups",
    "meta",
    "multi_steps",
    "named_chain",
    "new_count",
    "on_gradients",
    "optim",
    "parallel",
    "periodic_update",
    "projections",
    "partition",
    "project_to_subspace",
    "precondition",
    "quasi_hyperbolic",
    "quotient",
    "recipes",
    "reset_on",
    "round_stochastically",
    "safe_norm",
    "safe_root_mean_squares",
    "scale_by_ldadam",
    "scale_by_low_rank_ratio",
    "schedules",
    "skip_large",
    "skip_large_updates",
    "skip_not_finite",
    "solutions",
    "sparsity",
    "split_real_and_imaginary",
    "stateless",
    "stateless_with_tree_map",
    "state_full",
    "state_zeros",
    "static",
    "stop_gradient",
    "subspace",
    "subspace_momentum",
    "testing",
    "transformation",
    "tree",
    *precondition.__all__,
    *transforms.__all__,
    *recipes.__all__,
]
