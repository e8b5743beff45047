"""Subspaces of matrix leaves: what they are, when they are chosen, and transforms inside them."""

from .compressor import projection
from .cosine import dct
from .dense import Basis, KeyedBasis
from .gaussian import Seeded, gaussian
from .in_subspace import InSubspace, InSubspaceState, in_subspace
from .ldadam import ScaleByLdadamState, scale_by_ldadam
from .leaf import SubspaceLeaf, Where, Whole
from .momentum import SubspaceMomentumState, subspace_momentum
from .one_sided import OneSided
from .power_iteration import power_iteration
from .project import ProjectState, lift, low_rank, project_to_subspace
from .projector import Projector, Rotation
from .qr_sketch import qr_sketch
from .quasi_hyperbolic import quasi_hyperbolic
from .rademacher import rademacher
from .randomized_svd import randomized_svd
from .ratio import LowRankRatio, scale_by_low_rank_ratio
from .refresh import Refresh, every_step, never, one_based, staggered, zero_based
from .replay import Replayed, replay
from .selection import KeyedSelected, Selected
from .structured import SignedSelected, srdct, srht
from .svd import svd
from .top_norm import top_norm
from .two_sided import TwoSided, two_sided
from .uniform import uniform
from .view import View

__all__ = [
    "Basis",
    "InSubspace",
    "InSubspaceState",
    "KeyedBasis",
    "KeyedSelected",
    "LowRankRatio",
    "OneSided",
    "ProjectState",
    "Projector",
    "Refresh",
    "Replayed",
    "Rotation",
    "ScaleByLdadamState",
    "Seeded",
    "Selected",
    "SignedSelected",
    "SubspaceLeaf",
    "SubspaceMomentumState",
    "TwoSided",
    "View",
    "Where",
    "Whole",
    "dct",
    "every_step",
    "gaussian",
    "in_subspace",
    "lift",
    "low_rank",
    "never",
    "one_based",
    "power_iteration",
    "project_to_subspace",
    "projection",
    "qr_sketch",
    "quasi_hyperbolic",
    "rademacher",
    "randomized_svd",
    "replay",
    "scale_by_ldadam",
    "scale_by_low_rank_ratio",
    "srdct",
    "srht",
    "staggered",
    "subspace_momentum",
    "svd",
    "top_norm",
    "two_sided",
    "uniform",
    "zero_based",
]
