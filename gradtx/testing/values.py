"""A transform is a value: it is pickled, copied, compared and printed."""

from __future__ import annotations

import copy
import pickle

from .claims import require, require_same
from .subject import Subject, holds_for_all
from .trees import run


@holds_for_all
def copies_are_equal(s: Subject) -> None:
    """A pickled, a copied and a remade transform equal the first, print and run alike."""
    tx = s.tx
    twins = {
        "pickled": pickle.loads(pickle.dumps(tx)),
        "copied": copy.deepcopy(tx),
        "made again": s.make(),
    }
    for how, twin in twins.items():
        require(twin == tx, f"{how}, it is not equal: {twin!r}")
        require(hash(twin) == hash(tx), f"{how}, it has another hash")
        require(repr(twin) == repr(tx), f"{how}, it prints as {twin!r}")
    for how in ("pickled", "copied"):
        require_same(run(twins[how]), s.plain, f"the run of what was {how}")


@holds_for_all
def repr_reads_well(s: Subject) -> None:
    """What is printed is short and shows no addresses."""
    text = repr(s.tx)
    require(" object at 0x" not in text, f"an address is printed: {text}")
    require(text.isprintable() and len(text) < 600, f"it prints {len(text)} characters: {text}")
