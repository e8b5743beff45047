"""Chains as ``torch.optim.Optimizer``: ``from_transform`` and one class per recipe."""

import torch

from .adaptive_classes import (
    COCOB,
    MADGRAD,
    ACProp,
    DAdaptAdamW,
    DoG,
    DoWG,
    Fromage,
    MoMo,
    MoMoAdam,
    OptimisticAdam,
    PolyakSGD,
)
from .advanced_classes import (
    SMMF,
    AdamAdv,
    AdamW4bit,
    AdamW8bit,
    AdEMAMix,
    Adopt,
    AdoptAdv,
    CAdamW,
    CLion,
    LionAdv,
    SimplifiedAdEMAMix,
)
from .averaging import ScheduleFreeOptimizer
from .classes import (
    LAMB,
    LARS,
    SM3,
    AdaBelief,
    Adan,
    AMSGrad,
    Lion,
    MARSAdamW,
    NoisySGD,
    NovoGrad,
    SignSGD,
    Signum,
    Yogi,
)
from .compute_layout import compute_layout
from .estimating import ProdigyOptimizer
from .evaluating import EvaluatingOptimizer
from .flat_state import flat_state_dict, load_checkpoint, load_flat_state_dict
from .from_transform import EvaluatingTransformOptimizer, TransformOptimizer, from_transform
from .hessian_classes import AdaHessian, Sophia
from .kronecker_classes import (
    DASH,
    KLSOAP,
    KLSOAPH,
    REKLS,
    SOAP,
    KLShampoo,
    OneSidedShampoo,
    Shampoo,
    SOAPMuon,
)
from .lbfgs import LBFGS
from .matrix_classes import DCTAdamW, Dion, Dion2, Muon, NorMuon, Trion
from .matrix_groups import matrix_groups
from .mechanize import Mechanize
from .microadam import MicroAdam
from .optimizer import Optimizer
from .prodigy import Prodigy, ProdigyAdv, ProdigyLionAdv
from .psgd_classes import PSGD, PSGDKron
from .recipe_optimizer import RecipeOptimizer
from .sam import SAM
from .saved_options import SAFE
from .schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from .sparse_classes import ACDC
from .sparse_events import apply_event, masks, project
from .step_in_backward import StepInBackward, step_in_backward
from .subspace_classes import (
    APOLLO,
    SNSM,
    AdaGradSN,
    AdamSNSM,
    AdamWSN,
    APOLLOMini,
    GaLoreAdafactor,
    GaLoreAdamW,
    GaLoreAdamW8bit,
    LDAdamW,
    RMSPropSN,
)
from .torch_classes import (
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    RAdam,
    RMSprop,
)
from .torch_state import to_torch_state_dict
from .window_classes import GGT, MFAC, LowRankMFAC, SparseMFAC
from .zero1 import zero1

__all__ = [
    "ACDC",
    "APOLLO",
    "COCOB",
    "DASH",
    "GGT",
    "KLSOAP",
    "KLSOAPH",
    "LAMB",
    "LARS",
    "LBFGS",
    "MADGRAD",
    "MFAC",
    "PSGD",
    "REKLS",
    "SAM",
    "SGD",
    "SM3",
    "SMMF",
    "SNSM",
    "SOAP",
    "ACProp",
    "AMSGrad",
    "APOLLOMini",
    "AdEMAMix",
    "AdaBelief",
    "AdaGradSN",
    "AdaHessian",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamAdv",
    "AdamSNSM",
    "AdamW",
    "AdamW4bit",
    "AdamW8bit",
    "AdamWSN",
    "Adamax",
    "Adan",
    "Adopt",
    "AdoptAdv",
    "CAdamW",
    "CLion",
    "DAdaptAdamW",
    "DCTAdamW",
    "Dion",
    "Dion2",
    "DoG",
    "DoWG",
    "EvaluatingOptimizer",
    "EvaluatingTransformOptimizer",
    "Fromage",
    "GaLoreAdafactor",
    "GaLoreAdamW",
    "GaLoreAdamW8bit",
    "KLShampoo",
    "LDAdamW",
    "Lion",
    "LionAdv",
    "LowRankMFAC",
    "MARSAdamW",
    "Mechanize",
    "MicroAdam",
    "MoMo",
    "MoMoAdam",
    "Muon",
    "NAdam",
    "NoisySGD",
    "NorMuon",
    "NovoGrad",
    "OneSidedShampoo",
    "OptimisticAdam",
    "Optimizer",
    "PSGDKron",
    "PolyakSGD",
    "Prodigy",
    "ProdigyAdv",
    "ProdigyLionAdv",
    "ProdigyOptimizer",
    "RAdam",
    "RMSPropSN",
    "RMSprop",
    "RecipeOptimizer",
    "SOAPMuon",
    "ScheduleFreeAdamW",
    "ScheduleFreeOptimizer",
    "ScheduleFreeSGD",
    "Shampoo",
    "SignSGD",
    "Signum",
    "SimplifiedAdEMAMix",
    "Sophia",
    "SparseMFAC",
    "StepInBackward",
    "TransformOptimizer",
    "Trion",
    "Yogi",
    "apply_event",
    "compute_layout",
    "flat_state_dict",
    "from_transform",
    "load_checkpoint",
    "load_flat_state_dict",
    "masks",
    "matrix_groups",
    "project",
    "step_in_backward",
    "to_torch_state_dict",
    "zero1",
]

# Options and schedules are objects of these: torch.load takes them back by default.
torch.serialization.add_safe_globals(list(SAFE))
