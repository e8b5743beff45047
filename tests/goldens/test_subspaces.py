"""Trajectories whose subspaces the library finds itself."""

from __future__ import annotations

import dataclasses

import pytest

from .golden import Golden
from .replay import compare
from .systems import SYSTEMS
from .test_goldens import TRAJECTORIES, name

# Where no random numbers take part, and rounding is not magnified.
OWN = [
    golden
    for golden in TRAJECTORIES
    if golden.system in ("galore", "apollo", "subspace_momentum")
    and not any(word in golden.name for word in ("8bit", "random", "uniform", "srht"))
    and not any(h.get("proj") == "random" for h in golden.meta["per_leaf"].values())
]


@dataclasses.dataclass(frozen=True)
class _Own(Golden):
    """A file with the tolerances that it says hold for own subspaces, for parameters alone."""

    @property
    def meta(self):
        meta = super().meta
        return {**meta, "rtol": meta["own_basis_rtol"], "atol": meta["own_basis_atol"]}

    def states(self, t):
        return {}


@pytest.mark.skipif(not OWN, reason="no goldens")
@pytest.mark.parametrize("golden", OWN, ids=name)
def test_own_subspaces(golden):
    own = _Own(golden.path)
    comparison = compare(own, SYSTEMS[own.system](own.meta, {}))
    comparison.finish()
    assert not comparison.failures, comparison.failures[:3]
