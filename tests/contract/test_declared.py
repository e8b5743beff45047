"""Classes are what they declare: options, docstrings, stubs, and values that mean the same."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

import gradtx as gx
from gradtx.optim.descriptions import arguments
from gradtx.optim.evaluating import EvaluatingOptimizer
from gradtx.optim.options import COMMON

from .changes import base, classes

CLASSES = classes()
OPTIM = Path(gx.optim.__file__).parent
USER_FILE = Path(__file__).with_name("user_file.py")
every = pytest.mark.parametrize("name", CLASSES)


def moved(value: float | None, within: str) -> float | None:
    """Another value of the same interval."""
    if value is None:
        return None
    other = 0.5 * value if value else 0.125
    return other if gx.core.hyper.contains(within, other) else value


@every
def test_a_groups_values_mean_what_the_recipes_arguments_mean(name):
    cls = CLASSES[name]
    p = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 30).reshape(6, 5))
    opt = cls([p], **base(name))
    group: dict[str, Any] = opt.param_groups[0]
    tx = opt.transform_of(group)
    for option, fed in opt.options(group).items():
        parts = [moved(v, w) for v, w in zip(fed.parts(group[option]), fed.within, strict=True)]
        group[option] = parts[0] if len(fed.names) == 1 else tuple(parts)
    assert opt.transform_of(group) is tx
    said = opt.declaration
    given = {said.structural[o]: group[o] for o in said.structural}
    for option, names in said.options.items():
        if option not in said.structural:
            parts = group[option] if len(names) > 1 else (group[option],)
            given |= dict(zip(names, parts, strict=True))
    made = cls.build(**given)
    state, made_state = tx.init({"w": p}), made.init({"w": p})
    searches = issubclass(cls, EvaluatingOptimizer)
    given = {"value_fn": lambda x: (x["w"] - 1).square().sum()} if searches else {}
    for t in range(2):
        extra = {"hyper": opt._values(group)}
        g = {"w": torch.sin(torch.arange(30.0) * (t + 1)).reshape(6, 5)}
        if not searches:
            given = {"value": torch.tensor(1.5), "hessian": {"w": g["w"] * g["w"]}}
        u, state = tx.update(g, state, {"w": p.detach()}, **extra, **given)
        v, made_state = made.update(g, made_state, {"w": p.detach()}, **given)
        torch.testing.assert_close(u, v)


@every
def test_help_explains_every_option(name):
    cls = CLASSES[name]
    explained = arguments(inspect.getdoc(cls) or "")
    assert {*cls.signature, *COMMON, "params"} == set(explained)
    assert all(len(text) > 3 for text in explained.values()), explained
    # Schedules and a missing learning rate are for chains.
    assert not [t for t in explained.values() if "schedule," in t or "leave it out" in t]


def test_help_of_renamed_options():
    doc = inspect.getdoc(gx.optim.Muon) or ""
    assert "adjust_lr_fn: how steps depend on the shape of a matrix" in doc
    assert "p <- p - lr (s O + weight_decay p)" in doc
    assert "betas: b1: decay of the first moment" in (inspect.getdoc(gx.optim.AdamW) or "")


@cache
def stub_signatures() -> dict[str, list[str]]:
    """The arguments of every class in the stubs."""
    return {
        node.name: [a.arg for a in (*init.args.args, *init.args.kwonlyargs)]
        for path in OPTIM.glob("*.pyi")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        for init in node.body
        if isinstance(init, ast.FunctionDef)
    }


@every
def test_stubs_have_the_signature_of_the_class(name):
    assert stub_signatures()[name] == ["self", *inspect.signature(CLASSES[name]).parameters]


def marked() -> set[tuple[int, str]]:
    """Lines of the user's file that are wrong, with the kind of error."""
    lines = enumerate(USER_FILE.read_text().splitlines(), 1)
    found = ((i, re.search(r"# error: ([\w-]+)$", line)) for i, line in lines)
    return {(i, match.group(1)) for i, match in found if match}


@pytest.mark.slow  # make lint runs it
def test_a_users_file_with_mypy():
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(USER_FILE)]
    root = OPTIM.parents[1]
    out = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False).stdout
    found = {
        (int(m.group(1)), m.group(2))
        for m in re.finditer(r"user_file\.py:(\d+): error: .*\[([\w-]+)\]$", out, re.MULTILINE)
    }
    assert found == marked(), out


