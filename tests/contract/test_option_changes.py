"""Options that choose the members of a chain, changed between steps, and the state that follows."""

from __future__ import annotations

import copy
import io
import logging
import re
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.optim import places

from .cases import assert_equal, run
from .changes import base, changes, classes, is_taken

# Those that are named in the design of the state: members and parts on and off, forms of all kinds.
QUICK = {
    ("SGD", "momentum"),
    ("SGD", "dampening"),
    ("RMSprop", "momentum"),
    ("RMSprop", "centered"),
    ("AdamW", "amsgrad"),
    ("CAdamW", "bias_correction"),
    ("AdamAdv", "ademamix"),
    ("AdamAdv", "codec"),
    ("AdamAdv", "orthograd"),
    ("AdoptAdv", "clip"),
    ("AdoptAdv", "ademamix"),
    ("APOLLOMini", "scale_front"),
    ("LionAdv", "clip_threshold"),
    ("LDAdamW", "error_feedback"),
    ("GaLoreAdamW", "where"),
    ("Muon", "matrix"),
    ("ProdigyAdv", "slice_p"),
    ("ScheduleFreeAdamW", "inner_momentum"),
    ("ACDC", "momentum"),
    ("MFAC", "window"),
}
# The chain does not take these together; both ways fail with its own words.
IMPOSSIBLE = re.compile(
    r"scale_by_low_rank_ratio: leaf .* side 'left'|on_refresh='rotate' does not"
)
SHAPES = ((6, 5), (7,), ())


def named() -> list[Any]:
    return [
        pytest.param(
            *change,
            id=f"{change[0]}-{change[1]}-{i}",
            marks=[] if change[:2] in QUICK else pytest.mark.slow,
        )
        for i, change in enumerate(changes())
    ]


def params_(like: Any = None) -> list[torch.nn.Parameter]:
    if like is not None:
        return [torch.nn.Parameter(p.detach().clone()) for p in like]
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]


def saved(opt: torch.optim.Optimizer) -> Any:
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("name", "option", "before", "after"), named())
def test_state_follows_and_every_checkpoint_loads(
    name: str, option: str, before: Any, after: Any
) -> None:
    if not (is_taken(name, option, before) and is_taken(name, option, after)):
        pytest.skip(f"{name} refuses one of these values")

    def make(params: Any, value: Any) -> torch.optim.Optimizer:
        return classes()[name](params, fused=False, **{**base(name, option), option: value})

    params = params_()
    try:
        opt = make(params, before)
        run(opt, params, range(2))
        opt.param_groups[0][option] = after
        early = make(q := params_(params), after)
        early.load_state_dict(saved(opt))  # before the step that uses the new value
        for p, kept in ((params, opt), (q, early)):
            run(kept, p, range(2, 3))
    except ValueError as error:
        if IMPOSSIBLE.search(str(error)):
            return
        raise
    assert_equal(params, q)
    late = make(q := params_(params), after)
    late.load_state_dict(saved(opt))
    run(late, q, range(3, 5))
    run(opt, params, range(3, 5))
    assert_equal(params, q)
    opt.load_state_dict(saved(opt))
    for p, kept in ((params, opt), (q, late)):
        run(kept, p, range(5, 6))
    assert_equal(params, q)
    # Back again: what was loaded or copied just before knows what made its state.
    late.load_state_dict(saved(opt))
    twin, others = copy.deepcopy((opt, params))
    for p, kept in ((params, opt), (q, late), (others, twin)):
        kept.param_groups[0][option] = before
        run(kept, p, range(6, 8))
    assert_equal(params, q)
    assert_equal(params, others)
    assert all(bool(torch.isfinite(p).all()) for p in params)


def adamw(**options: Any) -> tuple[list[torch.nn.Parameter], gx.optim.AdamW]:
    params = params_()
    opt = gx.optim.AdamW(params, lr=0.1, **options)
    run(opt, params, range(3))
    return params, opt


