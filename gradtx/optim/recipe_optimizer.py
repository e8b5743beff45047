"""One torch optimizer class per recipe, from a short declaration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..core.names import suggestion
from ..core.protocol import GradientTransformation
from .declaration import Declaration, Said, declare, passes_on
from .descriptions import describe
from .embeddings import warn_of_embeddings
from .feeding import ON, Structure, built, frozen, options, structural
from .optimizer import Optimizer
from .options import COMMON, Option


class RecipeOptimizer(Optimizer):
    """Base of the classes that are declared by a recipe.

    The class statement names the recipe. Its arguments are the options: those that it annotates as
    ``gx.Hyper`` may change at every step, all others choose the members of the chain, and so does
    zero or None where it leaves a member out. ``b1, b2`` become ``betas``; what is about leaves
    (``mask``, ``matrices``, ``other``) is left to groups. Where a recipe needs adapting, ``build``
    names what differs and passes on the rest. Signature, docstring, checks and group options
    follow; ``python docs/stubs.py`` writes the signature down for editors and type checkers.

    Keyword arguments of the class statement:
        recipe: makes the chain.
        options: names of the options in order, where they are not all of the recipe's arguments.
        rename: the arguments that options of another name stand for.
        defaults: of options, where they are not the recipe's.
        always: arguments for which zero leaves no member out, whatever the recipe does.

    >>> import gradtx as gx
    >>> class Heavy(gx.optim.RecipeOptimizer, recipe=gx.signum, rename={"momentum": "beta"},
    ...             options="lr momentum weight_decay", defaults={"momentum": 0.99}):
    ...     '''Signum with a heavy ball.'''
    >>> Heavy.signature
    {'lr': 0.001, 'momentum': 0.99, 'weight_decay': 0.0}
    """

    signature: ClassVar[Mapping[str, Any]] = {}
    declaration: ClassVar[Declaration]
    recipe: ClassVar[Callable[..., GradientTransformation]]
    # Options that no chain depends on.
    modes: ClassVar[Mapping[str, Any]] = {}
    _said: ClassVar[Said] = Said()

    def __init_subclass__(
        cls,
        recipe: Callable[..., GradientTransformation] | None = None,
        **said: Any,
    ) -> None:
        super().__init_subclass__()
        if recipe is None and not said:
            return
        if recipe is not None:
            cls.recipe = staticmethod(recipe)
        cls._said = cls._said.but(Said(**said))
        cls.declaration = declare(cls.__name__, cls._functions(), cls._said, cls.modes)
        cls.signature = cls.declaration.signature
        inherited = [c.__doc__ or "" for c in cls.__mro__[1:] if issubclass(c, RecipeOptimizer)]
        name = f"gx.optim.{cls.__name__}" if cls.__module__.startswith("gradtx.") else cls.__name__
        cls.__doc__ = describe(name, cls.__doc__ or "", inherited, cls.declaration)
        cls.__init__ = _constructor(cls)  # type: ignore[method-assign]

    @classmethod
    def _functions(cls) -> tuple[Callable[..., Any], ...]:
        """The adapters, from the outermost, and the recipe."""
        adapters = [vars(c)["build"].__func__ for c in cls.__mro__ if "build" in vars(c)]
        last = next(i for i, f in enumerate(adapters) if f is _BUILD or not passes_on(f))
        return (*adapters[:last], cls.recipe if adapters[last] is _BUILD else adapters[last])

    @classmethod
    def build(cls, **arguments: Any) -> GradientTransformation:
        """The chain for these arguments."""
        return cls.recipe(**arguments)

    @classmethod
    def structural(cls) -> tuple[str, ...]:
        """Names of the options that choose the members of the chain."""
        return structural(cls)  # type: ignore[arg-type]

    def transform_of(self, group: Mapping[str, Any]) -> GradientTransformation:
        return built(type(self), self._structure(group))  # type: ignore[arg-type]

    def options(self, group: Mapping[str, Any]) -> Mapping[str, Option]:
        return options(type(self), self._structure(group))  # type: ignore[arg-type]

    def _structure(self, group: Mapping[str, Any]) -> Structure:
        """What the chain of a group is made of.

        Raises:
            ValueError: another number of betas than the default has.
            TypeError: a value that cannot be hashed.
        """
        said, who = self.declaration, type(self).__name__
        values = tuple([frozen(group[option]) for option in said.structural])
        tokens: list[Any] = []
        for option, i, count, may_be_none in said.switches.values():
            value = group[option]
            if i is not None:
                if not isinstance(value, (tuple, list)) or len(value) != count:
                    raise ValueError(f"{who}: {option} must have {count} values, got {value!r}")
                value = value[i]
            if type(value) is float:  # the usual case, at every step
                tokens.append(ON if value else 0.0)
            elif value is None and may_be_none:
                tokens.append(None)
            else:
                tokens.append(0.0 if isinstance(value, int) and value == 0 else ON)
        try:
            hash(values)
        except TypeError as error:
            shown = dict(zip(said.structural, values, strict=True))
            raise TypeError(f"{who}: {error} among the options {shown}") from None
        return values, tuple(tokens)


_BUILD = vars(RecipeOptimizer)["build"].__func__


def _constructor(cls: type[RecipeOptimizer]) -> Callable[..., None]:
    """The ``__init__`` of a class."""
    kind = inspect.Parameter
    positional = {"self": kind.empty, "params": kind.empty, **cls.signature}
    parameters = [
        kind(name, kind.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in positional.items()
    ] + [kind(name, kind.KEYWORD_ONLY, default=default) for name, default in COMMON.items()]
    signature = inspect.Signature(parameters)

    def construct(self: RecipeOptimizer, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            unknown = next((name for name in kwargs if name not in signature.parameters), "")
            hint = suggestion(unknown, [*cls.signature, *COMMON]) if unknown else ""
            raise TypeError(f"{cls.__name__}: {error}{hint}") from None
        bound.apply_defaults()
        chosen = dict(bound.arguments)
        Optimizer.__init__(chosen.pop("self"), chosen.pop("params"), chosen)
        if "matrix" in cls.signature:
            warn_of_embeddings(cls.__name__, self.param_groups)

    construct.__name__ = "__init__"
    construct.__qualname__ = f"{cls.__qualname__}.__init__"
    construct.__signature__ = signature  # type: ignore[attr-defined]
    return construct
