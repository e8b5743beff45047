from contextlib import redirect_stdout
from io import StringIO

import pytest

TINY = ("--steps", "15", "--layers", "1", "--width", "32")


@pytest.fixture(scope="module")
def lines():
    from functional_loop import main

    with redirect_stdout(StringIO()) as printed:
        main(TINY)
    return printed.getvalue().splitlines()


@pytest.fixture(scope="module")
def losses(lines):
    """Map each row's name to its first and last loss."""
    return {row[:-24].strip(): tuple(map(float, row.split()[-2:])) for row in lines[2:7]}


def test_one_row_for_the_model_alone_and_one_per_member(losses):
    assert list(losses) == ["alone, seed 0", *(f"ensemble, seed {seed}" for seed in range(4))]


def test_all_losses_fall(losses):
    for first, last in losses.values():
        assert last < first - 0.5


def test_a_member_follows_the_model_trained_alone(losses):
    assert losses["ensemble, seed 0"] == pytest.approx(losses["alone, seed 0"], abs=1e-3)


def test_members_differ(losses):
    assert len({losses[f"ensemble, seed {seed}"] for seed in range(4)}) == 4


def test_both_times_are_printed(lines):
    assert lines[-1].startswith("alone ")
    assert "; 4 at once " in lines[-1]
