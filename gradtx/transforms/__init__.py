"""Gradient transformations, one concept a module."""

from .acprop import ScaleByAcpropState, scale_by_acprop
from .adadelta import ScaleByAdadeltaState, scale_by_adadelta
from .adagrad import ScaleByRssState, scale_by_rss
from .adam import ScaleByAdamState, scale_by_adam
from .adamax import ScaleByAdamaxState, scale_by_adamax
from .adan import ScaleByAdanState, scale_by_adan
from .adaptive_decay import add_adaptive_decayed_weights
from .adopt import ScaleByAdoptState, SkipFirstState, scale_by_adopt, skip_first
from .belief import ScaleByBeliefState, scale_by_belief
from .bias_factor import BiasFactorState, scale_by_bias_factor
from .block_norm import scale_by_param_block_norm, scale_by_param_block_rms
from .cautious_mask import cautious_mask
from .clip import (
    adaptive_grad_clip,
    clip,
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_leaf_norm,
    unitwise_clip,
    unitwise_norm,
)
from .cocob import ScaleByCocobState, scale_by_cocob
from .column_adam import ScaleByColumnAdamState, scale_by_column_adam
from .compress import CompressState, compress
from .constraint import ZeroNansState, keep_params_nonnegative, zero_nans
from .dadapt import DadaptLeaf, DadaptShared, scale_by_dadapt_adam
from .decay_after import decay_after
from .distance import DistanceLeaf, DogShared, DowgShared, scale_by_dog, scale_by_dowg
from .error_feedback import ErrorFeedbackLeaf, ErrorFeedbackState, error_feedback
from .factored_rms import ScaleByFactoredRmsState, scale_by_factored_rms
from .fromage import contracted_step
from .grams import grams
from .keep_norm import keep_norm
from .layer_distance import LayerDistanceState, scale_by_distance_over_gradients
from .lbfgs import scale_by_lbfgs
from .learning_rate import scale_by_learning_rate, scale_by_schedule
from .linesearch import (
    scale_by_backtracking_linesearch,
    scale_by_zoom_linesearch,
    value_and_grad_from_state,
)
from .low_rank_momentum import LowRankMomentumState, low_rank_momentum
from .madgrad import ScaleByMadgradState, scale_by_madgrad
from .mars import MarsState, mars
from .mechanize import MechanizeState, mechanize
from .moment_power import second_moment_power
from .moments import (
    AccumulateState,
    FirstMomentState,
    RootSecondMomentState,
    SlowMomentState,
    UndoBiasState,
    accumulate,
    first_moment,
    root_second_moment,
    slow_moment,
    undo_bias,
)
from .momentum import DampedTraceState, EmaState, TraceState, damped_trace, ema, trace
from .momo import MomoLeaf, MomoShared, scale_by_momo, scale_by_momo_adam
from .monitor import measure_with_ema, monitor, snapshot
from .nadam import ScaleByNadamState, scale_by_nadam
from .noise import AddNoiseState, add_noise
from .norm_growth import NormGrowthState, limit_norm_growth
from .normalize import centralize, normalize_by_block_rms, normalize_by_update_norm
from .novograd import ScaleByNovogradState, scale_by_novograd
from .optimistic import ScaleByOptimisticGradientState, scale_by_optimistic_gradient
from .orthogonalize_grad import orthogonalize_grad
from .param_dtype import decay_first, round_updates
from .per_example import per_example_global_norm_clip, per_example_layer_norm_clip
from .plateau import PlateauShared, reduce_on_plateau
from .polyak import scale_by_polyak
from .private import PrivateState, differentially_private_aggregate
from .prodigy import ProdigyLeaf, ProdigyShared, ProdigyState, scale_by_prodigy
from .radam import ScaleByRadamState, scale_by_radam
from .rms import ScaleByRmsState, ScaleByStddevState, scale_by_rms, scale_by_stddev
from .rprop import ScaleByRpropState, scale_by_rprop
from .sam import SamState, sam
from .scale import densify, scale, set_to_zero
from .schedule_free import (
    ScheduleFreeState,
    schedule_free,
    schedule_free_eval_params,
    schedule_free_train_params,
)
from .sign import ScaleByLionState, scale_by_lion, scale_by_sign
from .sliding_window import SlidingWindowState, sliding_window_adam, sliding_window_moments
from .sm3 import ScaleBySm3State, scale_by_sm3
from .smmf import ScaleBySmmfState, scale_by_smmf
from .sophia import ScaleByHessianState, scale_by_adahessian, scale_by_sophia
from .step_size import StepState, limit_relative_step, scale_by_inverse_time
from .stochastic_round import StochasticRoundState, stochastic_round
from .subset_norm import SubsetNormState, root_subset_norm, scale_by_subset_norm
from .trust_ratio import scale_by_trust_ratio
from .two_decay_ema import two_decay_ema
from .views import as_matrices, in_basis, split_rows
from .weight_decay import add_corrected_decay, add_decayed_weights
from .yogi import ScaleByYogiState, scale_by_yogi

