"""gradtx: an optimizer is a value.

Chains of pure gradient transformations over pytrees of tensors, usable as they are, in torch.func
loops, and as ``torch.optim.Optimizer`` classes.
"""

from . import optim, recipes, schedules, transforms
from ._version import __version__
from .core import tree
from .core.accumulate import apply_every, lookahead, multi_steps
from .core.apply import apply_updates
from .core.chain import chain, named_chain
from .core.conditional import apply_if_finite, conditionally_transform, skip_large_updates
from .core.errors import TreeMismatchError, UnsupportedLeafError
from .core.flatten import flatten
from .core.functions import identity, stateless, transformation
from .core.hyper import Hyper, dynamic, static
from .core.leaves import LeafInfo, LowRankUpdate, SparseUpdate
from .core.parallel import graft, parallel
from .core.protocol import GradientTransformation
from .core.select import freeze, masked, partition
from .core.transform import LeafTransform, TreeTransform
from .fuse import explain, fuse
from .recipes import *  # noqa: F403
from .transforms import *  # noqa: F403

__all__ = [
    "GradientTransformation",
    "Hyper",
    "LeafInfo",
    "LeafTransform",
    "LowRankUpdate",
    "SparseUpdate",
    "TreeMismatchError",
    "TreeTransform",
    "UnsupportedLeafError",
    "__version__",
    "apply_every",
    "apply_if_finite",
    "apply_updates",
    "chain",
    "conditionally_transform",
    "dynamic",
    "explain",
    "flatten",
    "freeze",
    "fuse",
    "graft",
    "identity",
    "lookahead",
    "masked",
    "multi_steps",
    "named_chain",
    "optim",
    "parallel",
    "partition",
    "recipes",
    "schedules",
    "skip_large_updates",
    "stateless",
    "static",
    "transformation",
    "tree",
    *transforms.__all__,
    *recipes.__all__,
]
