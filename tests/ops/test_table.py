"""The table of operators is complete."""

from gradtx.ops import OPS

from .rows import SAMPLES


def test_every_operator_has_a_row():
    assert set(OPS) == set(SAMPLES)