__all__ = [
    "AccumulateState",
    "AddNoiseState",
    "BiasFactorState",
    "CompressState",
    "DadaptLeaf",
    "DadaptShared",
    "DampedTraceState",
    "DistanceLeaf",
    "DogShared",
    "DowgShared",
    "EmaState",
    "ErrorFeedbackLeaf",
    "ErrorFeedbackState",
    "FirstMomentState",
    "LayerDistanceState",
    "LowRankMomentumState",
    "MarsState",
    "MechanizeState",
    "MomoLeaf",
    "MomoShared",
    "NormGrowthState",
    "PlateauShared",
    "PrivateState",
    "ProdigyLeaf",
    "ProdigyShared",
    "ProdigyState",
    "RootSecondMomentState",
    "SamState",
    "ScaleByAcpropState",
    "ScaleByAdadeltaState",
    "ScaleByAdamState",
    "ScaleByAdamaxState",
    "ScaleByAdanState",
    "ScaleByAdoptState",
    "ScaleByBeliefState",
    "ScaleByCocobState",
    "ScaleByColumnAdamState",
    "ScaleByFactoredRmsState",
    "ScaleByHessianState",
    "ScaleByLionState",
    "ScaleByMadgradState",
    "ScaleByNadamState",
    "ScaleByNovogradState",
    "ScaleByOptimisticGradientState",
    "ScaleByRadamState",
    "ScaleByRmsState",
    "ScaleByRpropState",
    "ScaleByRssState",
    "ScaleBySm3State",
    "ScaleBySmmfState",
    "ScaleByStddevState",
    "ScaleByYogiState",
    "ScheduleFreeState",
    "SkipFirstState",
    "SlidingWindowState",
    "SlowMomentState",
    "StepState",
    "StochasticRoundState",
    "SubsetNormState",
    "TraceState",
    "UndoBiasState",
    "ZeroNansState",
    "accumulate",
    "adaptive_grad_clip",
    "add_adaptive_decayed_weights",
    "add_corrected_decay",
    "add_decayed_weights",
    "add_noise",
    "as_matrices",
    "cautious_mask",
    "centralize",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_leaf_norm",
    "compress",
    "contracted_step",
    "damped_trace",
    "decay_after",
    "decay_first",
    "densify",
    "differentially_private_aggregate",
    "ema",
    "error_feedback",
    "first_moment",
    "grams",
    "in_basis",
    "keep_norm",
    "keep_params_nonnegative",
    "limit_norm_growth",
    "limit_relative_step",
    "low_rank_momentum",
    "mars",
    "measure_with_ema",
    "mechanize",
    "monitor",
    "normalize_by_block_rms",
    "normalize_by_update_norm",
    "orthogonalize_grad",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "reduce_on_plateau",
    "root_second_moment",
    "root_subset_norm",
    "round_updates",
    "sam",
    "scale",
    "scale_by_acprop",
    "scale_by_adadelta",
    "scale_by_adahessian",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_adopt",
    "scale_by_backtracking_linesearch",
    "scale_by_belief",
    "scale_by_bias_factor",
    "scale_by_cocob",
    "scale_by_column_adam",
    "scale_by_dadapt_adam",
    "scale_by_distance_over_gradients",
    "scale_by_dog",
    "scale_by_dowg",
    "scale_by_factored_rms",
    "scale_by_inverse_time",
    "scale_by_lbfgs",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_madgrad",
    "scale_by_momo",
    "scale_by_momo_adam",
    "scale_by_nadam",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_polyak",
    "scale_by_prodigy",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_sm3",
    "scale_by_smmf",
    "scale_by_sophia",
    "scale_by_stddev",
    "scale_by_subset_norm",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "scale_by_zoom_linesearch",
    "schedule_free",
    "schedule_free_eval_params",
    "schedule_free_train_params",
    "second_moment_power",
    "set_to_zero",
    "skip_first",
    "sliding_window_adam",
    "sliding_window_moments",
    "slow_moment",
    "snapshot",
    "split_rows",
    "stochastic_round",
    "trace",
    "two_decay_ema",
    "undo_bias",
    "unitwise_clip",
    "unitwise_norm",
    "value_and_grad_from_state",
    "zero_nans",
]
