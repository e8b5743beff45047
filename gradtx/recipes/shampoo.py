"""Shampoo: inverse roots of Kronecker factors, grafted, as Meta's Distributed Shampoo has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..codecs import Codec
from ..core.chain import Chain, chain
from ..core.counting import count_together
from ..core.functions import identity
from ..core.hyper import Hyper, check_value
from ..core.leaves import LeafInfo
from ..core.plain import plain
from ..core.protocol import GradientTransformation
from ..core.quotient import as_gradients, on_gradients, quotient
from ..core.select import partition
from ..precondition import (
    blocks,
    eigenbasis,
    grafted,
    in_eigenbasis,
    kronecker_factors,
    scale_by_inverse_roots,
)
from ..precondition.inverse_roots import RootMethod
from ..transforms import (
    add_corrected_decay,
    add_decayed_weights,
    ema,
    root_second_moment,
    scale,
    second_moment_power,
    trace,
    two_decay_ema,
)
from ._learning_rate import with_learning_rate

GRAFTS = ("adam", "rmsprop", "adagrad", "sgd", None)
DECAYS = ("decoupled", "l2", "corrected", "independent")
FORMS = ("plain", "kl", "eigh", "qr")
COUNTS = ("leaf", "group")


@dataclass(frozen=True)
class by_dimensions:
    """A label for leaves with at least two dimensions longer than one, and for others."""

    def __call__(self, info: LeafInfo) -> str:
        return "matrix" if sum(d != 1 for d in info.shape) > 1 else "vector"


def is_matrix(info: LeafInfo) -> bool:
    """Whether a leaf has at least two dimensions longer than one."""
    return by_dimensions()(info) == "matrix"


def shampoo(
    lr: Hyper | None = 1e-2,
    b1: Hyper = 0.9,
    shampoo_beta: float = 1.0,
    beta3: Hyper | None = None,
    eps: float = 1e-12,
    eps_mode: Literal["absolute", "relative"] = "absolute",
    weight_decay: Hyper = 0.0,
    weight_decay_type: Literal["decoupled", "l2", "corrected", "independent"] = "decoupled",
    peak_lr: float | None = None,
    max_preconditioner_dim: int | None = 1024,
    precondition_frequency: int = 1,
    start_preconditioning_step: int | None = None,
    correct_bias: bool = True,
    grafting: Literal["adam", "rmsprop", "adagrad", "sgd"] | None = "adam",
    grafting_b2: Hyper = 0.999,
    grafting_eps: Hyper = 1e-8,
    target_dims: int | None = 2,
    one_dim: Literal["diagonal", "shampoo"] = "diagonal",
    momentum: Hyper | None = None,
    dampening: float = 0.0,
    nesterov: bool = False,
    form: Literal["plain", "kl", "eigh", "qr"] = "plain",
    root: str | RootMethod = "evd",
    exponents: Mapping[int, Any] | None = None,
    unturned: Mapping[int, tuple[int, ...]] | None = None,
    weighs_squares: bool = True,
    trace_scaling: float | None = None,
    qr_iterations: int = 1,
    tolerance: float = 0.0,
    staggered: bool = False,
    packed: bool = False,
    codec: Codec | torch.dtype | None = None,
    tolerated_failures: int | None = 3,
    counts: Literal["leaf", "group"] = "leaf",
) -> Chain:
    """Shampoo with grafting, as in Distributed Shampoo.

    Of every block G of at most ``max_preconditioner_dim`` rows and columns: L <- b2 L + w G G^T,
    likewise R; F the bias-corrected average of G; P = L^(-1/4) F R^(-1/4) with the norm that the
    grafted method's step has; M <- mu M + P; p <- p - lr (M + weight_decay p). Other numbers of
    dimensions o have a factor a side and powers -1/(2 o).

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the average of gradients, in [0, 1); 0 leaves it out.
        shampoo_beta: decay b2 of the factors, in [0, 1]; 1 sums up.
        beta3: decay that the average is read with, in [0, 1); None for b1.
        eps: ridge under the factors, > 0.
        eps_mode: "absolute", or "relative" to the norm of the factor.
        weight_decay: multiple of the parameter, >= 0.
        weight_decay_type: added to the direction ("decoupled"), to the gradient ("l2"), or to the
            direction times lr / peak_lr ("corrected") or 1 / peak_lr ("independent").
        peak_lr: largest learning rate, > 0; None for lr.
        max_preconditioner_dim: longest side of a block, >= 1; None for any.
        precondition_frequency: steps between new roots, >= 1.
        start_preconditioning_step: first step with roots, >= precondition_frequency; None for that.
        correct_bias: correct averages for having started at zero.
        grafting: whose norm blocks have: "adam", "rmsprop", "adagrad", "sgd", or None for their
            own.
        grafting_b2: decay of the grafted method's second moment, in [0, 1).
        grafting_eps: added to its root, >= 0.
        target_dims: dimensions that merging from the last one on stops at, >= 1; None merges
            nothing. Meta's own default is 1, which makes vectors of small matrices.
        one_dim: leaves with one dimension get the grafted method itself ("diagonal"), or a factor.
        momentum: mu, in [0, 1); None leaves it out.
        dampening: what the direction lacks in the momentum, in [0, 1).
        nesterov: look one step ahead in the momentum.
        form: "plain"; "kl" gathers gradients that are multiplied by the roots of the other sides;
            "eigh" and "qr" divide by second moments in the eigenbases instead of taking roots.
        root: how roots are computed, see ``gx.matrix_root``.
        exponents: powers in place of 1/(2 o), by number of dimensions: a number, or one a side by
            position; for "eigh" and "qr" the power of second moments in place of 1/2.
        unturned: by number of dimensions, sides that keep their coordinates for "eigh" and "qr".
        weighs_squares: False lets new squares count 1, not 1 - b2, in factors.
        trace_scaling: divide factors by this power of their traces, in (0, 1]; None for none.
        qr_iterations: steps of the QR algorithm at a refresh for "qr", >= 1.
        tolerance: share of the norm off the diagonal at which these end, and at which "eigh" keeps
            its basis if it is > 0, >= 0.
        staggered: refresh every leaf at a phase of its own.
        packed: keep the upper triangles of factors and roots alone.
        codec: how averages and momentum are kept between steps.
        tolerated_failures: how many refreshes of roots in a row may fail, >= 0; None for any.
        counts: "leaf" counts the gradients of every leaf, for bias corrections and refreshes;
            "group" the steps, also those in which a leaf had no gradient, as Distributed Shampoo.

    Raises:
        ValueError: a value outside its range; from ``update``, more refreshes of roots in a row
            have failed than are tolerated (names the leaf).

    Source: arXiv 2309.06497.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.shampoo(0.1), {"w": torch.zeros(2, 2)}
    >>> u, _ = tx.update({"w": torch.tensor([[3.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> u["w"].round(decimals=3) + 0.0
    tensor([[-0.1000,  0.0000],
            [ 0.0000, -0.1000]])
    """
    _check(locals())
    start = (
        precondition_frequency
        if start_preconditioning_step is None
        else (start_preconditioning_step)
    )
    cut = blocks(
        max_preconditioner_dim,
        view="keep" if target_dims is None else "merge_back",
        target=target_dims,
    )
    powers = tuple((o, _by_side(o, e)) for o, e in (exponents or {}).items())
    roots = form in ("plain", "kl")
    factors = kronecker_factors(
        shampoo_beta,
        form="kl" if form == "kl" else "plain",
        bias_correction=correct_bias,
        average=weighs_squares,
        one_dim=one_dim == "shampoo",
        exponents=powers if roots else _kept(unturned or {}),
        packed=packed,
        columns="sum" if form == "kl" else "mean",
    )
    direction: GradientTransformation
    if roots:
        direction = scale_by_inverse_roots(
            *(factors, root, eps, eps_mode, precondition_frequency, start, staggered),
            trace_scaling=trace_scaling,
            cut=cut,
            source="gradients",
            failures=tolerated_failures,
        )
    else:
        squares = _squares(
            shampoo_beta, eps, correct_bias, weighs_squares, codec, dict(exponents or {})
        )
        direction = in_eigenbasis(
            quotient(identity(), on_gradients(squares)),
            factors,
            eigenbasis(
                "identity",
                "eigh" if form == "eigh" else "qr_algorithm",
                precondition_frequency,
                "before",
                start,
                staggered,
                ridge=eps,
                iterations=qr_iterations,
                tolerance=tolerance,
                trace_scaling=trace_scaling,
            ),
            cut=cut,
            source="gradients",
        )
    size = graft_magnitude(grafting, grafting_b2, grafting_eps, codec)
    if size is not None:
        direction = grafted(direction, size, cut, start=start)
    if one_dim == "diagonal":
        vector = graft_magnitude(grafting or "adam", grafting_b2, grafting_eps, codec)
        assert vector is not None
        direction = partition({"matrix": direction, "vector": vector}, by_dimensions())
    members: list[GradientTransformation] = []
    if isinstance(b1, torch.Tensor) or callable(b1) or b1 != 0:
        members.append(
            ema(b1, debias=correct_bias, codec=codec)
            if beta3 is None
            else two_decay_ema(b1, beta3, correct_bias, codec)
        )
    members.append(direction)
    inner = as_gradients(*members)
    tx = chain(count_together(inner) if counts == "group" else inner)
    if weight_decay_type == "l2":
        tx = chain(add_decayed_weights(weight_decay), tx)
    elif weight_decay_type == "decoupled":
        tx = chain(tx, add_decayed_weights(weight_decay))
    else:
        peak = lr if peak_lr is None else peak_lr
        alone = weight_decay_type == "independent"
        decay = add_corrected_decay(lr, weight_decay, peak, alone)  # type: ignore[arg-type]
        tx = chain(tx, decay)
    if momentum is not None:
        damped = [scale(1 - dampening)] if dampening else []
        tx = chain(tx, *damped, trace(momentum, nesterov=nesterov, codec=codec))
    return with_learning_rate(tx, lr)


def one_sided_shampoo(
    lr: Hyper | None = 1e-2,
    b1: Hyper = 0.9,
    shampoo_beta: float = 0.999,
    eps: float = 1e-12,
    weight_decay: Hyper = 0.0,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    root: str | RootMethod = "evd",
    packed: bool = False,
    codec: Codec | torch.dtype | None = None,
) -> Chain:
    """Shampoo with one factor, on the shorter side of matrices: adaptive steps for whole rows.

    L <- b2 L + (1 - b2) G G^T; m the average of gradients; p <- p - lr (L^(-1/2) m +
    weight_decay p), both averages corrected for having started at zero. Half of the memory of
    Shampoo, and no grafting. Vectors get Adam.

    Args:
        lr: learning rate >= 0, a schedule, or None to leave it out.
        b1: decay of the average of gradients, in [0, 1).
        shampoo_beta: decay b2 of the factor, in [0, 1]; 1 sums up.
        eps: ridge under the factor, > 0.
        weight_decay: multiple of the parameter added to the update, >= 0.
        precondition_frequency: steps between new roots, >= 1; the first is at the first step.
        max_precond_dim: longest side that has a factor, >= 1.
        root: how roots are computed, see ``gx.matrix_root``.
        packed: keep the upper triangles of factor and root alone.
        codec: how averages are kept between steps.

    Raises:
        ValueError: a value outside its range.

    Source: arXiv 2503.10537, arXiv 2503.20762.

    >>> import torch, gradtx as gx
    >>> tx, params = gx.one_sided_shampoo(0.1), {"w": torch.zeros(2, 3)}
    >>> g = {"w": torch.tensor([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]])}
    >>> tx.update(g, tx.init(params), params)[0]["w"].round(decimals=3) + 0.0
    tensor([[-0.0600,  0.0000, -0.0800],
            [ 0.0000, -0.1000,  0.0000]])
    """
    factors = kronecker_factors(
        shampoo_beta,
        bias_correction=True,
        max_dim=max_precond_dim,
        sides="short",
        exponents=((2, 0.5),),
        packed=packed,
    )
    direction = scale_by_inverse_roots(
        *(factors, root, eps, "absolute", precondition_frequency),
        cut=blocks(view="matrix"),
        source="gradients",
    )
    vector = quotient(identity(), on_gradients(root_second_moment(0.999, codec=codec)))
    members = (
        ema(b1, codec=codec),
        partition({"matrix": direction, "vector": vector}, by_dimensions()),
    )
    return with_learning_rate(chain(as_gradients(*members), add_decayed_weights(weight_decay)), lr)


def graft_magnitude(
    name: str | None, b2: Hyper, eps: Hyper, codec: Codec | torch.dtype | None
) -> GradientTransformation | None:
    """The method whose norm is grafted, on an average of gradients that is there already."""
    if name is None:
        return None
    if name == "sgd":
        return identity()
    if name == "adagrad":
        below: GradientTransformation = second_moment_power(1.0, eps, average=False, codec=codec)
    else:
        below = root_second_moment(b2, eps, debias=name == "adam", codec=codec)
    return quotient(identity(), on_gradients(below))


def _squares(
    b2: float, eps: float, debias: bool, average: bool, codec: Any, powers: dict[int, Any]
) -> GradientTransformation:
    """The denominator in an eigenbasis, with a power that may depend on the dimensions."""
    average = average and b2 < 1

    def of(power: float) -> GradientTransformation:
        return second_moment_power(
            b2, eps, power, average=average, debias=debias and average, codec=codec
        )

    if not powers:
        return of(0.5)
    made = {f"dimensions_{o}": of(float(e)) for o, e in powers.items()}
    return partition({**made, "others": of(0.5)}, _by_order(tuple(powers)))


@dataclass(frozen=True)
class _by_order:
    """A label by number of dimensions."""

    known: tuple[int, ...]

    def __call__(self, info: LeafInfo) -> str:
        return f"dimensions_{info.ndim}" if info.ndim in self.known else "others"


def _kept(unturned: Mapping[int, tuple[int, ...]]) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Exponents of zero, which leave sides without a factor."""
    for o, sides in unturned.items():
        if any(not 0 <= side < o for side in sides):
            raise ValueError(
                f"shampoo: unturned sides of {o} dimensions are 0..{o - 1}, got {sides}"
            )
    return tuple(
        (o, tuple(0.0 if side in sides else 1.0 for side in range(o)))
        for o, sides in unturned.items()
    )


def _by_side(order: int, given: Any) -> Any:
    """An exponent, or one a side; sides that are not named keep theirs."""
    if not isinstance(given, Mapping):
        return tuple(given) if isinstance(given, (list, tuple)) else float(given)
    if any(not 0 <= side < order for side in given):
        raise ValueError(
            f"shampoo: exponents for {order} dimensions name sides 0..{order - 1}, got {given!r}"
        )
    return tuple(float(given.get(side, 1 / (2 * order))) for side in range(order))


def _check(options: Mapping[str, Any]) -> None:
    for name in ("exponents", "unturned"):
        if options[name] is not None and not isinstance(options[name], Mapping):
            raise TypeError(
                f"shampoo: {name} must be a mapping from numbers of dimensions, "
                f"got {options[name]!r}"
            )
    for name, known in (
        ("grafting", GRAFTS),
        ("weight_decay_type", DECAYS),
        ("form", FORMS),
        ("one_dim", ("diagonal", "shampoo")),
        ("counts", COUNTS),
    ):
        if options[name] not in known:
            raise ValueError(f"shampoo: {name} must be one of {known}, got {options[name]!r}")
    every, start = options["precondition_frequency"], options["start_preconditioning_step"]
    if start is not None and start < every:
        raise ValueError(
            "shampoo: start_preconditioning_step must be >= precondition_frequency = "
            f"{every}, got {start}"
        )
    if not 0 <= options["dampening"] < 1:
        raise ValueError(f"shampoo: dampening must be in [0, 1), got {options['dampening']}")
    if options["momentum"] is not None:
        check_value("shampoo", "momentum", options["momentum"], "[0, 1)")
    pseudo = getattr(options["root"], "rule", None) == "pseudo_inverse"
    if pseudo != (options["eps"] == 0) or not 0 <= options["eps"] < math.inf:
        raise ValueError(
            "shampoo: eps must be > 0, and 0 with a pseudo-inverse, got "
            f"{options['eps']} with root={options['root']!r}"
        )
    if options["weight_decay_type"] in ("corrected", "independent"):
        peak = options["lr"] if options["peak_lr"] is None else options["peak_lr"]
        peak = plain(peak)
        if isinstance(peak, bool) or not isinstance(peak, (int, float)) or not peak > 0:
            raise ValueError(
                f"shampoo: weight_decay_type={options['weight_decay_type']!r} needs peak_lr > 0, "
                f"got {peak!r}"
            )
