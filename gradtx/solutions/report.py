"""All measures of several solutions in one table and one picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..core import tree
from ..core.tree import PyTree
from .activations import activation_outliers
from .curvature import hessian_trace, sharpness
from .paths import Loss, forgetting, linear_mode_connectivity
from .picture import save_picture
from .table import Report
from .weights import (
    INT4,
    INT8,
    effective_ranks,
    quantization_errors,
    quantized,
    sparsity,
    spectra,
    stable_ranks,
    update_norms,
    weight_norms,
)

Solutions: TypeAlias = "Mapping[str, PyTree | list[PyTree]]"
Measure: TypeAlias = Callable[[PyTree], Any]

NEAR = 0.01


def report(
    solutions: Solutions,
    loss_fn: Loss | None = None,
    start: PyTree | None = None,
    activations: Measure | None = None,
    after: Solutions | None = None,
    more: Mapping[str, Measure] | None = None,
    picture: str | Path | None = None,
    show: bool = True,
) -> Report:
    """Measure solutions, print one table and draw one picture.

    Always: norms, ranks, zeros, and the errors of 4 and 8 bits. What else is given adds the rest.

    Args:
        solutions: by name; each a tree of parameters, or a list of such trees, one a seed.
        loss_fn: parameters -> 0-d loss of a fixed batch: the loss, sharpness, trace of the Hessian,
            the loss with weights of 4 bits, and barriers between seeds.
        start: where training began, one tree for all or a list with one a seed: norms of updates.
        activations: parameters -> a tree of activations of a batch, see ``layer_inputs``.
        after: the solutions after a second task: what of the first they forget.
        more: further measures of a tree by name, each a number.
        picture: file of the picture; None draws none.
        show: print the table.

    Returns:
        All numbers; ``str`` of it is the table.

    Raises:
        ValueError: no solutions, ``start`` with other seeds, or ``after`` without ``loss_fn`` or
            with other names or seeds.
        ModuleNotFoundError: a picture is wanted and matplotlib is not installed.

    >>> import torch, gradtx as gx
    >>> found = gx.solutions.report({"ones": {"w": torch.ones(2, 2)}}, show=False)
    >>> found.values["stable rank"]
    {'ones': (1.0,)}
    """
    runs = {name: _seeds(given) for name, given in solutions.items()}
    if not runs or not all(runs.values()):
        raise ValueError("report: needs at least one solution, and at least one tree of each")
    second = _second(runs, after, loss_fn)
    measures = {**_of_weights(), **_of_losses(loss_fn), **(more or {})}
    if activations is not None:
        measures |= _of_activations(activations)
    values: dict[str, dict[str, tuple[float, ...]]] = {
        label: {name: tuple(float(measure(p)) for p in seeds) for name, seeds in runs.items()}
        for label, measure in measures.items()
    }
    if start is not None:
        values["update norm"] = {
            name: tuple(_root(update_norms(p, s)) for p, s in _from(start, seeds))
            for name, seeds in runs.items()
        }
    if loss_fn is not None and all(len(seeds) > 1 for seeds in runs.values()):
        values["barrier between seeds"] = {
            name: tuple(
                float(linear_mode_connectivity(loss_fn, a, b).barrier) for a, b in _pairs(seeds)
            )
            for name, seeds in runs.items()
        }
    if second and loss_fn is not None:
        values["forgetting"] = {
            name: tuple(
                float(forgetting(loss_fn, p, q)) for p, q in zip(seeds, second[name], strict=True)
            )
            for name, seeds in runs.items()
        }
    found = Report(values)
    if show:
        print(found)
    if picture is not None:
        save_picture(found, picture)
    return found


def _of_weights() -> dict[str, Measure]:
    """Measures that need parameters alone; ranks and errors are means over matrices."""
    return {
        "weight norm": lambda p: _root(weight_norms(p)),
        "largest singular value": lambda p: max(
            (float(s.max()) for s in spectra(p).values()), default=math.nan
        ),
        "stable rank": lambda p: _mean(stable_ranks(p)),
        "effective rank": lambda p: _mean(effective_ranks(p)),
        "exact zeros": lambda p: _share(p, sparsity(p)),
        f"below {NEAR:g} of the rms": lambda p: _share(p, sparsity(p, near=NEAR)),
        "4-bit error": lambda p: _mean(quantization_errors(p, INT4)),
        "8-bit error": lambda p: _mean(quantization_errors(p, INT8)),
    }


def _of_losses(loss_fn: Loss | None) -> dict[str, Measure]:
    if loss_fn is None:
        return {}
    return {
        "loss": loss_fn,
        "loss added by 4 bits": lambda p: loss_fn(quantized(p, INT4)) - loss_fn(p),
        "sharpness": lambda p: sharpness(loss_fn, p),
        "Hessian trace": lambda p: hessian_trace(loss_fn, p).value,
    }


def _of_activations(activations: Measure) -> dict[str, Measure]:
    """Means over layers; those whose median is zero have no peak over it."""

    def mean(p: PyTree, field: str) -> float:
        found = {k: getattr(v, field) for k, v in activation_outliers(activations(p)).items()}
        return _mean({k: v for k, v in found.items() if not torch.isnan(v)})

    return {
        "activation kurtosis": lambda p: mean(p, "kurtosis"),
        "activation max / median": lambda p: mean(p, "peak"),
    }


def _second(
    runs: Mapping[str, Sequence[PyTree]], after: Solutions | None, loss_fn: Loss | None
) -> dict[str, list[PyTree]]:
    if after is None:
        return {}
    if loss_fn is None:
        raise ValueError("report: after needs loss_fn, the loss of the first task")
    second = {name: _seeds(given) for name, given in after.items()}
    if {n: len(s) for n, s in second.items()} != {n: len(s) for n, s in runs.items()}:
        raise ValueError("report: after must have the names and seeds that solutions has")
    return second


def _seeds(given: PyTree | list[PyTree]) -> list[PyTree]:
    """A list of trees; a list of tensors is one tree."""
    if isinstance(given, list) and not any(isinstance(x, Tensor) for x in given):
        return given
    return [given]


def _from(start: PyTree, seeds: Sequence[PyTree]) -> Iterator[tuple[PyTree, PyTree]]:
    """Every seed with where it began."""
    starts = _seeds(start)
    if len(starts) not in (1, len(seeds)):
        raise ValueError(
            f"report: start must be one tree or one for each of {len(seeds)} seeds, "
            f"got {len(starts)}"
        )
    return zip(seeds, starts * len(seeds) if len(starts) == 1 else starts, strict=True)


def _pairs(seeds: Sequence[PyTree]) -> Iterator[tuple[PyTree, PyTree]]:
    """Every seed and the next one; the last one and the first, where there are more than two."""
    many = len(seeds) > 2
    for i in range(len(seeds) if many else 1):
        yield seeds[i], seeds[(i + 1) % len(seeds)]


def _root(norms: Mapping[str, Tensor]) -> float:
    return sum(float(x) ** 2 for x in norms.values()) ** 0.5


def _mean(values: Mapping[str, Tensor]) -> float:
    return statistics.fmean(float(x) for x in values.values()) if values else float("nan")


def _share(params: PyTree, shares: Mapping[str, Tensor]) -> float:
    """Shares of leaves as the share of all entries."""
    leaves, spec = tree.flatten(params)
    sizes = dict(zip(tree.names(spec), leaves, strict=True))
    total = sum(sizes[name].numel() for name in shares)
    return sum(float(x) * sizes[name].numel() for name, x in shares.items()) / max(total, 1)
