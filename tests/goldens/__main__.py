"""Replay goldens: ``python -m tests.goldens PATH...``, files or folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .golden import Golden, find
from .replay import Result, replay


def outcome(golden: Golden) -> Result:
    """The result for a file; an exception is a failure of that file only."""
    try:
        result = replay(golden)
        assert result is not None
        return result
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return Result(golden.name, [text])


def main(argv: list[str] | None = None) -> int:
    """Print a line per case and the totals; 0 if there were cases and all passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.goldens", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    try:
        goldens = find(parser.parse_args(argv).paths)
    except FileNotFoundError as error:
        parser.error(str(error))
    results = []
    for golden in goldens:
        results.append(outcome(golden))
        print(results[-1], flush=True)
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return int(failed > 0 or not results)


if __name__ == "__main__":
    sys.exit(main())