def test_what_both_forms_have_goes_on() -> None:
    params, opt = adamw()
    before = {k: v.clone() for k, v in opt.state[params[0]]["scale_by_adam"].items()}
    opt.param_groups[0]["amsgrad"] = True
    opt.param_groups[0]["lr"] = 0.0
    for p in params:
        p.grad = torch.zeros_like(p)
    opt.step()
    after = opt.state[params[0]]["scale_by_adam"]
    assert after["step"] == before["step"] + 1
    torch.testing.assert_close(after["nu"], 0.999 * before["nu"])
    torch.testing.assert_close(after["nu_max"], after["nu"])
    torch.testing.assert_close(after["mu"], 0.9 * before["mu"])
    opt.param_groups[0]["amsgrad"] = False
    opt.step()
    assert list(opt.state[params[0]]["scale_by_adam"]) == ["step", "mu", "nu"]
    assert opt.state[params[0]]["scale_by_adam"]["step"] == before["step"] + 2


# Members that stand elsewhere after a change: where they kept their state before, and after it.
ELSEWHERE: list[tuple[str, str, Any, str, str]] = [
    ("AdamAdv", "orthograd", True, "quotient", "as_gradients"),
    ("AdoptAdv", "orthograd", True, "scale_by_adopt", "as_gradients.scale_by_adopt"),
    ("LionAdv", "clip_threshold", 1.0, "scale_by_lion", "as_gradients"),
    ("AdoptAdv", "ademamix", True, "first_moment", "parallel.branch_0.first_moment"),
    ("AdamAdv", "bias_on", "numerator", "undo_bias", "quotient.numerator.undo_bias"),
    ("APOLLOMini", "scale_front", True, "masked", "masked_1"),
]


def entry(state: Any, path: str) -> Any:
    for key in path.split("."):
        state = state.get(key, {})
    return state


@pytest.mark.parametrize(("name", "option", "value", "was", "now"), ELSEWHERE)
def test_members_that_stand_elsewhere_go_on(
    name: str, option: str, value: Any, was: str, now: str, caplog: pytest.LogCaptureFixture
) -> None:
    params = params_()
    opt = classes()[name](params, **base(name))
    values = {was: opt.param_groups[0][option], now: value}
    for here, there in ((was, now), (now, was)):
        run(opt, params, range(2))
        kept = [dict(places.flattened(entry(opt.state[p], here))) for p in params]
        assert any(kept)
        opt.param_groups[0][option] = values[there]
        saved_states = opt.state_dict()["state"]  # follows, and changes no value
        for i, before in enumerate(kept):
            assert not entry(saved_states[i], here)
            found = dict(places.flattened(entry(saved_states[i], there)))
            assert all(torch.equal(found[path], x) for path, x in before.items())
    run(opt, params, range(2, 4))
    assert not caplog.records


def test_of_two_members_of_one_class_neither_is_taken_for_the_other() -> None:
    """One place before and two after: what goes where cannot be known, so both begin."""
    stored = {"a": {"trace": torch.ones(2)}}
    fresh = {"b": {"trace": torch.zeros(2)}, "c": {"trace": torch.zeros(2)}}
    before = gx.named_chain(("a", gx.trace(0.9)))
    now = gx.named_chain(("b", gx.trace(0.9)), ("c", gx.trace(0.5)))
    assert places.moved(before, now, stored, fresh) == stored
    both = {**stored, "x": {"trace": torch.full((2,), 2.0)}}
    before = gx.named_chain(("a", gx.trace(0.9)), ("x", gx.trace(0.9)))
    moved = places.moved(before, now, both, fresh)
    assert list(moved) == ["b", "c"]
    assert moved["b"]["trace"] is stored["a"]["trace"]


def test_what_cannot_go_on_starts_anew_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    params = params_()
    opt = gx.optim.AdamAdv(params, lr=0.1)
    run(opt, params, range(3))
    opt.param_groups[0]["codec"] = gx.codecs.blockwise(8, min_size=0)
    fresh = gx.optim.AdamAdv(q := params_(params), lr=0.1, codec=opt.param_groups[0]["codec"])
    with caplog.at_level(logging.WARNING, logger="gradtx"):
        run(opt, params, range(3, 5))
    run(fresh, q, range(3, 5))
    assert_equal(params, q)
    (record,) = caplog.records
    assert record.getMessage() == (
        "AdamAdv: codec from None to blockwise(min_size=0) changes what is kept for parameters "
        "0, 1, 2: their state starts anew"
    )


