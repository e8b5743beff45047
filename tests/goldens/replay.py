"""Run a golden and compare: every parameter of every step, and the states that can be shown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .golden import Golden, Tree
from .steppers import Stepper, in_mode
from .systems import CASES, CONFORMANCE, SYSTEMS, is_known

SAME_BITS = 0.99  # the share of a bfloat16 file's parameters that must be equal


@dataclass
class Comparison:
    """Compares tensors one by one and remembers the worst.

    Attributes:
        rtol, atol: a number passes if ``|got - want| <= atol + rtol |want|``; in a state, where
            small entries are left over from large ones, ``|want|`` is the tensor's largest.
        bits: compare bfloat16 by bits: at most one unit in the last place, 99 % equal.
        worst: largest relative error, ``|got - want| / (|want| + atol / rtol)``; the largest
            absolute one where ``rtol`` is 0, the largest distance in last places with ``bits``.
        compared: how many tensors.
        failures: what was wrong, in order.
    """

    rtol: float
    atol: float
    bits: bool = False
    worst: float = 0.0
    compared: int = 0
    same: int = 0
    total: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def limit(self) -> float:
        return 1.0 if self.bits else self.rtol or self.atol

    @property
    def unit(self) -> str:
        if self.bits:
            return "distance in last places"
        return "relative error" if self.rtol else "absolute error"

    def __call__(self, name: str, got: Any, want: Any, is_state: bool = False) -> None:
        """Compare one tensor; whole numbers and booleans exactly, save single rounded signs."""
        self.compared += 1
        got, want = torch.as_tensor(got).detach(), torch.as_tensor(want)
        if got.shape != want.shape:
            self.failures.append(f"{name} has shape {tuple(got.shape)}, want {tuple(want.shape)}")
        elif self.bits and want.dtype == torch.bfloat16:
            self._bits(name, got, want)
        elif want.is_floating_point():
            want = want.double()
            size = want.abs().max().expand_as(want) if is_state and want.numel() else want.abs()
            self._numbers(name, got.double(), want, size)
        else:
            self._integers(name, got, want)

    def within(self, rtol: float, name: str, got: Any, want: Any) -> None:
        """Compare numbers by a tolerance of their own; ``worst`` is in units of the file's."""
        own = Comparison(rtol, rtol * self.atol / self.rtol)
        own(name, got, want)
        self.compared += 1
        self.failures += own.failures
        self.worst = max(self.worst, own.worst / rtol * self.rtol)

    def finish(self) -> None:
        """What can be said only at the end."""
        if not self.compared:
            self.failures.append("nothing was compared")
        if self.total and self.same < SAME_BITS * self.total:
            share = 100 * self.same / self.total
            self.failures.append(f"only {share:.2f} % of all parameters have the right bits")

    def _numbers(self, name: str, got: Tensor, want: Tensor, size: Tensor) -> None:
        if not want.numel():
            return
        equal = (got == want) | (got.isnan() & want.isnan())
        error = torch.where(equal, 0.0, (got - want).abs())
        if self.rtol:
            error = error / torch.where(equal, 1.0, size + self.atol / self.rtol)
        error = torch.where(error.isnan(), math.inf, error)
        self._note(name, error.max().item())

    def _bits(self, name: str, got: Tensor, want: Tensor) -> None:
        if got.dtype != want.dtype:
            self.failures.append(f"{name} has dtype {got.dtype}")
            return
        if want.numel():
            distance = (_rank(got) - _rank(want)).abs()
            self.same += int((distance == 0).sum())
            self.total += want.numel()
            self._note(name, distance.max().item())

    def _integers(self, name: str, got: Tensor, want: Tensor) -> None:
        """A number at rounding level may have either sign: of packed signs one bit may differ."""
        different = got.long() ^ want.long()
        allowed = 0
        if want.dtype in (torch.bool, torch.uint8):
            different = different[..., None] >> torch.arange(8) & 1
            allowed = max(1, different.numel() // 1000)
        wrong = int((different != 0).sum())
        if wrong > allowed:
            self.failures.append(f"{name} has {wrong} wrong entries or bits")

    def _note(self, name: str, error: float) -> None:
        self.worst = max(self.worst, error)
        if not error <= self.limit:
            self.failures.append(f"{name} is off: {self.unit} {error:.3g}, limit {self.limit:.3g}")


def _rank(x: Tensor) -> Tensor:
    """The place of bfloat16 numbers among all of them in order."""
    bits = x.contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


@dataclass(frozen=True)
class Result:
    """The outcome for one file; ``failures`` is empty if it passed."""

    name: str
    failures: list[str]
    compared: int = 0
    worst: float = math.nan
    limit: float = math.nan
    unit: str = "error"

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        verdict = "ok    " if self.passed else "FAILED"
        parts = []
        if self.compared:
            parts.append(f"max {self.unit} {self.worst:.2e} (limit {self.limit:.2e})")
        if self.failures:
            more = len(self.failures) - 1
            parts.append(self.failures[0] + (f" (and {more} more)" if more else ""))
        return f"{verdict} {self.name}: {'; '.join(parts)}"


def stepper_for(golden: Golden, mode: str = "pure") -> Stepper | None:
    """The stepper of a file, or None where it cannot run that way."""
    return in_mode(SYSTEMS[golden.system](golden.meta, golden.extra), mode)


def trajectory(
    golden: Golden, stepper: Stepper, reverse: bool = False
) -> Iterator[tuple[int, Tree, dict[str, dict[str, Tensor]], dict[str, Tensor]]]:
    """Step, parameters, states and other arrays to check, step by step.

    ``reverse`` gives the last leaf first.
    """

    def ordered(tree: Tree) -> Tree:
        return dict(reversed(tree.items())) if reverse else tree

    params = ordered(golden.tree("param", 0))
    state = stepper.init(params)
    checks = getattr(stepper, "checks", lambda state, params: {})
    show = getattr(stepper, "shown", lambda state: {})
    for t in range(1, golden.steps + 1):
        params, state = stepper.step(params, ordered(golden.tree("grad", t)), state, t)
        yield t, params, checks(state, params), show(state)


def compare(golden: Golden, stepper: Stepper, reverse: bool = False) -> Comparison:
    """Replay a trajectory and compare it with the recorded one."""
    meta = golden.meta
    comparison = Comparison(meta["rtol"], meta["atol"], bits=golden.holds_bits)
    for t, params, checks, shown in trajectory(golden, stepper, reverse):
        for leaf, want in golden.tree("param", t).items():
            if want is not None:
                comparison(f"param/{t}/{leaf}", params[leaf], want)
        for key, got in shown.items():
            comparison(key, got, golden.tensor(key))
        for key, leaves in golden.states(t).items():
            for leaf, want in leaves.items() if key in checks else ():
                name = f"state/{t}/{key}/{leaf}"
                if leaf in checks[key]:
                    comparison(name, checks[key][leaf], want, is_state=True)
                else:
                    comparison.failures.append(f"{name} is not shown")
    return comparison


def conform(golden: Golden) -> Comparison:
    """Compare the arrays of a file without steps."""
    comparison = Comparison(golden.meta["rtol"], golden.meta["atol"])
    if golden.system in CASES:
        for name, got, want, rtol in CASES[golden.system](golden):
            comparison.within(rtol, name, got, want)
        return comparison
    arrays = {key: golden.tensor(key) for key in golden.arrays if key != "meta"}
    for name, got, want in CONFORMANCE[golden.system](arrays):
        comparison(name, got, want)
    return comparison


def replay(golden: Golden, mode: str = "pure", reverse: bool = False) -> Result | None:
    """The outcome for a file, or None where its system cannot run in that mode."""
    if not is_known(golden):
        return Result(golden.name, ["no system of that name can be replayed"])
    if golden.is_trajectory:
        stepper = stepper_for(golden, mode)
        if stepper is None:
            return None
        found = compare(golden, stepper, reverse)
    elif mode == "pure" and not reverse:
        found = conform(golden)
    else:
        return None
    found.finish()
    return Result(golden.name, found.failures, found.compared, found.worst, found.limit, found.unit)
