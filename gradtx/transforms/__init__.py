"""Gradient transformations, one concept a module."""

from .adadelta import ScaleByAdadeltaState, scale_by_adadelta
from .adagrad import ScaleByRssState, scale_by_rss
from .adam import ScaleByAdamState, scale_by_adam
from .adamax import ScaleByAdamaxState, scale_by_adamax
from .adan import ScaleByAdanState, scale_by_adan
from .belief import ScaleByBeliefState, scale_by_belief
from .block_norm import scale_by_param_block_norm, scale_by_param_block_rms
from .cautious_mask import cautious_mask
from .clip import adaptive_grad_clip, clip, clip_by_block_rms, clip_by_global_norm
from .constraint import ZeroNansState, keep_params_nonnegative, zero_nans
from .factored_rms import ScaleByFactoredRmsState, scale_by_factored_rms
from .learning_rate import scale_by_learning_rate, scale_by_schedule
from .momentum import DampedTraceState, EmaState, TraceState, damped_trace, ema, trace
from .monitor import monitor, snapshot
from .nadam import ScaleByNadamState, scale_by_nadam
from .noise import AddNoiseState, add_noise
from .normalize import centralize, normalize_by_update_norm
from .novograd import ScaleByNovogradState, scale_by_novograd
from .optimistic import ScaleByOptimisticGradientState, scale_by_optimistic_gradient
from .radam import ScaleByRadamState, scale_by_radam
from .rms import ScaleByRmsState, ScaleByStddevState, scale_by_rms, scale_by_stddev
from .rprop import ScaleByRpropState, scale_by_rprop
from .scale import densify, scale
from .sign import ScaleByLionState, scale_by_lion, scale_by_sign
from .sm3 import ScaleBySm3State, scale_by_sm3
from .step_size import StepState, limit_relative_step, scale_by_inverse_time
from .trust_ratio import scale_by_trust_ratio
from .weight_decay import add_decayed_weights
from .yogi import ScaleByYogiState, scale_by_yogi

__all__ = [
    "AddNoiseState",
    "DampedTraceState",
    "EmaState",
    "ScaleByAdadeltaState",
    "ScaleByAdamState",
    "ScaleByAdamaxState",
    "ScaleByAdanState",
    "ScaleByBeliefState",
    "ScaleByFactoredRmsState",
    "ScaleByLionState",
    "ScaleByNadamState",
    "ScaleByNovogradState",
    "ScaleByOptimisticGradientState",
    "ScaleByRadamState",
    "ScaleByRmsState",
    "ScaleByRpropState",
    "ScaleByRssState",
    "ScaleBySm3State",
    "ScaleByStddevState",
    "ScaleByYogiState",
    "StepState",
    "TraceState",
    "ZeroNansState",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "cautious_mask",
    "centralize",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "damped_trace",
    "densify",
    "ema",
    "keep_params_nonnegative",
    "limit_relative_step",
    "monitor",
    "normalize_by_update_norm",
    "scale",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_belief",
    "scale_by_factored_rms",
    "scale_by_inverse_time",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_nadam",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_sm3",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "snapshot",
    "trace",
    "zero_nans",
]
