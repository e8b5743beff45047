"""The properties of all transforms, by name, in the order in which they are checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import (
    bad_input,
    compiled,
    containers,
    derivatives,
    dtypes,
    extremes,
    functional,
    fused,
    gradients,
    intervals,
    options,
    overrides,
    purity,
    resume,
    surroundings,
    training,
    values,
)
from .subject import Subject

_MODULES = (
    *(purity, values, resume, gradients, dtypes, containers, surroundings, functional),
    *(derivatives, training, overrides, intervals, options, bad_input, extremes, fused, compiled),
)


@dataclass(frozen=True)
class Property:
    """Something that holds for every transform.

    Attributes:
        name: the function's name.
        group: the module's name: what it is about.
        check: raises if it does not hold.
    """

    name: str
    group: str
    check: Callable[[Subject], None]

    @property
    def meaning(self) -> str:
        """The first line of the function's docstring."""
        return (self.check.__doc__ or "").partition("\n")[0]


PROPERTIES: dict[str, Property] = {
    name: Property(name, module.__name__.rpartition(".")[2], value)
    for module in _MODULES
    for name, value in vars(module).items()
    if getattr(value, "is_property", False)
}
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(p.group for p in PROPERTIES.values()))
