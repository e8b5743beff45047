"""Chains as ``torch.optim.Optimizer``: ``from_transform`` and one class per recipe."""

from .classes import (
    LAMB,
    LARS,
    SM3,
    AdaBelief,
    Adan,
    AMSGrad,
    Lion,
    NovoGrad,
    SignSGD,
    Signum,
    Yogi,
)
from .from_transform import TransformOptimizer, from_transform
from .optimizer import Optimizer
from .recipe_optimizer import RecipeOptimizer
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

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "SM3",
    "AMSGrad",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "NAdam",
    "NovoGrad",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "RecipeOptimizer",
    "SignSGD",
    "Signum",
    "TransformOptimizer",
    "Yogi",
    "from_transform",
]
