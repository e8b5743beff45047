"""Options that are objects or functions, and checkpoints of earlier versions."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradtx as gx
from gradtx.optim.saved_options import SAFE, to_saved

from .cases import assert_equal, run
from .test_option_changes import params_, saved

C, S = gx.codecs, gx.subspace
OBJECTS: list[tuple[str, dict[str, Any]]] = [
    *[
        ("AdamAdv", {"codec": codec})
        for codec in (
            C.blockwise(8, min_size=0),
            C.symmetric(8),
            C.affine(8, include_zero=True),
            C.dynamic8(min_size=0),
            C.affine_rows(8),
            C.rank1(),
            C.dense(torch.bfloat16),
        )
    ],
    ("LDAdamW", {"rank": 2, "error_codec": torch.bfloat16}),
    ("GaLoreAdamW", {"rank": 2, "proj": S.two_sided(S.svd(2, clip_rank=True))}),
    ("APOLLO", {"rank": 2, "proj": S.gaussian(2, clip_rank=True)}),
    ("AdamSNSM", {"rank": 2, "proj_type": S.top_norm(2, clip_rank=True)}),
    ("GaLoreAdamW", {"rank": 2, "where": lambda info: info.ndim == 2}),
    ("Adopt", {"clip": lambda step: step**0.25}),
    ("Adopt", {"clip": gx.schedules.constant(0.5)}),
    ("AdamW", {"lr": np.float64(0.1), "betas": (np.float64(0.5), 0.9)}),
    ("Muon", {"split_sizes": [2, 4], "ns_dtype": torch.bfloat16}),
]


@pytest.mark.parametrize(("name", "options"), OBJECTS)
def test_files_hold_every_option(name: str, options: dict[str, Any]) -> None:
    params = params_()
    opt = getattr(gx.optim, name)(params, **options)
    run(opt, params, range(2))
    other = getattr(gx.optim, name)(q := params_(params), **options)
    other.load_state_dict(saved(opt))
    run(opt, params, range(2, 4))
    run(other, q, range(2, 4))
    assert_equal(params, q)


def test_numbers_of_numpy_are_saved_as_pythons() -> None:
    group = {"lr": np.float32(0.5), "betas": (np.float64(0.9), np.array(0.5)), "initial_lr": 1}
    plain = to_saved(group | {"mine": {1}}, ["lr", "betas"])
    assert type(plain["lr"]) is float
    assert plain["betas"] == (0.9, 0.5)
    assert list(map(type, plain["betas"])) == [float, float]
    assert plain["mine"] == {1}  # entries that are no options are the user's


def test_a_function_must_be_there_when_it_is_loaded() -> None:
    params = params_()
    opt = gx.optim.Adopt(params, clip=lambda step: step**0.25)
    run(opt, params, range(1))
    given = saved(opt)
    other = gx.optim.Adopt(params_())
    with pytest.raises(
        ValueError, match=r"Adopt: option 'clip' of group 0 was the function .*<lambda>.* got 0\.25"
    ):
        other.load_state_dict(given)
    assert not other.state
    assert other.param_groups[0]["clip"] == 0.25


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("GaLoreAdamW", "where", gx.masks.matrices),
        ("Muon", "matrix", gx.masks.matrices),
        ("AdamAdv", "codec", C.symmetric(8)),
        ("APOLLO", "proj", S.gaussian(2, clip_rank=True)),
        ("Adopt", "clip", gx.schedules.constant(0.5)),
    ],
)
def test_objects_come_back_where_the_optimizer_has_others(
    name: str, option: str, value: Any
) -> None:
    """Named masks, codecs, projectors and schedules: only functions must be there already."""
    params = params_()
    opt = getattr(gx.optim, name)(params, **{option: value})
    run(opt, params, range(2))
    other = getattr(gx.optim, name)(q := params_(params))
    other.load_state_dict(saved(opt))
    assert other.param_groups[0][option] == value
    run(opt, params, range(2, 4))
    run(other, q, range(2, 4))
    assert_equal(params, q)


@pytest.mark.parametrize(
    "value",
    [
        gx.masks.vectors,
        gx.schedules.warmup_cosine_decay(0.0, 1.0, 2, 10),
        gx.schedules.join((gx.schedules.constant(1.0), gx.schedules.linear(1.0, 0.0, 4)), [3]),
        C.rotated(C.affine_rows(8)),
        S.staggered(4),
        gx.compressors.top_k(0.1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_options_are_taken_from_files(value: Any) -> None:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == value


def test_every_kind_of_object_is_known() -> None:
    for room in (gx.codecs, gx.schedules, gx.subspace, gx.compressors):
        bases = {getattr(room, n, None) for n in ("Codec", "Schedule", "Projector", "Compressor")}
        kinds = tuple(base for base in bases if base is not None)
        for name in room.__all__:
            thing = getattr(room, name)
            if isinstance(thing, type) and issubclass(thing, kinds) and thing not in kinds:
                assert thing in SAFE, name


def old_checkpoints() -> list[dict[str, Any]]:
    """Checkpoints of version 0.1.0: class, options, parameters and what ``state_dict`` gave."""
    data = zlib.decompress((Path(__file__).parent / "old_checkpoints.pt.z").read_bytes())
    loaded: list[dict[str, Any]] = torch.load(io.BytesIO(data), weights_only=True)
    return loaded


OLD = old_checkpoints()


@pytest.mark.parametrize("old", OLD, ids=[f"{i}-{old['name']}" for i, old in enumerate(OLD)])
def test_checkpoints_of_earlier_versions_load(old: dict[str, Any]) -> None:
    params = [torch.nn.Parameter(p.clone()) for p in old["params"]]
    opt = getattr(gx.optim, old["name"])(params, fused=False, **old["options"])
    opt.load_state_dict(old["saved"])
    assert flat(opt.state_dict()["state"]) == flat(old["saved"]["state"])
    run(opt, params, range(3, 4))
    assert all(bool(torch.isfinite(p).all()) for p in params)


def flat(nested: Any, path: str = "") -> dict[str, Any]:
    if isinstance(nested, dict):
        return {k: v for name, x in nested.items() for k, v in flat(x, f"{path}/{name}").items()}
    return {path: (nested.dtype, nested.tolist())}


def _bad(damage: Callable[[dict[str, Any]], None]) -> Any:
    params = params_()
    opt = gx.optim.ScheduleFreeAdamW(params)
    run(opt, params, range(2))
    given = saved(opt)
    damage(given["state"][0]["schedule_free"])
    return given


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            "step",
            torch.tensor(2.0),
            r"step is torch\.float32 of shape \(\), needed is torch\.int32",
        ),
        ("step", torch.tensor(2), r"step is torch\.int64 of shape \(\), needed is torch\.int32"),
        ("step", 2, r"step is a int, needed is torch\.int32"),
        ("z", torch.zeros(5, 6), r"z is torch\.float32 of shape \(5, 6\), needed is .*\(6, 5\)"),
        ("z", torch.zeros(6, 5, dtype=torch.int32), r"z is torch\.int32 .* needed is .*float32"),
    ],
)
def test_damaged_states_are_refused_with_the_leaf(field: str, value: Any, words: str) -> None:
    given = _bad(lambda state: state.update({field: value}))
    opt = gx.optim.ScheduleFreeAdamW(params_())
    with pytest.raises(ValueError, match=rf"parameter '0' does not fit: schedule_free\.{words}"):
        opt.load_state_dict(given)
    assert not opt.state
