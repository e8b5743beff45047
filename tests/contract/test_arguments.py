"""What a torch optimizer's step takes besides gradients: the loss, and a tensor per parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import gradtx as gx


@dataclass(frozen=True)
class newton(gx.LeafTransform):
    """Divides by a diagonal of the Hessian."""

    needs_extra: ClassVar[tuple[str, ...]] = ("hessian",)

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        return u / h.hessian, s


@dataclass(frozen=True)
class polyak(gx.LeafTransform):
    """Multiplies by the loss."""

    needs_value: ClassVar[bool] = True

    def update_leaf(self, u: Any, s: Any, p: Any, h: Any) -> Any:
        return u * h.value, s


def two() -> list[torch.nn.Parameter]:
    ps = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
    for p in ps:
        p.grad = torch.ones_like(p)
    return ps


HESSIAN = [torch.full((2,), 2.0), torch.full((3,), 4.0)]
FORMS = {
    "sequence": lambda ps: list(HESSIAN),
    "parameters": lambda ps: dict(zip(ps, HESSIAN, strict=True)),
    "names": lambda ps: {"0": HESSIAN[0], "1": HESSIAN[1]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fused", [None, False])
def test_a_tree_reaches_the_chain_in_every_form(form: str, fused: Any) -> None:
    ps = two()
    opt = gx.optim.from_transform(newton(), ps, lr=1.0, fused=fused)
    opt.step(hessian=FORMS[form](ps))
    opt.step(hessian=FORMS[form](ps))
    assert ps[0].tolist() == [-1.0] * 2
    assert ps[1].tolist() == [-0.5] * 3


def test_groups_and_parameters_without_gradient() -> None:
    ps = two()
    ps[0].grad = None
    opt = gx.optim.from_transform(newton(), [{"params": [ps[0]]}, {"params": [ps[1]], "lr": 2.0}])
    opt.step(hessian={ps[1]: HESSIAN[1]})
    assert ps[0].tolist() == [0.0] * 2
    assert ps[1].tolist() == [-0.5] * 3


def test_the_closure_gives_the_value() -> None:
    for fused in (None, False):
        ps = two()
        opt = gx.optim.from_transform(polyak(), ps, lr=1.0, fused=fused)
        assert opt.step(lambda: torch.tensor([3.0])).item() == 3.0
        opt.step(value=2.0)
        assert ps[0].tolist() == [-5.0] * 2


ERRORS = {
    "missing": ({}, ValueError, "newton: needs hessian"),
    "misspelt": ({"hesian": HESSIAN}, TypeError, "did you mean 'hessian'"),
    "too_few": ({"hessian": HESSIAN[:1]}, ValueError, "1 entries for 2 parameters"),
    "unknown": ({"hessian": {"w": HESSIAN[0]}}, ValueError, "an entry for 'w'"),
    "other_shape": ({"hessian": HESSIAN[::-1]}, ValueError, r"'0'.*\(3,\).*\(2,\)"),
    "no_tensor": ({"hessian": [1.0, 2.0]}, TypeError, "of '0' must be a tensor"),
    "no_tree": ({"hessian": "diagonal"}, TypeError, "must be a mapping or a sequence"),
    "hole": ({"hessian": [HESSIAN[0], None]}, ValueError, "'1' has an update, but no hessian"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_does_not_fit_changes_nothing(case: str) -> None:
    given, kind, message = ERRORS[case]
    ps = two()
    opt = gx.optim.from_transform(gx.chain(gx.trace(0.9), newton()), ps, lr=1.0)
    with pytest.raises(kind, match=message):
        opt.step(**given)
    assert not any(p.detach().any() for p in ps)
    assert not opt.state


def test_a_fused_step_is_refused_where_it_was_demanded() -> None:
    opt = gx.optim.from_transform(newton(), two(), fused=True)
    with pytest.raises(RuntimeError, match=r"fused=True, but step got \['hessian'\]"):
        opt.step(hessian=HESSIAN)
