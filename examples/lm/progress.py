"""How far a run is: a bar on a terminal, a line every few seconds in a pipe or a log file."""

import sys
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS = 5.0  # between two lines


def progress(steps: Sequence[T], name: str, seconds: float = SECONDS) -> Iterator[T]:
    """Hand out the steps and say where the run is."""
    if sys.stderr.isatty():
        yield from tqdm(steps, desc=name, unit="step")
        return
    start = said = perf_counter()
    for done, step in enumerate(steps):
        now = perf_counter()
        if done and now - said >= seconds:
            left = (now - start) / done * (len(steps) - done)
            print(f"{name}: step {done} of {len(steps)}, {left:.0f} s left", flush=True)
            said = now
        yield step
