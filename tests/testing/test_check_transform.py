"""``check_transform`` finds what is wrong with a transform, and says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.testing import GROUPS, PROPERTIES, CheckFailed, check_transform

LIGHT = tuple(group for group in GROUPS if group not in ("fused", "compiled"))


class MaxState(NamedTuple):
    largest: Tensor


@dataclass(frozen=True)
class running_max(gx.LeafTransform):
    """A sound one."""

    eps: gx.Hyper = gx.dynamic(1e-3, within="[1e-6, inf)")

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> MaxState:
        return MaxState(gx.tree.accumulator(torch.zeros_like(p)))

    def update_leaf(self, u: Tensor, s: MaxState, p: Any, h: Any) -> tuple[Tensor, MaxState]:
        largest = torch.maximum(s.largest, u.abs())
        return u / (largest + h.eps), MaxState(largest)


def test_a_sound_transform() -> None:
    report = check_transform(running_max(), runs="fused")
    assert {f.of.name for f in report.findings} == set(PROPERTIES)
    assert str(report).splitlines()[0] == "running_max()"
    assert "failed" not in str(report)


@dataclass(frozen=True)
class one_letter(gx.LeafTransform):
    """A name to which no misspelling is like."""

    b: gx.Hyper = gx.dynamic(0.5, within="(0, 2]")

    def update_leaf(self, u: Tensor, s: Any, p: Any, h: Any) -> tuple[Tensor, Any]:
        return h.b * u, s


def test_names_of_one_letter() -> None:
    check_transform(one_letter(), only=("intervals", "overrides"))


@dataclass(frozen=True)
class writes(running_max):
    """Into its state."""

    def update_leaf(self, u: Tensor, s: MaxState, p: Any, h: Any) -> tuple[Tensor, MaxState]:
        s.largest.copy_(torch.maximum(s.largest, u.abs()))
        return u / (s.largest + h.eps), s


@dataclass(frozen=True)
class draws(running_max):
    """Numbers from the global generator."""

    def update_leaf(self, u: Tensor, s: MaxState, p: Any, h: Any) -> tuple[Tensor, MaxState]:
        return super().update_leaf(u + h.eps * torch.randn_like(u), s, p, h)


@dataclass(frozen=True)
class follows_the_default(running_max):
    """The default dtype, where a state is made."""

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> MaxState:
        return MaxState(torch.zeros(p.shape))


@dataclass(frozen=True)
class branches(running_max):
    """On a value."""

    def update_leaf(self, u: Tensor, s: MaxState, p: Any, h: Any) -> tuple[Tensor, MaxState]:
        return super().update_leaf(-u if u.sum() > 0 else u, s, p, h)


@dataclass(frozen=True)
class roots(running_max):
    """With a derivative that is infinite at zero."""

    def update_leaf(self, u: Tensor, s: MaxState, p: Any, h: Any) -> tuple[Tensor, MaxState]:
        return (u * u).sqrt() + h.eps * u, s


@dataclass(frozen=True)
class forgets_its_option(running_max):
    """And so does not change with it."""

    def update_leaf(self, u: Tensor, s: MaxState, p: Any, h: Any) -> tuple[Tensor, MaxState]:
        return 2 * u, s


@dataclass(frozen=True)
class replaces_nan(running_max):
    """By zero."""

    def update_leaf(self, u: Tensor, s: MaxState, p: Any, h: Any) -> tuple[Tensor, MaxState]:
        return super().update_leaf(torch.where(u > 0, u, u.clamp(-9, 0).nan_to_num()), s, p, h)


@dataclass(frozen=True)
class divides(running_max):
    """Zero by zero."""

    def update_leaf(self, u: Tensor, s: MaxState, p: Any, h: Any) -> tuple[Tensor, MaxState]:
        return h.eps * u / u.abs(), s


@dataclass(frozen=True)
class takes_anything(gx.GradientTransformation):
    """Without a look at trees, shapes and kinds of leaves."""

    def init(self, params: Any) -> Any:
        return ()

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return gx.tree.map(lambda u: u * 0.5, updates), state


@dataclass(frozen=True)
class keeps_parameters(running_max):
    """Themselves in its state."""

    def init_leaf(self, p: Tensor, info: gx.LeafInfo) -> MaxState:
        return MaxState(p)


class Opaque(takes_anything):
    """Prints as an address and is equal to nothing."""

    __repr__ = object.__repr__
    __eq__ = object.__eq__
    __hash__ = object.__hash__


WRONG: dict[Callable[[], gx.GradientTransformation], set[str]] = {
    writes: {"inputs_untouched"},
    draws: {"inputs_untouched", "deterministic"},
    follows_the_default: {"settings", "float64"},
    branches: {"vmap"},
    roots: {"meta_gradients_are_finite"},
    forgets_its_option: {"override_has_an_effect"},
    replaces_nan: {"nan_in_nan_out"},
    divides: {"zero_gradients"},
    takes_anything: {
        *("mismatched_tree_is_an_error", "mismatched_shape_is_an_error"),
        *("complex_gradient_is_an_error", "integer_gradient_is_an_error"),
    },
    keeps_parameters: {"state_owns_its_memory"},
    Opaque: {"copies_are_equal", "repr_reads_well"},
}


@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_what_is_wrong_is_found(make: Callable[[], gx.GradientTransformation]) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_transform(make(), only=LIGHT)
    found = {f.of.name for f in caught.value.report.failed}
    assert found >= WRONG[make], caught.value.report
    assert all(name in str(caught.value) for name in WRONG[make])


def test_what_breaks_graphs_is_found() -> None:
    with pytest.raises(CheckFailed, match=r"1 of 1 failed:\ncompiled\.compile: One graph"):
        check_transform(branches(), only=("compiled",))


def test_what_does_not_run_as_said_is_found() -> None:
    with pytest.raises(CheckFailed, match="it runs eager, not fused: whole chain: "):
        check_transform(gx.flatten(gx.trace(0.9)), only=("fused",), runs="fused")


def test_what_is_said_to_fail_must_fail() -> None:
    why = {"nan_in_nan_out": "it is what one asks it for"}
    report = check_transform(gx.zero_nans(), only=("gradients",), fails=why)
    assert "gradients       8 of 9, 1 as said" in str(report)
    with pytest.raises(CheckFailed, match="holds, though it was said not to: it is what one asks"):
        check_transform(gx.scale(0.5), only=("gradients",), fails=why)


def test_properties_and_groups_are_chosen() -> None:
    report = check_transform(gx.scale(0.5), only=("gradients", "vmap"), skip=("no_leaves",))
    names = {f.of.name for f in report.findings}
    assert "vmap" in names
    assert "zero_gradients" in names
    assert not names & {"no_leaves", "vmap_hyper", "deterministic"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ["purty"]}, r"only names \['purty'\]; there are the groups"),
        ({"skip": "fused"}, "skip names fused"),
        ({"fails": {"gradients": "a group"}}, r"fails names \['gradients'\]"),
        ({"runs": "fast"}, "runs must be one of"),
    ],
)
def test_unknown_names_are_refused(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"check_transform: {words}"):
        check_transform(gx.scale(0.5), **options)


def test_properties_say_what_they_mean() -> None:
    assert all(prop.meaning.endswith(".") for prop in PROPERTIES.values())
    assert len({prop.meaning for prop in PROPERTIES.values()}) == len(PROPERTIES)
