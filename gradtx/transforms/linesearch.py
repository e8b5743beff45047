"""Line searches: step sizes found by looking at the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..core.checks import all_done
from ..core.hyper import static
from ..core.protocol import GradientTransformation
from ..core.state import new_scalar
from ..core.tree import PyTree, children, flatten, leaves, map, zeros_like
from .line import Line, Point, cubic_minimum, either


class LineSearchState(NamedTuple):
    """State of a line search.

    Attributes:
        learning_rate: 0-d, the last rate.
        value: 0-d, the loss after the last update.
        grad: tree like the parameters, the gradient there.
    """

    learning_rate: Tensor
    value: Tensor
    grad: PyTree


def value_and_grad_from_state(
    value_fn: Callable[..., Tensor],
) -> Callable[..., tuple[Tensor, PyTree]]:
    """Value and gradient of a loss, from the state of the line search that has just found them.

    Args:
        value_fn: ``(params, *args) -> 0-d loss``, the one that the line search looks at.

    Returns:
        ``fn(params, *args, state=...)``, which gives value and gradient. It computes them where the
        state has none yet; where its value cannot be read at no cost, it computes them and chooses.

    Raises:
        ValueError: a state without, or with several, line searches.

    >>> import torch, gradtx as gx
    >>> def f(w): return ((w - 1) ** 2).sum()
    >>> tx, w = gx.lbfgs(), torch.tensor([3.0])
    >>> state, fn = tx.init(w), gx.value_and_grad_from_state(f)
    >>> value, grad = fn(w, state=state)
    >>> updates, state = tx.update(grad, state, w, value=value, value_fn=f)
    >>> fn(gx.apply_updates(w, updates), state=state)  # nothing is computed
    (tensor(1.), tensor([2.]))
    """

    def value_and_grad(
        params: PyTree, *args: Any, state: PyTree, **kwargs: Any
    ) -> tuple[Tensor, PyTree]:
        found = _line_searches(state)
        if len(found) != 1:
            raise ValueError(
                "value_and_grad_from_state: the state must have one line search in it, "
                f"got {len(found)}"
            )
        known = torch.isfinite(found[0].value)
        if all_done(known):
            return found[0].value, found[0].grad
        parts, spec = flatten(params)
        there = [i for i, p in enumerate(parts) if p is not None]

        def of_leaves(*leaves_: Tensor) -> Tensor:
            whole = list(parts)
            for i, x in zip(there, leaves_, strict=True):
                whole[i] = x
            return value_fn(spec.unflatten(whole), *args, **kwargs)

        slots = tuple(range(len(there)))
        grads, value = torch.func.grad_and_value(of_leaves, argnums=slots)(
            *(parts[i] for i in there)
        )
        out: list[Any] = [None] * len(parts)
        for i, g in zip(there, grads, strict=True):
            out[i] = g
        grad = map(
            lambda new, old: torch.where(known, old.to(new), new),
            spec.unflatten(out),
            found[0].grad,
        )
        return torch.where(known, found[0].value.to(value), value), grad

    return value_and_grad


def _line_searches(state: PyTree) -> list[LineSearchState]:
    if isinstance(state, LineSearchState):
        return [state]
    return [x for _, child in children(state) or () for x in _line_searches(child)]


class _LineSearch(GradientTransformation):
    evaluates = True

    def init(self, params: PyTree) -> LineSearchState:
        there = leaves(params)
        return LineSearchState(
            new_scalar(there, 1.0), new_scalar(there, torch.inf), zeros_like(params)
        )

    def _search(self, line: Line, last: Tensor) -> tuple[Point, Tensor]:
        """The point that is gone to, and the rate that the next search starts from."""
        raise NotImplementedError

    def update(
        self, updates: PyTree, state: LineSearchState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, LineSearchState]:
        line = Line(self.name, updates, params, extra)
        point, rate = self._search(line, state.learning_rate.to(line.zero))
        grad = line.gradient(point, state.grad)
        new = LineSearchState(rate.to(state.learning_rate), point.value.to(state.value), grad)
        return line.scaled(point.rate), new


@dataclass(frozen=True)
class scale_by_backtracking_linesearch(_LineSearch):
    """Multiply by the first of falling rates that lowers the loss enough (Armijo's rule).

    From a = min(increase_factor a_last, max_learning_rate), a <- decrease_factor a until
    f(p + a u) <= (1 + rtol) f(p) + atol + slope_rtol a <g, u>. No step where no rate does. Put it
    last in a chain, and give ``value_fn=f`` to ``update``; ``value``, ``grads`` and
    ``grad_fn`` (else ``torch.func.grad``) are used where they are given.

    Args:
        max_backtracking_steps: most rates that are tried, >= 1.
        slope_rtol: share of the slope that must be gained, in (0, 1).
        decrease_factor: of a rate that is refused, in (0, 1).
        increase_factor: of the last rate at the start, > 0; ``inf`` to start from the largest.
        max_learning_rate: the largest rate, > 0.
        atol: absolute increase that is allowed, >= 0.
        rtol: relative increase that is allowed, >= 0.

    Raises:
        ValueError: a value outside its range, or no ``value_fn`` or parameters at ``update``.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 3.1.

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.scale(-1.0), gx.scale_by_backtracking_linesearch(decrease_factor=0.5))
    >>> w, f = torch.tensor(1.0), lambda w: 2 * w**2
    >>> tx.update(torch.tensor(4.0), tx.init(w), w, value_fn=f)[0]
    tensor(-1.)
    """

    max_backtracking_steps: int = static(30, at_least=1)
    slope_rtol: float = static(1e-4, within="(0, 1)")
    decrease_factor: float = static(0.8, within="(0, 1)")
    increase_factor: float = static(1.5, within="(0, inf]")
    max_learning_rate: float = static(1.0, within="(0, inf)")
    atol: float = static(0.0, within="[0, inf)")
    rtol: float = static(0.0, within="[0, inf)")

    def _search(self, line: Line, last: Tensor) -> tuple[Point, Tensor]:
        start, best = line.start, line.start
        rate = torch.clamp(self.increase_factor * last, max=self.max_learning_rate)
        tried, done = rate, torch.zeros_like(rate, dtype=torch.bool)
        allowed = (1 + self.rtol) * start.value + self.atol
        for _ in range(self.max_backtracking_steps):
            point = line.at(rate)
            good = point.value <= allowed + self.slope_rtol * rate * start.slope
            best = either(good & ~done, point, best)
            tried = torch.where(done, tried, rate)
            done = done | good
            if all_done(done):
                break
            rate = rate * self.decrease_factor
        return best, tried


class _Bracket(NamedTuple):
    """Attributes: ``low``, the best end, and ``high``; ``zoom``, whether a minimum is between."""

    low: Point
    high: Point
    zoom: Tensor


@dataclass(frozen=True)
class scale_by_zoom_linesearch(_LineSearch):
    """Multiply by a rate that meets the strong Wolfe conditions.

    f(p + a u) <= f(p) + slope_rtol a <g, u> and |<g(p + a u), u>| <= curv_rtol |<g, u>|. Rates
    grow until a minimum lies between two of them, then cubics narrow it down. Where values
    differ by rounding, slopes stand for the first condition. If ``max_linesearch_steps`` are not
    enough, the lowest point that meets the first condition is taken, or no step. Put it last in a
    chain, and give ``value_fn=f`` to ``update``; ``value``, ``grads`` and ``grad_fn`` (else
    ``torch.func.grad``) are used where they are given.

    Args:
        max_linesearch_steps: most points that are looked at, >= 1.
        max_learning_rate: the largest rate > 0, or None.
        increase_factor: least growth of rates before a minimum is passed, > 1.
        slope_rtol: share of the slope that must be gained, in (0, 1).
        curv_rtol: share of the slope that may be left, in (0, 1).
        approx_dec_rtol: relative change of values that counts as rounding, >= 0.
        initial_guess_strategy: "keep" to start from the last rate, "one" from 1.

    Raises:
        ValueError: a value outside its range, or no ``value_fn`` or parameters at ``update``.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5 and 3.6; Hager and
    Zhang, SIAM J. Optim. 16 (2005).

    >>> import torch, gradtx as gx
    >>> tx = gx.chain(gx.scale(-1.0), gx.scale_by_zoom_linesearch(curv_rtol=0.1))
    >>> w, f = torch.tensor(1.0), lambda w: 2 * w**2
    >>> tx.update(torch.tensor(4.0), tx.init(w), w, value_fn=f)[0]
    tensor(-1.)
    """

    max_linesearch_steps: int = static(30, at_least=1)
    max_learning_rate: float | None = static(None, within="(0, inf]")
    increase_factor: float = static(2.0, within="(1, inf)")
    slope_rtol: float = static(1e-4, within="(0, 1)")
    curv_rtol: float = static(0.9, within="(0, 1)")
    approx_dec_rtol: float = static(1e-6, within="[0, inf)")
    initial_guess_strategy: Literal["keep", "one"] = static("keep")

    def _search(self, line: Line, last: Tensor) -> tuple[Point, Tensor]:
        most = torch.inf if self.max_learning_rate is None else self.max_learning_rate
        rate = (
            torch.where(last > 0, last, 1.0)
            if self.initial_guess_strategy == "keep"
            else (torch.ones_like(last))
        )
        rate = torch.clamp(rate, max=most)
        start = best = found = line.start
        bracket = _Bracket(start, start, torch.zeros_like(rate, dtype=torch.bool))
        done = ~(start.slope < 0)  # no direction of descent: no step
        for _ in range(self.max_linesearch_steps):
            if all_done(done):
                break
            point = line.at(rate)
            enough = self._falls(point, start)
            flat = point.slope.abs() <= self.curv_rtol * start.slope.abs()
            at_end = (rate >= most) & (point.slope < 0) & ~bracket.zoom
            accepted = enough & (flat | at_end)
            found = either(accepted & ~done, point, found)
            lower = enough & ((best.rate == 0) | (point.value < best.value))
            best = either(lower & ~done, point, best)
            done = done | accepted
            bracket = self._narrowed(bracket, point, enough)
            rate = self._next(bracket, most)
        met = found.rate > 0
        chosen = either(met, found, best)
        return chosen, torch.where(chosen.rate > 0, chosen.rate, last)

    def _falls(self, point: Point, start: Point) -> Tensor:
        """Whether a point is low enough, by its value or, near the start's value, its slope."""
        by_value = point.value <= start.value + self.slope_rtol * point.rate * start.slope
        near = point.value <= start.value + self.approx_dec_rtol * start.value.abs()
        by_slope = point.slope <= (2 * self.slope_rtol - 1) * start.slope
        return by_value | (near & by_slope)

    def _narrowed(self, old: _Bracket, point: Point, enough: Tensor) -> _Bracket:
        """The bracket once a point has been looked at."""
        low, high, zoom = old
        worse = ~enough | ((point.value >= low.value) & (zoom | (low.rate > 0)))
        # Beyond the minimum, seen from the low end; before there is a bracket that end is behind.
        ahead = torch.where(zoom, high.rate - low.rate, 1.0)
        turned = point.slope * ahead >= 0
        new_high = either(worse, point, either(turned, low, either(zoom, high, low)))
        return _Bracket(either(worse, low, point), new_high, zoom | worse | turned)

    def _next(self, bracket: _Bracket, most: float) -> Tensor:
        """The next rate: inside the bracket, or beyond what has been looked at."""
        low, high, zoom = bracket
        left, right = torch.minimum(low.rate, high.rate), torch.maximum(low.rate, high.rate)
        margin = 0.1 * (right - left)
        inside = cubic_minimum(low, high, left + margin, right - margin)
        beyond = cubic_minimum(
            high, low, self.increase_factor * low.rate, 10 * self.increase_factor * low.rate
        )
        return torch.where(zoom, inside, torch.clamp(beyond, max=most))
