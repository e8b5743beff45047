"""The check of a transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

from ..core.protocol import GradientTransformation
from .fused import RUNS
from .members import rebuild, replaced
from .properties import GROUPS, PROPERTIES, Property
from .report import CheckFailed, Finding, Report
from .subject import Subject


def check_transform(
    tx: GradientTransformation | Callable[[], GradientTransformation],
    *,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    fails: Mapping[str, str] | None = None,
    runs: str | None = None,
) -> Report:
    """Check all that gradtx promises of its own transforms on a transform of any origin.

    Small trees of random tensors go through it on the CPU: what goes in is not changed, states keep
    their dtypes, missing, empty and odd gradients are taken, bad ones refused by name, it maps,
    differentiates, compiles, saves and resumes, hyperparameters may be overridden and scheduled,
    and ``gx.fuse`` gives the same numbers. Takes seconds, most of them for ``torch.compile``.

    Args:
        tx: the transform, or a function that makes it.
        only: groups or properties to check, if not all; ``gx.testing.PROPERTIES`` lists them.
        skip: groups or properties to leave out.
        fails: properties that cannot hold, and why; one that holds after all fails the check.
        runs: what ``gx.fuse`` is to do with it: ``"fused"``, ``"partly"`` or ``"eager"``.

    Returns:
        The report.

    Raises:
        CheckFailed: something does not hold; its text is the report.
        ValueError: an unknown group, property or ``runs``.

    >>> import gradtx as gx
    >>> print(gx.testing.check_transform(gx.trace(0.9), only=("purity", "fused"), runs="fused"))
    trace(decay=0.9)
      purity          6 of 6
      fused           1 of 1
    """
    fails = fails or {}
    _refuse_unknown(only, skip, fails, runs)
    subject = Subject(_maker(tx), runs)
    findings = []
    for prop in PROPERTIES.values():
        named = {prop.name, prop.group}
        if (not only or named & set(only)) and not named & set(skip):
            findings.append(_find(prop, subject, fails.get(prop.name)))
    report = Report(repr(subject.tx), tuple(findings))
    if report.failed:
        raise CheckFailed(report) from report.failed[0].error
    return report


def _find(prop: Property, subject: Subject, expected: str | None) -> Finding:
    try:
        prop.check(subject)
    except Exception as error:
        return Finding(prop, error, expected)
    return Finding(prop, None, expected)


def _maker(
    tx: GradientTransformation | Callable[[], GradientTransformation],
) -> Callable[[], GradientTransformation]:
    """What makes the transform anew, all its members included."""
    if not isinstance(tx, GradientTransformation):
        return tx
    return lambda: rebuild(tx, _again)


def _again(member: GradientTransformation) -> GradientTransformation:
    return replaced(member) if dataclasses.is_dataclass(member) else member


def _refuse_unknown(
    only: Collection[str], skip: Collection[str], fails: Mapping[str, str], runs: str | None
) -> None:
    known = {*PROPERTIES, *GROUPS}
    for option, names in (("only", only), ("skip", skip), ("fails", fails)):
        unknown = sorted(set(names) - (set(PROPERTIES) if option == "fails" else known))
        if isinstance(names, str) or unknown:
            raise ValueError(
                f"check_transform: {option} names {names if isinstance(names, str) else unknown}; "
                f"there are the groups {list(GROUPS)} and the properties {sorted(PROPERTIES)}"
            )
    if runs is not None and runs not in RUNS:
        raise ValueError(f"check_transform: runs must be one of {RUNS}, got {runs!r}")
