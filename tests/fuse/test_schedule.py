"""Which pass over elements writes what."""

from __future__ import annotations

import re

import pytest
import torch

import gradtx as gx
from tests.fuse.helpers import assert_same, run_both

SHAPES = {"w": (50, 61), "b": (61,), "s": (), "tasks": (300, 259)}


def moved(tx: gx.GradientTransformation) -> float:
    text = gx.explain(tx, {"w": torch.ones(512, 512)})
    (number,) = re.findall(r"per parameter: ([\d.]+) bytes", text)
    return float(number)


def test_what_the_last_pass_need_not_read_is_written_before_it() -> None:
    """Prodigy's numerator is known after the first pass: 20 bytes there, 28 in the second."""
    assert moved(gx.prodigy()) == pytest.approx(48, abs=0.1)


def test_what_the_last_pass_reads_is_written_by_it() -> None:
    """The moments under a limit on all updates: read twice, written once."""
    limited = gx.chain(gx.scale_by_adam(), gx.clip_by_global_norm(1.0), gx.scale(-0.1))
    assert moved(limited) == pytest.approx(40, abs=0.1)


def test_early_writes_give_the_same_numbers() -> None:
    fused, pure, step = run_both(gx.prodigy(), SHAPES, steps=4)
    assert step.report() == "everything is fused"
    assert_same(fused, pure)