@pytest.mark.slow  # make lint runs it
def test_a_users_file_with_pyright():
    command = shutil.which("basedpyright", path=sysconfig.get_path("scripts"))
    if command is None:
        pytest.skip("basedpyright is not installed")
    out = subprocess.run(
        [command, "--outputjson", "--level", "error", "--pythonpath", sys.executable, USER_FILE],
        capture_output=True,
        text=True,
        cwd=OPTIM.parents[1],
        check=False,
    ).stdout
    errors = json.loads(out)["generalDiagnostics"]
    assert {e["range"]["start"]["line"] + 1 for e in errors} == {i for i, _ in marked()}, out


def test_a_class_of_ones_own():
    class Heavy(
        gx.optim.RecipeOptimizer,
        recipe=gx.signum,
        options="lr momentum weight_decay",
        rename={"momentum": "beta"},
        defaults={"momentum": 0.99},
    ):
        """Signum with a heavy ball."""

    class Heavier(Heavy, defaults={"momentum": 0.999}):
        """Still heavier."""

    p = torch.nn.Parameter(torch.ones(2))
    assert str(inspect.signature(Heavier)).startswith(
        "(params, lr=0.001, momentum=0.999, weight_decay=0.0, *, maximize=False"
    )
    opt = Heavier([p], lr=0.5)
    p.grad = torch.ones(2)
    opt.step()
    assert torch.equal(p.data, torch.full((2,), 0.5))
    with pytest.raises(TypeError, match=r"Heavier: .*'momentumm'; did you mean 'momentum'"):
        Heavier([p], momentumm=0.9)
    assert ">>> opt = Heavier(model.parameters(), lr=0.1)" in Heavier.__doc__


@pytest.mark.parametrize("value", ["1e-3", True, [0.1]])
def test_what_is_no_number_is_refused_without_a_word_of_schedules(value):
    words = r"AdamW: lr must be a number or a 0-d tensor, got a \w+$"
    with pytest.raises(TypeError, match=words):
        gx.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=value)


def declared(**said: Any) -> type:
    return type("Wrong", (gx.optim.RecipeOptimizer,), {}, recipe=gx.signum, **said)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            {"options": "lr momentum"},
            r"Wrong: option 'momentum' stands for \['momentum'\], no such",
        ),
        ({"defaults": {"momentum": 0.9}}, r"Wrong: defaults for \['momentum'\], which are no"),
        ({"rename": {"momentum": "gamma"}, "options": "lr momentum"}, r"stands for \['gamma'\]"),
    ],
)
def test_wrong_declarations(said, words):
    with pytest.raises(TypeError, match=words):
        declared(**said)


def test_zero_and_none_leave_members_out_where_the_recipe_does():
    p = torch.nn.Parameter(torch.ones(2, 2))
    sgd = gx.optim.SGD([p], momentum=0.0)
    group: dict[str, Any] = sgd.param_groups[0]
    assert "momentum" not in sgd.options(group)
    with pytest.raises(TypeError, match="SGD: momentum must be a number"):
        gx.optim.SGD([p], momentum=None)  # no other way to say zero
    group["momentum"] = 0.5
    assert sgd.options(group)["momentum"].names == (("decay",),)
    smmf = gx.optim.SMMF([p], beta=None)
    assert "beta" not in smmf.options(smmf.param_groups[0])
    assert gx.optim.SMMF.structural() == ("beta", "vector_reshape", "vector_rule", "decoupled")


def test_options_reach_what_the_recipe_puts_them_into():
    p = torch.nn.Parameter(torch.ones(2, 2))
    muon = gx.optim.Muon([p])
    fed = muon.options(muon.param_groups[0])
    assert fed["lr"].names == (("partition.matrix.scale_by_learning_rate.lr",),)
    assert fed["adam_betas"].names == (("b1",), ("b2",))
    lamb = gx.optim.LAMB([p])
    assert lamb.options(lamb.param_groups[0])["eps"].names == (("scale_by_adam.eps",),)


def test_a_recipe_in_functools_partial():
    cls = type("L1", (gx.optim.RecipeOptimizer,), {}, recipe=partial(gx.lars, nesterov=True))
    assert cls.signature["nesterov"] is True


def test_a_wrong_type_names_the_option_where_the_recipe_stumbles():
    p = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(TypeError, match="DASH: beta_lr must be a number, got None"):
        gx.optim.DASH([p], beta_lr=None)
