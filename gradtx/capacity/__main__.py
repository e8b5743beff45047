"""``python -m gradtx.capacity``: effective bits of every format, codec and compressor."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import format_rows, save_picture, table
from .table import SAMPLES


def main(argv: list[str] | None = None) -> None:
    """Print the table, and draw it if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m gradtx.capacity",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--samples", type=int, default=SAMPLES, help="numbers drawn")
    parser.add_argument("--seed", type=int, default=0, help="seed of the numbers")
    parser.add_argument("--picture", type=Path, help="file to draw effective bits in")
    args = parser.parse_args(argv)
    rows = table(samples=args.samples, seed=args.seed)
    print(format_rows(rows))
    if args.picture:
        save_picture(rows, args.picture)
        print(f"wrote {args.picture}")


if __name__ == "__main__":
    main()
