"""Sparse training: masks as state, phases, and pruning by magnitude or second order."""

from .acdc import Acdc, AcdcState, acdc
from .fisher import InverseFisher, inverse_fisher
from .iobs import iobs
from .keep import (
    MaskState,
    apply_masks,
    hard_threshold,
    keep_params_sparse,
    mask_updates,
    masks_of,
    project,
    replace_masks,
)
from .moments import ResetOnState, reset_moments, reset_on
from .obc import obc_prune
from .obs import Pruned, obs_prune
from .phases import (
    PhaseSchedule,
    acdc_imagenet_schedule,
    cubic_sparsity,
    equal_ratios,
    layerwise_schedule,
    phase_schedule,
    phases,
)
from .report import report, to_semi_structured, to_torch_prune
from .straight_through import straight_through
from .support import Support, block_support, magnitude_support, nm_support

__all__ = [
    "Acdc",
    "AcdcState",
    "InverseFisher",
    "MaskState",
    "PhaseSchedule",
    "Pruned",
    "ResetOnState",
    "Support",
    "acdc",
    "acdc_imagenet_schedule",
    "apply_masks",
    "block_support",
    "cubic_sparsity",
    "equal_ratios",
    "hard_threshold",
    "inverse_fisher",
    "iobs",
    "keep_params_sparse",
    "layerwise_schedule",
    "magnitude_support",
    "mask_updates",
    "masks_of",
    "nm_support",
    "obc_prune",
    "obs_prune",
    "phase_schedule",
    "phases",
    "project",
    "replace_masks",
    "report",
    "reset_moments",
    "reset_on",
    "straight_through",
    "to_semi_structured",
    "to_torch_prune",
]
