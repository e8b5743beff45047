"""Every option of every class with wrong values: refused when the optimizer is made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.optim.recipe_optimizer import RecipeOptimizer

BAD: tuple[Any, ...] = (
    *(math.nan, -1, 2.5, True, None, "x", (), [], {}, object()),
    *((0.9,), (0.9, math.nan), (0.9, 1.0)),
)
CLASSES = [
    cls
    for cls in vars(gx.optim).values()
    if isinstance(cls, type) and issubclass(cls, RecipeOptimizer) and cls is not RecipeOptimizer
]
_RAW = re.compile("not supported between|unpack|not iterable|not callable|out of range")


def refusal(make: Callable[[], Any]) -> str | None:
    """The words of the error, None if there is none."""
    try:
        make()
    except (TypeError, ValueError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_wrong_values(cls: Any) -> None:
    params = [torch.nn.Parameter(torch.ones(4, 3))]
    for name in cls.signature:
        for bad in BAD:
            error = refusal(partial(cls, params, **{name: bad}))
            if error is not None:
                assert re.match(r"[\w.]+: ", error), (name, bad, error)
                assert not _RAW.search(error), (name, bad, error)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdEMAMix", {"t_alpha": math.nan}),
        ("Adopt", {"clip": math.nan}),
        ("ScheduleFreeAdamW", {"betas": (0.9, 1.0)}),
        ("AdamAdv", {"betas": ()}),
        ("AdamW", {"betas": ()}),
        ("Adafactor", {"eps": (None,)}),
        ("Muon", {"ns_dtype": "bfloat16"}),
        ("DCTAdamW", {"eps": 0.0}),
    ],
)
def test_values_that_gave_nan_or_failed_inside(name: str, options: dict[str, Any]) -> None:
    option = next(iter(options))
    with pytest.raises((TypeError, ValueError), match=rf"{option.removeprefix('ns_')}|b2"):
        getattr(gx.optim, name)([torch.nn.Parameter(torch.ones(4, 3))], **options)


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("MicroAdam", {"density": 2.0}, "MicroAdam: block_top_k: density must be in"),
        ("AdamW8bit", {"block_size": 0}, "AdamW8bit: blockwise: block_size must be an integer"),
        ("KLShampoo", {"eps": torch.tensor(math.nan)}, "KLShampoo: .*eps must be"),
        ("GaLoreAdamW", {"update_proj_gap": 2**40}, "GaLoreAdamW: .*every must be at most 2147"),
        ("Adam", {"amsgrad": torch.ones(2)}, "Adam: amsgrad must be True or False"),
    ],
)
def test_what_a_member_refuses_names_the_class(name: str, option: Any, words: str) -> None:
    leaf = torch.nn.Parameter(torch.ones(4, 4))
    with pytest.raises((TypeError, ValueError), match=f"^{words}"):
        getattr(gx.optim, name)([leaf], **option)
    opt = getattr(gx.optim, name)([leaf])
    opt.param_groups[0].update(option)
    leaf.grad = torch.ones(4, 4)
    with pytest.raises((TypeError, ValueError), match=f"^{words}"):
        opt.step()
    assert torch.equal(leaf, torch.ones(4, 4))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda p: gx.optim.GaLoreAdamW8bit([p], block_size=2**62).step(), "dynamic8: block_size"),
        (lambda p: gx.optim.AdamW8bit([p], block_size=2**63).step(), "blockwise: block_size"),
        (lambda p: gx.codecs.affine(8, block_size=2**62), "affine: block_size"),
        (lambda p: gx.optim.Muon([p], num_heads=2**62).step(), "blocks do not fit to its 6 rows"),
    ],
)
def test_sizes_past_what_memory_counts_are_refused(step: Callable[[Any], Any], words: str) -> None:
    """Not in the middle of a step, with an overflow or without memory."""
    p = torch.nn.Parameter(torch.ones(6, 5))
    p.grad = torch.ones(6, 5)
    with pytest.raises(ValueError, match=words):
        step(p)
    assert torch.equal(p, torch.ones(6, 5))
