"""Published optimizers as chains, one family a module."""

from .adabelief import adabelief
from .adadelta import adadelta
from .adafactor import adafactor
from .adagrad import adagrad
from .adam import adam, adamw, amsgrad
from .adamax import adamax, adamaxw
from .adan import adan
from .layerwise import lamb, lars
from .lion import lion
from .nadam import nadam, nadamw
from .novograd import novograd
from .optimistic import optimistic_gradient_descent
from .radam import radam
from .rmsprop import rmsprop
from .rprop import rprop
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
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "novograd",
    "optimistic_gradient_descent",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "signsgd",
    "signum",
    "sm3",
    "yogi",
]
