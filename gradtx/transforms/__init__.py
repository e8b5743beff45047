"""Gradient transformations, one concept a module."""

from .adam import ScaleByAdamState, scale_by_adam
from .cautious_mask import cautious_mask
from .clip import clip_by_global_norm
from .learning_rate import scale_by_learning_rate, scale_by_schedule
from .momentum import TraceState, trace
from .scale import densify, scale
from .trust_ratio import scale_by_trust_ratio
from .weight_decay import add_decayed_weights

__all__ = [
    "ScaleByAdamState",
    "TraceState",
    "add_decayed_weights",
    "cautious_mask",
    "clip_by_global_norm",
    "densify",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "scale_by_trust_ratio",
    "trace",
]
