"""The table of operators is complete."""

from gradtx.ops import OPS

from .rows import SAMPLES


def test_every_pure_operator_has_a_row():
    assert {name for name, op in OPS.items() if not op.mutates} == set(SAMPLES)
