"""One torch optimizer class per recipe, generated from a short declaration."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..core.names import suggestion
from ..core.plain import whole_number
from ..core.protocol import GradientTransformation
from .embeddings import warn_of_embeddings
from .optimizer import Optimizer
from .options import COMMON, Option, intervals, of_short_names, per_entry

_EXAMPLE = """

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Linear(2, 1)
    >>> opt = gx.optim.{name}(model.parameters(), lr=0.1)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> opt.step()
    """


class RecipeOptimizer(Optimizer):
    """Base of the generated classes.

    A subclass declares ``signature`` (argument names and defaults, in order, without the common
    ones), ``feeds`` (options that feed hyperparameters of another name; ``"a|b"`` is whichever the
    chain has) and ``build``, whose parameters are the structural options: those that choose members
    instead of feeding them. Values that ``build`` leaves at their defaults are always overridden.
    Where options and arguments of the recipe have the same names, ``recipe`` stands for ``build``:
    then the structural options are the recipe's arguments that are no hyperparameters.

    >>> import gradtx as gx
    >>> gx.optim.AdamW.signature["betas"], gx.optim.AdamW.feeds["betas"]
    ((0.9, 0.999), ('b1', 'b2'))
    """

    signature: ClassVar[Mapping[str, Any]] = {}
    feeds: ClassVar[Mapping[str, tuple[str, ...]]] = {"betas": ("b1", "b2"), "momentum": ("decay",)}
    recipe: ClassVar[Callable[..., GradientTransformation]]
    build: ClassVar[Callable[..., GradientTransformation]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "signature" not in cls.__dict__:
            return
        if "recipe" in cls.__dict__:
            cls.build = staticmethod(_passing(cls.recipe, cls.signature))
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
            options = dict(bound.arguments)
            Optimizer.__init__(options.pop("self"), options.pop("params"), options)
            if "matrix" in cls.signature:
                warn_of_embeddings(cls.__name__, self.param_groups)

        construct.__name__ = "__init__"
        construct.__qualname__ = f"{cls.__qualname__}.__init__"
        construct.__signature__ = signature  # type: ignore[attr-defined]
        cls.__init__ = construct  # type: ignore[assignment, method-assign]
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "") + _EXAMPLE.format(name=cls.__name__)

    @classmethod
    def structural(cls) -> tuple[str, ...]:
        """Names of the options that choose the members of the chain."""
        return _parameters(cls.build)

    def transform_of(self, group: Mapping[str, Any]) -> GradientTransformation:
        return _built(type(self), self._structure(group))  # type: ignore[arg-type]

    def options(self, group: Mapping[str, Any]) -> Mapping[str, Option]:
        return _options(type(self), self._structure(group))  # type: ignore[arg-type]

    def _structure(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        """Values of the structural options.

        Raises:
            ValueError: another number of betas than the default has.
            TypeError: a value that cannot be hashed.
        """
        for name in _betas(self.build):
            value, count = group[name], len(self.signature[name])
            if not isinstance(value, (tuple, list)) or len(value) != count:
                raise ValueError(
                    f"{type(self).__name__}: {name} must have {count} values, got {value!r}"
                )
        values = tuple([_frozen(group[name]) for name in self.structural()])
        try:
            hash(values)
        except TypeError as error:
            shown = dict(zip(self.structural(), values, strict=True))
            raise TypeError(f"{type(self).__name__}: {error} among the options {shown}") from None
        return values


def _passing(
    recipe: Callable[..., GradientTransformation], options: Mapping[str, Any]
) -> Callable[..., GradientTransformation]:
    """The recipe as a function of those of the options that are no hyperparameters."""
    arguments = inspect.signature(recipe).parameters
    names = [
        name
        for name in options
        if name in arguments and not str(arguments[name].annotation).startswith("Hyper")
    ]

    def build(*values: Any) -> GradientTransformation:
        return recipe(**dict(zip(names, values, strict=True)))

    chosen = [arguments[name] for name in names]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [argument.replace(kind=kind, default=inspect.Parameter.empty) for argument in chosen]
    )
    return build


def _frozen(value: Any) -> Any:
    return whole_number(tuple(value) if isinstance(value, list) else value)


@functools.cache
def _parameters(build: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(build).parameters)


@functools.cache
def _betas(build: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in _parameters(build) if name.endswith("betas"))


@functools.lru_cache(maxsize=256)
def _built(cls: Any, values: tuple[Any, ...]) -> GradientTransformation:
    return _same_object(cls.build(*values))


@functools.lru_cache(maxsize=256)
def _same_object(tx: GradientTransformation) -> GradientTransformation:
    """One object for equal chains: what ran the last step is found by identity."""
    return tx


@functools.lru_cache(maxsize=256)
def _options(cls: Any, values: tuple[Any, ...]) -> Mapping[str, Option]:
    tx = _built(cls, values)
    within, wide = intervals(tx), per_entry(tx)
    within |= of_short_names(within)
    off = {
        name for name, value in zip(_parameters(cls.build), values, strict=True) if value is None
    }
    out = {}
    for option, default in cls.signature.items():
        targets = cls.feeds.get(option, (option,))
        names = [next((n for n in t.split("|") if n in within), "") for t in targets]
        if any(names) and option not in off:
            entries = len(names) == 1 and any(
                f == names[0] or f.endswith(f".{names[0]}") for f in wide
            )
            out[option] = Option(
                tuple(names), tuple(within.get(n, _ANY) for n in names), default, entries
            )
    return out


_ANY = "(-inf, inf)"
