"""The settings in which a step is measured: cores together, apart, or one of them busy.

Where two cores do not share a last-level cache (chiplets, sockets, a virtual machine whose cores
were placed so) memory is faster and what one core has read is far from the other. A process cannot
ask for it, but AdamW's own time tells: it does little more than move 28 bytes a parameter.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

APART_BELOW = 0.38  # nanoseconds per parameter of a step of fused AdamW, on two cores

Pair = tuple[float, float]  # seconds of a step of AdamW, and of a candidate beside it


@dataclass
class Setting:
    """What was measured in one setting: medians of the ratio and of both times."""

    ratio: float
    milliseconds: float
    adamw_milliseconds: float
    samples: int

    @classmethod
    def of(cls, pairs: list[Pair]) -> Setting:
        """The medians of some pairs."""
        return cls(
            statistics.median(ours / base for base, ours in pairs),
            1e3 * statistics.median(ours for _, ours in pairs),
            1e3 * statistics.median(base for base, _ in pairs),
            len(pairs),
        )


def by_setting(quiet: list[Pair], busy: list[Pair], count: int) -> dict[str, Setting]:
    """Pairs by the setting that they were measured in.

    Args:
        quiet: measured while nothing else ran.
        busy: measured beside ``busy_core``.
        count: of parameters.
    """
    apart = [pair for pair in quiet if 1e9 * pair[0] / count < APART_BELOW]
    together = [pair for pair in quiet if pair not in apart]
    settings = {"together": together, "apart": apart, "one core busy": busy}
    return {name: Setting.of(pairs) for name, pairs in settings.items() if pairs}


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """While a process of its own keeps the last core busy."""
    core = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