def test_codes_of_another_codec_are_not_read() -> None:
    """Codes that have the same shapes and dtypes mean something else."""
    params = params_()
    opt = gx.optim.AdamAdv(params, codec=gx.codecs.blockwise(8, min_size=0))
    run(opt, params, range(3))
    opt.param_groups[0]["codec"] = gx.codecs.dynamic8(min_size=0)
    fresh = gx.optim.AdamAdv(q := params_(params), codec=gx.codecs.dynamic8(min_size=0))
    run(opt, params, range(3, 5))
    run(fresh, q, range(3, 5))
    assert_equal(params, q)


def test_nothing_has_changed_when_the_step_fails() -> None:
    params, opt = adamw()
    states, values = dict(opt.state), params_(params)
    kept = {k: v.clone() for k, v in opt.state[params[0]]["scale_by_adam"].items()}
    opt.param_groups[0]["amsgrad"] = True
    params[1].grad = torch.ones(7).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        opt.step()
    assert all(opt.state[p] is state for p, state in states.items())
    assert_equal(params, values)
    params[1].grad = None
    opt.param_groups[0]["amsgrad"] = False
    saved(opt)
    assert {k: v.tolist() for k, v in opt.state[params[0]]["scale_by_adam"].items()} == {
        k: v.tolist() for k, v in kept.items()
    }


def test_one_group_of_two_changes() -> None:
    params = params_()
    opt = gx.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=0.1, momentum=0.9)
    run(opt, params, range(2))
    opt.param_groups[0]["momentum"] = 0.0
    run(opt, params, range(2, 3))
    other = gx.optim.SGD(
        [{"params": (q := params_(params))[:1], "momentum": 0.0}, {"params": q[1:]}],
        lr=0.1,
        momentum=0.9,
    )
    other.load_state_dict(saved(opt))  # the sum that is not used now is kept for later
    for o, p in ((opt, params), (other, q)):
        o.param_groups[0]["momentum"] = 0.5
        run(o, p, range(3, 5))
    assert_equal(params, q)


def test_shared_state_of_parameters_without_a_gradient_follows() -> None:
    params = params_()
    opt = gx.optim.ProdigyAdv(params, d0=1e-2)
    run(opt, params, range(3))
    opt.param_groups[0]["slice_p"] = 2
    params[2].grad = None
    for p in params[:2]:
        p.grad = torch.ones_like(p)
    opt.step()
    assert {float(opt.state[p]["scale_by_prodigy"]["shared"]["step"]) for p in params} == {1.0}
    run(opt, params, range(4, 6))


def test_schedulers_change_options_that_choose_members() -> None:
    params, others = params_(), params_()
    opt = gx.optim.SGD(params, lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(others, lr=0.1, momentum=0.9)
    options = {"base_momentum": 0.0, "max_momentum": 0.9, "step_size_up": 2, "cycle_momentum": True}
    both = [
        (o, p, torch.optim.lr_scheduler.CyclicLR(o, 0.1, 0.2, **options))
        for o, p in ((opt, params), (theirs, others))
    ]
    for step in range(6):
        for o, p, scheduler in both:
            run(o, p, range(step, step + 1))
            scheduler.step()
        saved(opt)
        assert all(bool(torch.isfinite(p).all()) for p in params)


def test_copies_have_the_form_of_their_options() -> None:
    params, opt = adamw()
    opt.param_groups[0]["amsgrad"] = True
    twin, others = copy.deepcopy((opt, params))
    run(opt, params, range(3, 5))
    run(twin, others, range(3, 5))
    assert_equal(params, others)


def test_steps_in_backward_follow() -> None:
    params = params_()
    opt = gx.optim.AdamW(params, lr=0.1)
    with gx.optim.step_in_backward(opt):
        for amsgrad in (False, True, False):
            opt.param_groups[0]["amsgrad"] = amsgrad
            sum(p.square().sum() for p in params).backward()  # type: ignore[union-attr]
            opt.zero_grad()
            assert ("nu_max" in opt.state[params[0]]["scale_by_adam"]) is amsgrad
            saved(opt)
