"""The wrappers of torch.distributed around the parameters of an optimizer, or around itself."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
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


def is_for_state() -> bool:
    """Whether a step is taken to have a state made: with zero gradients and ``lr = 0``.

    Distributed checkpoints do so with optimizers that have none. Counters must not begin at one,
    and nothing must be remembered of such a step.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame is None or frame.f_code.co_name in _MAKE_STATE:
            return frame is not None
        frame = frame.f_back
    return False


# torch.distributed.checkpoint.state_dict has one, and torchtitan a copy.
_MAKE_STATE = ("_init_optim_state", "init_optim_state")
_DEPTH = 12  # step() may be wrapped by profilers, schedulers and trainers


def lacks_state(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a checkpoint of several processes may lack the state of a trained parameter.

    Of a leaf that none has ever used too, because a process that loads it may use it. States of
    DTensors lie in several processes, which ask all alike; and they are loaded into what is there,
    so that an optimizer that has made no step has a state too.
    """
    params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    if any(hasattr(p, "device_mesh") for p in params):
        return True
    begun = optimizer.state and _several_processes()
    return bool(begun) and not all(p in optimizer.state for p in params)


@contextmanager
def usual_rates(optimizer: Any) -> Iterator[None]:
    """Let groups have the default learning rate, where torch has set it to zero for the moment."""
    default, groups = optimizer.defaults.get("lr"), optimizer.param_groups
    numbers = [group for group in groups if isinstance(group.get("lr"), (int, float))]
    still = [group for group in numbers if group["lr"] == 0]
    before = [group["lr"] for group in still]
    for group in still:
        group["lr"] = default
    try:
        yield
    finally:
        for group, lr in zip(still, before, strict=True):
            group["lr"] = lr
