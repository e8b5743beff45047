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
    own(gx.optim.AdaBelief, {"betas": (0.8, 0.95)}),
    own(gx.optim.Adan, {"betas": (0.9, 0.8, 0.95)}),
    own(gx.optim.AMSGrad),
    own(gx.optim.LAMB, {"betas": (0.8, 0.95)}),
    own(gx.optim.LARS, {"momentum": 0.5}),
    own(gx.optim.Lion, {"betas": (0.8, 0.95)}),
    own(gx.optim.NovoGrad),
    own(gx.optim.SignSGD),
    own(gx.optim.Signum, {"momentum": 0.5}),
    own(gx.optim.SM3, {"momentum": 0.5}),
    own(gx.optim.Yogi, {"eps": 1e-2}),
]
GRADTX_DB = [*DROP_IN, *OWN]
