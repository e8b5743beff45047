"""Why something cannot be fused."""

from __future__ import annotations


class CannotFuseError(Exception):
    """Segment of a chain has to run as torch operations.

    Attributes:
        member: dotted name of the chain member, "" for the chain as a whole.
        reason: what stands in the way, for the log and ``gx.explain``.
    """

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(f"{member}: {reason}" if member else reason)
        self.member = member
        self.reason = reason


class NotThisStepError(CannotFuseError):
    """One step has to run as the chain is; the next may be fused again."""


class CannotCompileError(Exception):
    """No graph can be compiled here: another back end has to run all of them.

    Attributes:
        reason: what stands in the way.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
