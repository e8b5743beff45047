"""The wrappers of torch.distributed around the parameters of an optimizer, or around itself."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Modules by the place that defines them: one that was never imported has no instances.
_DATA_PARALLEL = {
    "torch.nn.parallel.distributed": "DistributedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel": "FullyShardedDataParallel",
}
_ZERO = {"torch.distributed.optim.zero_redundancy_optimizer": "ZeroRedundancyOptimizer"}


def _classes(known: dict[str, str]) -> tuple[type, ...]:
    modules = ((sys.modules.get(module), name) for module, name in known.items())
    return tuple(getattr(m, name) for m, name in modules if hasattr(m, name))


def _instances(kinds: tuple[type, ...]) -> Iterator[Any]:
    """All that exist: no wrapper leaves a mark on what it wraps."""
    if kinds and _several_processes():
        for thing in gc.get_objects():
            if issubclass(type(thing), kinds):
                yield thing


def _several_processes() -> bool:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return there and torch.distributed.get_world_size() > 1


def is_data_parallel(module: nn.Module) -> bool:
    """Whether a module averages gradients over processes once they have been accumulated."""
    return isinstance(module, _classes(_DATA_PARALLEL)) and _several_processes()


def data_parallel_of(params: Iterable[Tensor]) -> nn.Module | None:
    """A module that averages the gradients of some of these parameters over processes, or None."""
    wanted = set(params)
    for module in _instances(_classes(_DATA_PARALLEL)):
        # A wrapper whose constructor has failed has no modules.
        if "_modules" in vars(module) and not wanted.isdisjoint(module.parameters()):
            return module
    return None


def zero_redundancy_of(optimizer: Any) -> Any:
    """The ``ZeroRedundancyOptimizer`` that an optimizer is the local part of, or None."""
    for wrapper in _instances(_classes(_ZERO)):
        if vars(wrapper).get("optim") is optimizer:
            return wrapper
    return None
