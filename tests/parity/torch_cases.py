"""Which recipe arguments reproduce which optimizer of torch.optim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


class _MachineEpsilon:
    """Stands for the machine epsilon of the dtype of a case."""

    def __repr__(self) -> str:
        return "EPS"


EPS = _MachineEpsilon()


@dataclass(frozen=True)
class TorchCase:
    """One torch optimizer and the recipe that equals it, each with its arguments."""

    torch_class: str
    torch_kwargs: Mapping[str, Any]
    recipe: str
    recipe_kwargs: Mapping[str, Any]

    @property
    def id(self) -> str:
        shown = ",".join(f"{k}={v}" for k, v in self.torch_kwargs.items() if k != "lr")
        return f"{self.torch_class}({shown})"

    def arguments(self, dtype: torch.dtype) -> dict[str, Any]:
        """The recipe's arguments for parameters of one dtype."""
        eps = torch.finfo(dtype).eps
        return {k: eps if v is EPS else v for k, v in self.recipe_kwargs.items()}


def _case(
    torch_class: str, torch_kwargs: dict[str, Any], recipe: str, recipe_kwargs: dict[str, Any]
) -> TorchCase:
    """A case whose arguments of the same name go to both sides."""
    shared = ("lr", "eps", "weight_decay", "nesterov", "rho", "lr_decay", "centered")
    shared += ("momentum", "dampening", "momentum_decay", "decoupled_weight_decay")
    both = {k: v for k, v in torch_kwargs.items() if k in shared}
    if "betas" in torch_kwargs:
        both["b1"], both["b2"] = torch_kwargs["betas"]
    return TorchCase(torch_class, torch_kwargs, recipe, {**both, **recipe_kwargs})


_BETAS = (0.8, 0.97)
_RSS = {"initial_accumulator_value": 0.0, "eps": 1e-10, "eps_in_sqrt": False}
_RMS = {"decay": 0.99, "eps_in_sqrt": False}
_FACTORED = {
    "min_dim_size_to_factor": 1,
    "factored_dims": "last",
    "relative_step": True,
    "eps": 0.0,
    "floor": EPS,
}

CASES = [
    _case("SGD", {"lr": 0.1}, "sgd", {}),
    _case("SGD", {"lr": 0.1, "weight_decay": 0.1}, "sgd", {}),
    _case("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, "sgd", {}),
    _case("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "sgd", {}),
    _case("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}, "sgd", {}),
    _case("Adam", {"lr": 0.01}, "adam", {}),
    _case("Adam", {"lr": 0.01, "betas": _BETAS, "eps": 1e-3, "weight_decay": 0.1}, "adam", {}),
    _case("Adam", {"lr": 0.01, "betas": _BETAS, "amsgrad": True}, "adam", {"amsgrad": "raw"}),
    TorchCase(
        "Adam",
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
        "adamw",
        {"lr": 0.01, "weight_decay": 0.1},
    ),
    _case("AdamW", {"lr": 0.01}, "adamw", {}),
    _case("AdamW", {"lr": 0.01, "betas": _BETAS, "eps": 1e-3, "weight_decay": 0.1}, "adamw", {}),
    _case("AdamW", {"lr": 0.01, "betas": _BETAS, "amsgrad": True}, "adamw", {"amsgrad": "raw"}),
    _case("NAdam", {"lr": 0.01}, "nadam", {"momentum_decay": 4e-3}),
    _case(
        "NAdam",
        {"lr": 0.01, "betas": _BETAS, "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.5},
        "nadam",
        {},
    ),
    _case(
        "NAdam",
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
        "nadam",
        {"momentum_decay": 4e-3},
    ),
    _case("RAdam", {"lr": 0.01}, "radam", {"raw_eps": True}),
    _case(
        "RAdam",
        {"lr": 0.01, "betas": _BETAS, "eps": 1e-3, "weight_decay": 0.1},
        "radam",
        {"raw_eps": True},
    ),
    _case(
        "RAdam",
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
        "radam",
        {"raw_eps": True},
    ),
    _case("Adamax", {"lr": 0.01}, "adamax", {}),
    _case("Adamax", {"lr": 0.01, "betas": _BETAS, "eps": 1e-3, "weight_decay": 0.1}, "adamax", {}),
    _case("Adagrad", {"lr": 0.05}, "adagrad", _RSS),
    _case(
        "Adagrad",
        {
            "lr": 0.05,
            "lr_decay": 0.1,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.5,
            "eps": 1e-3,
        },
        "adagrad",
        {"initial_accumulator_value": 0.5, "eps_in_sqrt": False},
    ),
    _case("Adadelta", {"lr": 0.5}, "adadelta", {}),
    _case("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}, "adadelta", {}),
    _case("RMSprop", {"lr": 0.01}, "rmsprop", _RMS),
    _case(
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.9},
        "rmsprop",
        _RMS | {"decay": 0.9},
    ),
    _case("RMSprop", {"lr": 0.01, "centered": True, "eps": 1e-2}, "rmsprop", _RMS),
    _case("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-2}, "rmsprop", _RMS),
    _case("Rprop", {"lr": 0.01}, "rprop", {}),
    _case(
        "Rprop",
        {"lr": 0.1, "etas": (0.7, 1.5), "step_sizes": (0.05, 0.2)},
        "rprop",
        {"eta_minus": 0.7, "eta_plus": 1.5, "min_step_size": 0.05, "max_step_size": 0.2},
    ),
    _case("Adafactor", {"lr": 0.01}, "adafactor", _FACTORED),
    _case(
        "Adafactor",
        {"lr": 0.5, "beta2_decay": -0.5, "eps": (1e-4, 0.5), "d": 2.0, "weight_decay": 0.1},
        "adafactor",
        _FACTORED
        | {
            "decay_rate": 0.5,
            "floor": 1e-4,
            "min_parameter_scale": 0.5,
            "clipping_threshold": 2.0,
        },
    ),
]
