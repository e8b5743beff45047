"""Python's garbage collector while the library is imported."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collections inside.

    All that an import makes stays, so a collection finds nothing; but one of them looks through
    all that torch has made, which takes a fifth of our import.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
