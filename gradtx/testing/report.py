"""What a check has found, to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .properties import Property

_WIDTH = 16  # of the column of groups


@dataclass(frozen=True)
class Finding:
    """What was found of one property.

    Attributes:
        of: the property.
        error: what it raised; None if it holds.
        expected: why it was said not to hold; None if it was to hold.
    """

    of: Property
    error: Exception | None
    expected: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it does not hold and should, or holds and was said not to."""
        return (self.error is None) != (self.expected is None)

    def __str__(self) -> str:
        what = f"{self.of.group}.{self.of.name}"
        if self.error is None:
            return f"{what}\n    holds, though it was said not to: {self.expected}"
        kind = type(self.error).__name__
        words = str(self.error).strip() or kind
        if not isinstance(self.error, AssertionError):
            words = f"{kind}: {words}"
        words = "\n    ".join(words.splitlines())
        return f"{what}: {self.of.meaning}\n    {words}"


@dataclass(frozen=True)
class Report:
    """What ``check_transform`` has found; prints as a table and, below it, what failed.

    Attributes:
        subject: how the transform prints.
        findings: one for each property that was checked.

    >>> import gradtx as gx
    >>> report = gx.testing.check_transform(gx.scale(-0.5), only=("values", "purity"))
    >>> len(report.findings), report.failed
    (8, ())
    """

    subject: str
    findings: Sequence[Finding]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """What should hold and does not, and what holds though it was said not to."""
        return tuple(f for f in self.findings if f.failed)

    def __str__(self) -> str:
        of_group: dict[str, list[Finding]] = {}
        for finding in self.findings:
            of_group.setdefault(finding.of.group, []).append(finding)
        lines = [self.subject]
        for group, found in of_group.items():
            good = sum(f.error is None and not f.failed for f in found)
            line = f"  {group:<{_WIDTH}}{good} of {len(found)}"
            said = sum(f.error is not None and not f.failed for f in found)
            lines.append(line + (f", {said} as said" if said else ""))
        failed = self.failed
        if failed:
            lines += ["", f"{len(failed)} of {len(self.findings)} failed:", *map(str, failed)]
        return "\n".join(lines)


class CheckFailed(AssertionError):  # noqa: N818
    """Some property does not hold; the message is the report.

    Attributes:
        report: all that was found.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
