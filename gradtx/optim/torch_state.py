"""State dicts as ``torch.optim``'s classes have them."""

from __future__ import annotations

from itertools import chain as concat
from typing import Any

from .given import check_gradtx
from .optimizer import Optimizer
from .options import COMMON
from .torch_names import OWN, counterpart, of_torch, values


def to_torch_state_dict(optimizer: Optimizer) -> dict[str, Any]:
    """The state dict that the class of ``torch.optim`` with the same name would have.

    It holds the same numbers under torch's names, so training goes on there, and comes back with
    ``load_state_dict`` here, which takes torch's state dicts too. Moments keep their dtype; torch
    casts them to that of the parameter when it loads. Step counters that torch keeps but does not
    use (Adadelta, RMSprop) are 1.

    A distributed checkpoint of torch's class is read under torch's names: into
    ``get_optimizer_state_dict(model, ...)`` of an optimizer of that class, which
    ``set_optimizer_state_dict(model, ...)`` then hands to the optimizer here.

    Args:
        optimizer: SGD, Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, Adadelta, RMSprop, Adafactor or
            Muon of ``gx.optim``. Tensors are shared with it, except for counters.

    Returns:
        ``{"state": ..., "param_groups": ...}`` as torch lays it out.

    Raises:
        TypeError: torch has no such class.
        ValueError: an option that torch's class does not have is in use (names it).

    >>> import torch, gradtx as gx
    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> opt = gx.optim.Adagrad([p])
    >>> p.grad = torch.full((2,), 3.0)
    >>> opt.step()
    >>> gx.optim.to_torch_state_dict(opt)["state"][0]
    {'step': tensor(1.), 'sum': tensor([9., 9.])}
    """
    check_gradtx("to_torch_state_dict", optimizer)
    theirs = counterpart(optimizer)
    if theirs is None:
        raise TypeError(
            f"to_torch_state_dict: torch.optim has no {type(optimizer).__name__}; "
            f"{sorted(of_torch())} have a counterpart"
        )
    for group in optimizer.param_groups:
        theirs.check_exported(type(optimizer).__name__, group)
    saved = optimizer.state_dict()
    params = list(concat.from_iterable(g["params"] for g in optimizer.param_groups))
    ids = list(concat.from_iterable(g["params"] for g in saved["param_groups"]))
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    state = {}
    for p, i in zip(params, ids, strict=True):
        if i in saved["state"]:
            capturable = group_of[p]["capturable"]
            state[i] = theirs.exported(dict(values(saved["state"][i])), p, capturable)
    groups = []
    for group in saved["param_groups"]:
        known = optimizer.defaults.keys() | COMMON.keys()
        shared = {k: v for k, v in group.items() if k not in OWN}
        out = {k: shared.get(k, v) for k, v in theirs.defaults().items()}
        out |= {k: v for k, v in shared.items() if k not in known}
        groups.append(out | theirs.group_values(group))
    return {"state": state, "param_groups": groups}
