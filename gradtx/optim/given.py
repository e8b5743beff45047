"""What is given by mistake in the place of parameters, groups, optimizers and state dicts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import some, with_article


def check_params(who: str, params: Any) -> None:
    """Raise for a module, or for a dict, which would be gone through by its keys.

    Raises:
        TypeError: says what to write.
    """
    if isinstance(params, torch.nn.Module):
        raise TypeError(
            f"{who}: params must be parameters or groups, got the module "
            f"{type(params).__name__}; write model.parameters()"
        )
    if isinstance(params, Mapping):
        how = "[params]" if "params" in params else "model.named_parameters()"
        raise TypeError(
            f"{who}: params must be parameters, named parameters or groups, got "
            f"{with_article(type(params).__name__)} of {some(params)}; write {how}"
        )


def check_group(who: str, group: Mapping[str, Any]) -> None:
    """Raise for a group without parameters.

    Raises:
        ValueError: says what it has.
    """
    if "params" not in group:
        raise ValueError(f"{who}: a group needs 'params', got {some(group)}")


def check_gradtx(who: str, optimizer: Any) -> None:
    """Raise unless an optimizer is one of this library.

    Raises:
        TypeError: says what it is.
    """
    of_torch = isinstance(optimizer, torch.optim.Optimizer)
    if of_torch and hasattr(optimizer, "transform_of"):
        return
    what = f"{'torch.optim.' * of_torch}{type(optimizer).__name__}"
    if isinstance(optimizer, type):
        what = f"the class {optimizer.__name__}"
    raise TypeError(f"{who}: needs an optimizer of gx.optim, got {what}")


def check_mapping(who: str, given: Any) -> None:
    """Raise for what is no state dict at all.

    Raises:
        TypeError: says what it is and what to write.
    """
    if isinstance(given, Mapping):
        return
    what, how = with_article(type(given).__name__), ""
    if isinstance(given, (str, os.PathLike)):
        what, how = repr(given), "; write torch.load(path)"
    elif hasattr(given, "state_dict"):
        how = "; write its state_dict()"
    raise TypeError(f"{who}: load_state_dict needs what state_dict() gave, got {what}{how}")


def check_parts(who: str, state_dict: Mapping[str, Any]) -> None:
    """Raise for the state dict of something else than an optimizer.

    Raises:
        ValueError: says what it has, and where in it an optimizer's is.
    """
    parts = ("state", "param_groups")
    if all(part in state_dict for part in parts):
        return
    inside = [
        key
        for key, value in state_dict.items()
        if isinstance(value, Mapping) and all(part in value for part in parts)
    ]
    how = f"; that of an optimizer is its entry {inside[0]!r}" if inside else ""
    if state_dict and all(isinstance(value, Tensor) for value in state_dict.values()):
        how = "; it looks like that of a model"
    if any(str(key).startswith(("state.", "param_groups.")) for key in state_dict):
        how = "; gx.optim.load_flat_state_dict takes it"
    raise ValueError(
        f"{who}: the state dict of an optimizer has 'state' and 'param_groups', "
        f"this one has {some(state_dict)}{how}"
    )
