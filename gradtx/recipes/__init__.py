"""Published optimizers as chains, one family a module."""

from .acdc_sgd import acdc_sgd
from .acprop import acprop
from .adabelief import adabelief
from .adadelta import adadelta
from .adafactor import adafactor
from .adagrad import adagrad
from .adam import adam, adamw, amsgrad
from .adam_adv import adam_adv, ademamix
from .adamax import adamax, adamaxw
from .adan import adan
from .adopt import adopt, adopt_adv
from .apollo import apollo, apollo_mini
from .cautious import c_adamw, c_lion
from .cocob import cocob
from .dadapt import dadapt_adamw
from .dash import dash
from .dct_adamw import dct_adamw
from .dion import dion, dion2, trion
from .dog import dog, dowg
from .dpsgd import dpsgd
from .fromage import fromage
from .galore import galore_adafactor, galore_adamw, galore_adamw8bit
from .ggt import ggt
from .kl_shampoo import kl_shampoo, kl_soap, kl_soap_h, rekls
from .layerwise import lamb, lars
from .lbfgs import lbfgs
from .ldadam import ldadamw
from .lion import lion
from .lion_adv import lion_adv
from .low_bit import adamw4bit, adamw8bit
from .madgrad import madgrad
from .mars import mars_adamw
from .mfac import lowrank_mfac, mfac, sparse_mfac
from .microadam import microadam
from .momo import momo, momo_adam
from .muon import muon, normuon
from .nadam import nadam, nadamw
from .noisy import noisy_sgd
from .novograd import novograd
from .optimistic import optimistic_adam, optimistic_gradient_descent
from .polyak import polyak_sgd
from .prodigy import prodigy, prodigy_adv, prodigy_lion_adv
from .psgd import psgd, psgd_kron
from .radam import radam
from .rmsprop import rmsprop
from .rprop import rprop
from .schedule_free import schedule_free_adamw, schedule_free_sgd
from .sgd import sgd
from .shampoo import one_sided_shampoo, shampoo
from .sign import signsgd, signum
from .simplified_ademamix import simplified_ademamix
from .sm3 import sm3
from .smmf import smmf
from .soap import soap
from .soap_muon import soap_muon
from .sophia import adahessian, sophia
from .subset_norm import adagrad_sn, adam_snsm, adamw_sn, rmsprop_sn, snsm
from .yogi import yogi

__all__ = [
    "acdc_sgd",
    "acprop",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adagrad_sn",
    "adahessian",
    "adam",
    "adam_adv",
    "adam_snsm",
    "adamax",
    "adamaxw",
    "adamw",
    "adamw4bit",
    "adamw8bit",
    "adamw_sn",
    "adan",
    "ademamix",
    "adopt",
    "adopt_adv",
    "amsgrad",
    "apollo",
    "apollo_mini",
    "c_adamw",
    "c_lion",
    "cocob",
    "dadapt_adamw",
    "dash",
    "dct_adamw",
    "dion",
    "dion2",
    "dog",
    "dowg",
    "dpsgd",
    "fromage",
    "galore_adafactor",
    "galore_adamw",
    "galore_adamw8bit",
    "ggt",
    "kl_shampoo",
    "kl_soap",
    "kl_soap_h",
    "lamb",
    "lars",
    "lbfgs",
    "ldadamw",
    "lion",
    "lion_adv",
    "lowrank_mfac",
    "madgrad",
    "mars_adamw",
    "mfac",
    "microadam",
    "momo",
    "momo_adam",
    "muon",
    "nadam",
    "nadamw",
    "noisy_sgd",
    "normuon",
    "novograd",
    "one_sided_shampoo",
    "optimistic_adam",
    "optimistic_gradient_descent",
    "polyak_sgd",
    "prodigy",
    "prodigy_adv",
    "prodigy_lion_adv",
    "psgd",
    "psgd_kron",
    "radam",
    "rekls",
    "rmsprop",
    "rmsprop_sn",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "shampoo",
    "signsgd",
    "signum",
    "simplified_ademamix",
    "sm3",
    "smmf",
    "snsm",
    "soap",
    "soap_muon",
    "sophia",
    "sparse_mfac",
    "trion",
    "yogi",
]
