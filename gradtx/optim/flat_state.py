"""Optimizer states as flat dicts keyed by qualified names: what trainers give to checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.dicts import kind
from .given import check_gradtx
from .leaves import flattened, map_tensors
from .optimizer import Optimizer
from .torch_names import counterpart

_STATE, _GROUPS = "state", "param_groups"


def flat_state_dict(optimizer: Optimizer) -> dict[str, Any]:
    """A state dict without nesting: ``state.<name>.<entry>``, ``param_groups.<name>.<option>``.

    Keys are those of ``torch.distributed.checkpoint.state_dict`` with
    ``flatten_optimizer_state_dict`` and of torchtitan, so that stages of a pipeline, each with an
    optimizer of its own, may be one checkpoint. State that is not there yet is made, that of leaves
    without a gradient too; among several processes all must call this together.

    Args:
        optimizer: made from ``model.named_parameters()``.

    Raises:
        ValueError: the parameters have no names.

    >>> import torch, gradtx as gx
    >>> opt = gx.optim.Adam([("w", torch.nn.Parameter(torch.ones(2)))], lr=0.1)
    >>> flat = gx.optim.flat_state_dict(opt)
    >>> [key for key in flat if key.startswith("state")]
    ['state.w.scale_by_adam.step', 'state.w.scale_by_adam.mu', 'state.w.scale_by_adam.nu']
    >>> flat["param_groups.w.lr"]
    0.1
    """
    check_gradtx("flat_state_dict", optimizer)
    optimizer.init_state()
    saved = optimizer.state_dict()
    flat: dict[str, Any] = {}
    for group in saved[_GROUPS]:
        options = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        for i, name in _named(optimizer, group):
            flat.update(_flat(saved[_STATE].get(i, {}), f"{_STATE}.{name}"))
            flat.update({f"{_GROUPS}.{name}.{key}": value for key, value in options.items()})
    return flat


def load_flat_state_dict(optimizer: Optimizer, flat: Mapping[str, Any]) -> None:
    """Load what ``flat_state_dict`` gave; entries of parameters that are elsewhere are passed over.

    Parameters may be in other groups than they were, if those of a group had the same options.

    Args:
        optimizer: made from ``model.named_parameters()``. Among several processes all must call
            this together.
        flat: the entries; also those of torch's class of the same name, as
            ``get_optimizer_state_dict`` flattens them.

    Raises:
        ValueError: entries are missing or unknown, or do not fit (names them), or the parameters of
            a group have different options. Nothing has changed then.

    >>> import torch, gradtx as gx
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> one, other = (gx.optim.Adam([("w", w)], lr=lr) for lr in (0.1, 0.2))
    >>> gx.optim.load_flat_state_dict(other, gx.optim.flat_state_dict(one))
    >>> other.param_groups[0]["lr"]
    0.1
    """
    who = type(optimizer).__name__
    wanted = flat_state_dict(optimizer)
    groups = optimizer.state_dict()[_GROUPS]
    names = {name for group in groups for _, name in _named(optimizer, group)}
    if _is_torchs(optimizer, flat, names):
        theirs = dict.fromkeys(_options_of(flat, names))
        kept = ("params", "param_names")
        groups = [{**theirs, **{key: group[key] for key in kept}} for group in groups]
        wanted = dict.fromkeys(key for key in flat if _owner(key, names))
        wanted |= dict.fromkeys(f"{_GROUPS}.{name}.{key}" for name in names for key in theirs)
    _check_keys(who, wanted, flat, names)
    state: dict[int, Any] = {}
    for group in groups:
        options: dict[str, Any] = {}
        for i, name in _named(optimizer, group):
            start = f"{_STATE}.{name}."
            own = [key for key in wanted if key.startswith(start) and _owner(key, names) == name]
            state[i] = _nested({key.removeprefix(start): flat[key] for key in own})
            for key in set(group) - {"params", "param_names"}:
                value = flat[f"{_GROUPS}.{name}.{key}"]
                if not _same(options.setdefault(key, value), value):
                    raise ValueError(
                        f"{who}: parameters of one group were saved with different options: "
                        f"{_GROUPS}.{name}.{key} is {value!r}, of the others {options[key]!r}; "
                        "make the optimizer with the groups that were saved"
                    )
        group.update(options)
    optimizer.load_state_dict({_STATE: state, _GROUPS: groups})


def load_checkpoint(optimizer: Optimizer, checkpoint_id: Any, key: str = "optim") -> None:
    """Load ``torch.distributed.checkpoint.save({key: flat_state_dict(optimizer)}, ...)``.

    Any number of processes may load it, each its shards. Other than when entries are read by
    torch's ``load`` alone, which converts dtypes in silence, everything is compared first.

    Args:
        optimizer: made from ``model.named_parameters()``.
        checkpoint_id: the folder, or what else torch's readers take.
        key: under which it was saved.

    Raises:
        ValueError: entries are missing, unknown, or have another shape or dtype (names them).
            Nothing has changed then.

    >>> import torch, gradtx as gx
    >>> opt = gx.optim.Lion([("w", torch.nn.Parameter(torch.ones(2)))], lr=0.1)
    >>> # torch.distributed.checkpoint.save({"optim": gx.optim.flat_state_dict(opt)}, ...)
    >>> # gx.optim.load_checkpoint(opt, checkpoint_id=...)
    >>> sorted(gx.optim.flat_state_dict(opt))[-1]
    'state.w.scale_by_lion.mu'
    """
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    check_gradtx("load_checkpoint", optimizer)
    who = type(optimizer).__name__
    flat = {k: map_tensors(torch.clone, v) for k, v in flat_state_dict(optimizer).items()}
    reader = dcp.FileSystemReader(checkpoint_id)
    saved = reader.read_metadata().state_dict_metadata
    there: dict[str, Any] = {
        k.removeprefix(f"{key}."): v for k, v in saved.items() if k.startswith(f"{key}.")
    }
    groups = optimizer.state_dict()[_GROUPS]
    names = {name for group in groups for _, name in _named(optimizer, group)}
    tensors = {k: v for k, v in flat.items() if isinstance(v, Tensor)}
    _check_keys(who, tensors, {k: v for k, v in there.items() if k.startswith(_STATE)}, names)
    wrong = [
        f"{key}.{k} was saved as {now}, needed is {kind(x)}"
        for k, x in tensors.items()
        if (now := f"{there[k].properties.dtype} of shape {tuple(there[k].size)}") != kind(x)
    ]
    if wrong:
        raise ValueError(f"{who}: the checkpoint does not fit: {_some(wrong, '; ')}")
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    held = {key: flat}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is", category=UserWarning)
            dcp.load(held, storage_reader=reader, no_dist=not distributed)
    except CheckpointException as error:  # no Exception, and its message is that of a stack
        first = next(iter(error.failures.values()))
        raise ValueError(
            f"{who}: the checkpoint {checkpoint_id} does not fit: {first[0]}"
        ) from None
    load_flat_state_dict(optimizer, held[key])


def _named(optimizer: Optimizer, group: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Positions of a saved group's parameters with their names."""
    if "param_names" not in group:
        raise ValueError(
            f"{type(optimizer).__name__}: a flat state dict is keyed by names, and parameters have "
            "none; make the optimizer from model.named_parameters()"
        )
    return zip(group["params"], group["param_names"], strict=True)


