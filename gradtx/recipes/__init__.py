"""Published optimizers as chains, one family a module."""

from .adabelief import adabelief
from .adadelta import adadelta
from .adafactor import adafactor
from .adagrad import adagrad
from .adam import adam, adamw, amsgrad
from .adamax import adamax
from .adan import adan
from .layerwise import lamb, lars
from .lion import lion
from .nadam import nadam
from .novograd import novograd
from .radam import radam
from .rmsprop import rmsprop
from .sgd import sgd
from .sign import signsgd, signum
from .sm3 import sm3
from .yogi import yogi

__all__ = [
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "amsgrad",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "novograd",
    "radam",
    "rmsprop",
    "sgd",
    "signsgd",
    "signum",
    "sm3",
    "yogi",
]
