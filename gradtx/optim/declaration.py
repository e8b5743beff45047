"""What the declaration of an optimizer class says: a recipe's arguments under names of options."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.hyper import is_dynamic

# What no group option is: what groups say of leaves, and other transforms.
_NO_OPTIONS = ("mask", "matrices", "other", "inner")
_BETAS = ("b1", "b2", "b3")


class Said(NamedTuple):
    """What a class statement says, see ``RecipeOptimizer``."""

    options: str = ""
    rename: Mapping[str, str] = {}
    defaults: Mapping[str, Any] = {}
    always: str = ""

    def but(self, other: Said) -> Said:
        """What a subclass says in addition."""
        return Said(
            other.options or self.options,
            {**self.rename, **other.rename},
            {**self.defaults, **other.defaults},
            other.always or self.always,
        )


class Switch(NamedTuple):
    """Where the value of an argument stands: an option, a part of its ``parts`` parts or None."""

    option: str
    part: int | None
    parts: int
    may_be_none: bool


@dataclass(frozen=True)
class Declaration:
    """A recipe, what adapts it to a class, and the options that stand for its arguments.

    Attributes:
        functions: what makes the chain, from the outermost: adapters, which pass on what they do
            not name, and the recipe.
        options: by option the arguments that it stands for, several for a tuple such as ``betas``.
        signature: by option its default, in order, also those that no chain depends on.
        always: dynamic arguments that leave no member out, whatever the recipe does for zero.
    """

    functions: tuple[Callable[..., Any], ...]
    options: Mapping[str, tuple[str, ...]]
    signature: Mapping[str, Any]
    always: frozenset[str]

    def __hash__(self) -> int:
        return id(self)

    @functools.cached_property
    def hints(self) -> Mapping[str, Any]:
        """The types of all arguments."""
        found: dict[str, Any] = {}
        for function in reversed(self.functions):
            hints = typing.get_type_hints(unwrapped(function), include_extras=True)
            found |= {name: hints[name] for name in parameters(function) if name in hints}
        return found

    @functools.cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The defaults of all arguments."""
        found: dict[str, Any] = {}
        for function in reversed(self.functions):
            found |= {name: p.default for name, p in parameters(function).items()}
        return found

    @functools.cached_property
    def dynamic(self) -> Mapping[str, tuple[str, int | None]]:
        """The arguments that may change at every step: by name the option, and where in it."""
        return {
            name: (option, None if len(names) == 1 else i)
            for option, names in self.options.items()
            for i, name in enumerate(names)
            if is_dynamic(self.hints.get(name))
        }

    @functools.cached_property
    def structural(self) -> Mapping[str, str]:
        """The options whose value fixes the members of the chain, with their argument."""
        return {
            option: names[0]
            for option, names in self.options.items()
            if names[0] not in self.dynamic
        }

    @functools.cached_property
    def switches(self) -> Mapping[str, Switch]:
        """The dynamic arguments for which zero or None may leave a member out."""
        return {
            name: Switch(option, i, len(self.options[option]), self.may_be_none(name))
            for name, (option, i) in self.dynamic.items()
            if name not in self.always
        }

    def default(self, argument: str) -> Any:
        """The default of a dynamic argument."""
        option, i = self.dynamic[argument]
        return self.signature[option] if i is None else self.signature[option][i]

    def may_be_none(self, argument: str) -> bool:
        """Whether None says something: that there is no such member.

        A class always has a learning rate, and what it gives a default of its own.
        """
        hint = self.hints[argument]
        own = self.default(argument) is not self.defaults[argument]
        return argument != "lr" and not own and type(None) in typing.get_args(hint)


def declare(
    who: str,
    functions: tuple[Callable[..., Any], ...],
    said: Said,
    more: Mapping[str, Any],
) -> Declaration:
    """The declaration of a class.

    Args:
        who: the class.
        functions: see ``Declaration``.
        said: what the class statement says.
        more: options that no chain depends on, with their defaults.

    Raises:
        TypeError: an option that no argument is behind, or a required argument without a default.
    """
    arguments: dict[str, Any] = {}
    for function in reversed(functions):
        arguments |= {name: p.default for name, p in parameters(function).items()}
    renamed = {option: tuple(names.split()) for option, names in said.rename.items()}
    betas = _adjacent(list(arguments))
    if len(betas) > 1:
        renamed.setdefault("betas", betas)
    names = said.options.split() or _in_order(arguments, renamed)
    found: dict[str, tuple[str, ...]] = {}
    signature: dict[str, Any] = {}
    own = {**more, **said.defaults}
    for option in [*names, *(name for name in more if name not in names)]:
        if option not in more:
            found[option] = renamed.get(option, (option,))
            if unknown := [name for name in found[option] if name not in arguments]:
                raise TypeError(f"{who}: option {option!r} stands for {unknown}, no such arguments")
        given = [arguments[name] for name in found.get(option, ())]
        default = own[option] if option in own else given[0] if len(given) == 1 else tuple(given)
        if default is inspect.Parameter.empty:
            raise TypeError(f"{who}: option {option!r} needs a default")
        signature[option] = default
    if unknown := sorted(said.defaults.keys() - signature.keys()):
        raise TypeError(f"{who}: defaults for {unknown}, which are no options")
    return Declaration(functions, found, signature, frozenset(said.always.split()))


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The named parameters of an adapter or a recipe."""
    found = inspect.signature(function).parameters
    return {name: p for name, p in found.items() if p.kind is not p.VAR_KEYWORD and name != "cls"}


def passes_on(function: Callable[..., Any]) -> bool:
    """Whether an adapter passes what it does not name to what it adapts."""
    found = inspect.signature(function).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in found)


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside ``functools.partial``."""
    return function.func if isinstance(function, functools.partial) else function


def _adjacent(names: list[str]) -> tuple[str, ...]:
    """``b1, b2`` or ``b1, b2, b3`` where a recipe has them side by side."""
    start = names.index("b1") if "b1" in names else 0
    for n in (3, 2):
        if tuple(names[start : start + n]) == _BETAS[:n]:
            return _BETAS[:n]
    return ()


def _in_order(arguments: Iterable[str], renamed: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Options in the order of their first arguments."""
    options = {names[0]: option for option, names in renamed.items()}
    hidden = {name for names in renamed.values() for name in names}
    return [
        options.get(name, name)
        for name in arguments
        if name in options or not (name in hidden or name in _NO_OPTIONS)
    ]
