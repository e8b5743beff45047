"""Our optimizer classes as entries of torch's own test database.

Classes that torch.optim also has take torch's grids of constructor arguments unchanged: whatever
torch tests its optimizer with, ours must accept and answer with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import gradtx as gx

from ._torch_private import (
    OptimizerInfo,
    OptimizerInput,
    get_error_inputs_for_all_optims,
    optim_db,
)

_TORCH = {info.optim_cls.__name__: info for info in optim_db}


def drop_in(cls: type) -> Any:
    """An entry with the inputs, bad inputs and schedulers of torch's class of the same name."""
    theirs = _TORCH[cls.__name__]
    return OptimizerInfo(
        cls,
        optim_inputs_func=theirs.optim_inputs_func,
        optim_error_inputs_func=theirs.optim_error_inputs_func,
        scheduler_inputs=theirs.scheduler_inputs,
        supports_complex=False,
        has_capturable_arg=True,
    )


def _inputs(*grid: dict[str, Any]) -> Callable[..., list[Any]]:
    usual: list[dict[str, Any]] = [
        {},
        {"lr": 0.01},
        {"lr": torch.tensor(0.001)},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "maximize": True},
    ]

    def inputs(device: Any, dtype: Any = None) -> list[Any]:
        return [OptimizerInput(None, dict(kwargs), str(kwargs)) for kwargs in [*usual, *grid]]

    return inputs


def own(cls: type, *grid: dict[str, Any]) -> Any:
    """An entry for a class that torch does not have."""
    return OptimizerInfo(
        cls,
        optim_inputs_func=_inputs(*grid),
        optim_error_inputs_func=get_error_inputs_for_all_optims,
        supports_complex=False,
        has_capturable_arg=True,
    )


def tuned(cls: Any, **defaults: Any) -> Any:
    """A class with other defaults, for problems as small and as regular as those of the tests."""
    return type(cls.__name__, (cls,), {"__doc__": cls.__doc__}, defaults=defaults)


DROP_IN = [
    drop_in(getattr(gx.optim, name))
    for name in (
        "Adadelta",
        "Adafactor",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "NAdam",
        "RAdam",
        "RMSprop",
        "SGD",
    )
]
OWN = [
    own(gx.optim.AdamAdv, {"betas": (0.8, 0.95), "ademamix": True, "cautious": True}),
    own(gx.optim.AdamW4bit, {"betas": (0.8, 0.95), "min_size": 0}),
    own(gx.optim.AdamW8bit, {"betas": (0.8, 0.95), "min_size": 0}),
    own(gx.optim.AdEMAMix, {"betas": (0.8, 0.95, 0.99), "t_alpha": 3}),
    own(gx.optim.Adopt, {"betas": (0.8, 0.95)}),
    own(gx.optim.AdoptAdv, {"betas": (0.0, 0.95), "factored": True}, {"atan2": True}),
    own(gx.optim.CAdamW, {"betas": (0.8, 0.95)}),
    own(gx.optim.CLion, {"betas": (0.8, 0.95)}),
    own(gx.optim.LionAdv, {"betas": (0.8, 0.95), "clip_threshold": 0.5}),
    own(gx.optim.SimplifiedAdEMAMix, {"alpha_grad": 1.0, "b1_warmup": 3}),
    own(gx.optim.SMMF, {"decay_rate": -0.8}, {"beta": None}),
    own(gx.optim.AdaBelief, {"betas": (0.8, 0.95)}),
    own(gx.optim.Adan, {"betas": (0.9, 0.8, 0.95)}),
    own(gx.optim.AMSGrad),
    own(gx.optim.LAMB, {"betas": (0.8, 0.95)}),
    own(gx.optim.LARS, {"momentum": 0.5}),
    own(gx.optim.Lion, {"betas": (0.8, 0.95)}),
    own(tuned(gx.optim.MFAC, window=3, damping=1.0), {"momentum": 0.5}),
    own(tuned(gx.optim.SparseMFAC, window=500, damping=1.0, density=0.5), {"momentum": 0.5}),
    own(tuned(gx.optim.LowRankMFAC, window=3, damping=1.0), {"rank": 2}),
    own(tuned(gx.optim.GGT, window=3, eps=1.0), {"betas": (0.0, 1.0)}),
    own(gx.optim.MARSAdamW, {"betas": (0.8, 0.95), "gamma": 0.1}),
    own(gx.optim.NovoGrad),
    own(gx.optim.ScheduleFreeAdamW, {"warmup_steps": 3, "r": 0.5}, {"inner_momentum": 0.5}),
    own(gx.optim.ScheduleFreeSGD, {"lr": 0.1, "momentum": 0.5}),
    own(gx.optim.SignSGD),
    own(gx.optim.Signum, {"momentum": 0.5}),
    own(gx.optim.SM3, {"momentum": 0.5}),
    own(gx.optim.Yogi, {"eps": 1e-2}),
    own(gx.optim.MicroAdam, {"density": 0.5}, {"window": 3}),
    own(gx.optim.Muon, {"nesterov": False}),
    own(gx.optim.NorMuon),
    own(gx.optim.Dion),
    own(gx.optim.Dion2),
    own(gx.optim.Trion),
    own(gx.optim.DCTAdamW),
    own(gx.optim.PSGD, {"momentum": 0.9, "whiten": "momentum"}),
    own(gx.optim.PSGDKron, {"memory_save_mode": "one_diag", "b1": 0.5}),
    own(gx.optim.LDAdamW, {"rank": 2}),
    own(gx.optim.AdamWSN, {"subset": "heuristics"}),
    own(gx.optim.RMSPropSN),
    own(gx.optim.AdaGradSN),
    own(gx.optim.SNSM, {"momentum": "sm", "rank": 2, "update_proj_gap": 2}),
    own(gx.optim.AdamSNSM),
    own(gx.optim.GaLoreAdamW, {"rank": 2, "update_proj_gap": 2}),
    own(gx.optim.GaLoreAdamW8bit),
    own(gx.optim.GaLoreAdafactor),
    own(gx.optim.APOLLO, {"rank": 2}),
    own(gx.optim.APOLLOMini),
    own(gx.optim.ACDC),
    own(gx.optim.ACProp),
    own(gx.optim.OptimisticAdam),
]
# The update of a parameter depends on the others.
COUPLED = {"GGT", "LowRankMFAC", "MFAC", "SparseMFAC"}
GRADTX_DB = [*DROP_IN, *OWN]