def _flat(nested: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    return ((".".join((path, *inside)), value) for inside, value in flattened(nested))


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inside = out
        for part in path:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return out


def _owner(key: str, names: Iterable[str]) -> str | None:
    """The parameter that an entry belongs to: one's name may begin with that of another one."""
    fits = [n for n in names if key.startswith((f"{_STATE}.{n}.", f"{_GROUPS}.{n}."))]
    return max(fits, key=len, default=None)


def _is_torchs(optimizer: Optimizer, flat: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether entries are those of torch's class."""
    theirs = counterpart(optimizer)
    if theirs is None or any(f"{_GROUPS}.{name}.fallback" in flat for name in names):
        return False
    entries = theirs.keys()
    return any(f"{_GROUPS}.{name}.lr" in flat for name in names) and all(
        key.rpartition(".")[2] in entries
        for key in flat
        if key.startswith(f"{_STATE}.") and _owner(key, names)
    )


def _options_of(flat: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """The options that parameters of groups were saved with."""
    starts = [f"{_GROUPS}.{name}." for name in names]
    return {key.removeprefix(start) for start in starts for key in flat if key.startswith(start)}


def _check_keys(
    who: str, wanted: Mapping[str, Any], flat: Mapping[str, Any], names: Iterable[str]
) -> None:
    """Raise unless all entries are there, and no other state of the same parameters."""
    missing = [key for key in wanted if key not in flat]
    unknown = [
        key
        for key in flat
        if key.startswith(f"{_STATE}.") and key not in wanted and _owner(key, names)
    ]
    if missing or unknown:
        raise ValueError(
            f"{who}: the state does not fit: missing {_some(missing)}, unexpected {_some(unknown)}"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return bool(a == b)


def _some(found: list[str], between: str = ", ") -> str:
    shown = between.join(found[:5]) or "nothing"
    return shown if len(found) <= 5 else f"{shown} and {len(found) - 5} more"
