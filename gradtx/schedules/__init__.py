"""Schedules: pure functions from a step count to a value.

They stand for any dynamic hyperparameter: ``gx.adamw(gx.schedules.cosine_decay(1e-3, 1000))``. A
Python integer gives a float, an integer tensor gives a tensor, without a host sync. The names are
Optax's without ``_schedule``: ``linear`` is ``optax.linear_schedule``, ``sgdr`` is
``optax.sgdr_schedule``, and so on; ``join`` is ``optax.join_schedules``, ``exponential_decay`` has
the same name in both. ``warmup_stable_decay`` is not in Optax. Where Optax turns a length of zero
or a negative start into a constant schedule, these raise; a warm-up of zero steps starts at the
peak.
"""

from .basic import constant, cosine_decay, exponential_decay, linear, polynomial
from .cycles import cosine_onecycle, linear_onecycle, sgdr
from .join import join
from .piecewise import piecewise_constant, piecewise_interpolate
from .schedule import Schedule
from .warmup import (
    warmup_constant,
    warmup_cosine_decay,
    warmup_exponential_decay,
    warmup_stable_decay,
)

__all__ = [
    "Schedule",
    "constant",
    "cosine_decay",
    "cosine_onecycle",
    "exponential_decay",
    "join",
    "linear",
    "linear_onecycle",
    "piecewise_constant",
    "piecewise_interpolate",
    "polynomial",
    "sgdr",
    "warmup_constant",
    "warmup_cosine_decay",
    "warmup_exponential_decay",
    "warmup_stable_decay",
]
