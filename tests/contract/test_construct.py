"""Making an optimizer: what is taken, what is refused in which words (contract 1, 2, 34)."""

from __future__ import annotations

import inspect

import pytest
import torch

import gradtx as gx
from gradtx.optim.evaluating import EvaluatingOptimizer

from .cases import asked, parameters, set_gradients


def one(value: float = 1.0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full((2, 2), value))


SHARED = one()
REFUSED = {  # 1 and 2: name -> (params, error, words of torch)
    "tensor": (lambda: one(), TypeError, "should be an iterable of Tensors or dicts, but got"),
    "empty": (lambda: [], ValueError, "optimizer got an empty parameter list"),
    "set_in_group": (lambda: [{"params": {one()}}], TypeError, "ordered collections"),
    "non_leaf": (lambda: [one() * 2], ValueError, "can't optimize a non-leaf Tensor"),
    "not_a_tensor": (lambda: [one(), 3], TypeError, "can only optimize Tensors.*int"),
    "in_two_groups": (
        lambda: [{"params": [SHARED]}, {"params": [SHARED]}],
        ValueError,
        "some parameters appear in more than one parameter group",
    ),
    "names_mixed": (lambda: [("w", one()), one()], ValueError, "should be with/without names"),
    "group_names_mixed": (
        lambda: [{"params": [one()]}, {"params": [("w", one())]}],
        ValueError,
        "groups should be with/without names",
    ),
}


@pytest.mark.parametrize("params, error, words", REFUSED.values(), ids=REFUSED)
def test_bad_params_are_refused_like_torch(case, params, error, words):  # 1, 2
    with pytest.raises(error, match=words):
        torch.optim.SGD(params(), lr=0.1)
    with pytest.raises(error, match=words):
        case.make(params())


def test_duplicates_in_one_group_warn(case):  # 1
    p = one()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        case.make([p, p])


def test_iterables_are_accepted(case):  # 1
    for params in (
        {one(), one()},
        (p for p in [one(), one()]),
        (one(), one()),
        [{"params": one()}],
    ):
        assert case.make(params).param_groups[0]["params"]


def test_names_are_kept(case):  # 2
    model = torch.nn.Linear(2, 3)
    opt = case.make(model.named_parameters())
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    assert opt.param_groups[0]["params"] == list(model.parameters())
    set_gradients(model.parameters(), 0)
    opt.step()
    assert opt.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_equal_names_in_two_groups_do_not_collide(case):  # 2
    a, b = one(1.0), one(2.0)
    opt = case.make([{"params": [("w", a)]}, {"params": [("w", b)]}])
    for t in range(2):
        set_gradients([a, b], t)
        opt.step()
    assert not torch.equal(a, one(1.0))
    assert not torch.equal(b, one(2.0))
    assert opt.state[a] is not opt.state[b]


def test_odd_names_do_not_collide(case):  # 2
    """Whatever the names, every parameter has its own update and state."""
    values = [one(float(i)) for i in range(4)]
    plain_values = [one(float(i)) for i in range(4)]
    opt = case.make(list(zip(["w", "w#2", "w", "1"], values, strict=True)))
    plain = case.make(plain_values)
    for t in range(2):
        for params, o in ((values, opt), (plain_values, plain)):
            set_gradients(params, t)
            o.step()
    assert all(opt.state[p] for p in values)
    if not case.noisy:
        for p, q in zip(values, plain_values, strict=True):
            assert torch.equal(p, q)


def test_parameters_without_a_shape_yet(case):
    model = torch.nn.LazyLinear(2)
    opt = case.make(model.parameters())
    model(torch.ones(1, 3))
    before = model.weight.detach().clone()
    for t in range(2):
        set_gradients(model.parameters(), t)
        opt.step()
    assert not torch.equal(model.weight, before)


def test_is_a_torch_optimizer(case):
    assert isinstance(case.make(parameters()), torch.optim.Optimizer)


def test_bad_learning_rates_are_refused(case):
    with pytest.raises(ValueError, match="lr must be in"):
        case.make([one()], lr=-1.0)
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        case.make([one()], lr=torch.full((5,), 1e-3))  # no number, nor one an entry
    with pytest.raises((TypeError, ValueError), match="lr"):
        case.make([one()], lr="fast")
    with pytest.raises((TypeError, ValueError), match="lr"):
        case.make([one()], lr=lambda step: 0.1)
    with pytest.raises(ValueError, match="lr must be in"):
        case.make([{"params": [one()], "lr": -1.0}])


def test_misspelt_options_are_refused(case):
    with pytest.raises(TypeError, match="maximise"):
        case.make([one()], maximise=True)
    with pytest.raises(ValueError, match="did you mean 'maximize'"):
        case.make([{"params": [one()], "maximise": True}])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"betas": (1.2, 0.9)}, r"betas\[0\] must be in \[0, 1\), got 1.2"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1.0"),
        ({"betas": (0.9,)}, "betas must have 2 values"),
        ({"betas": 0.9}, "betas must have 2 values"),
        ({"eps": -1e-8}, "eps must be in"),
        ({"weight_decay": float("nan")}, "weight_decay must be in"),
    ],
)
@pytest.mark.parametrize("where", ["constructor", "group", "add_param_group"])
def test_bad_hyperparameters_name_class_and_option(options, words, where):
    made = gx.optim.AdamW([one()])
    attempt = {
        "constructor": lambda: gx.optim.AdamW([one()], **options),
        "group": lambda: gx.optim.AdamW([{"params": [one()], **options}]),
        "add_param_group": lambda: made.add_param_group({"params": [one()], **options}),
    }[where]
    with pytest.raises(ValueError, match=f"AdamW: {words}"):
        attempt()


def test_refused_group_leaves_the_optimizer_as_it_was(case):
    opt = case.make([one()])
    with pytest.raises(ValueError, match="lr"):
        opt.add_param_group({"params": [one()], "lr": -1.0})
    assert len(opt.param_groups) == 1


def test_from_transform_wants_a_transform():
    with pytest.raises(TypeError, match="got the class scale_by_adam; call it"):
        gx.optim.from_transform(gx.scale_by_adam, [one()])


def public_methods(cls: type) -> list[str]:
    base = torch.optim.Optimizer
    return [
        name
        for name, value in vars(base).items()
        if not name.startswith("_")
        and callable(getattr(base, name))
        and not isinstance(value, type)
        and getattr(cls, name) is not getattr(base, name)
    ]


def optimizer_classes() -> list[type]:
    found = {getattr(gx.optim, name) for name in gx.optim.__all__}
    return sorted(
        (c for c in found if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)),
        key=lambda c: c.__name__,
    )


@pytest.mark.parametrize("cls", optimizer_classes(), ids=lambda c: c.__name__)
def test_overrides_keep_names_and_kinds(cls):
    # Distributed checkpoints pass load_state_dict(state_dict=...) by keyword.
    assert {"step", "load_state_dict"} <= set(public_methods(cls))
    for name in public_methods(cls):
        ours = list(inspect.signature(getattr(cls, name)).parameters.values())
        if name == "step" and ours[-1].kind is inspect.Parameter.VAR_KEYWORD:
            del ours[-1]  # step(hessian=...)
        theirs = inspect.signature(getattr(torch.optim.Optimizer, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in ours] == [
            (p.name, p.kind, p.default) for p in theirs
        ], name


def test_hooked_methods_are_not_slotted(case):
    opt = case.make([one()])
    opt.anything = 1  # frameworks hang attributes on the instance and copy its __dict__
    assert vars(opt)["anything"] == 1


def constructible() -> list[type]:
    """Those whose chain is not an argument."""
    found = [(c, inspect.signature(c).parameters) for c in optimizer_classes()]
    return [c for c, known in found if "lr" in known and "transform" not in known]


@pytest.mark.parametrize("cls", constructible(), ids=lambda c: c.__name__)
def test_class_form(cls):
    """Sharding wrappers and Hugging Face call ``cls(params, **options)``."""
    first = cls(parameters())
    params = parameters()
    again = cls(params, **first.defaults)
    assert again.defaults == first.defaults
    assert list(inspect.signature(cls).parameters)[:2] == ["params", "lr"]
    before = [p.detach().clone() for p in params]

    def closure():
        again.zero_grad()
        loss = torch.stack([p.square().sum() for p in params]).sum()
        loss.backward()
        return loss

    for t in range(3):
        set_gradients(params, t)
        again.step(*([closure] if isinstance(again, EvaluatingOptimizer) else []), **asked(again))
    assert all(torch.isfinite(p).all() for p in params)
    assert not all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_repr_shows_groups_and_chain(case):  # 34
    opt = case.make([{"params": [one()], "lr": 0.125}, {"params": [one()]}], lr=0.25)
    text = repr(opt)
    assert text.startswith(type(opt).__name__ + " (")
    assert "Parameter Group 0" in text
    assert "Parameter Group 1" in text
    assert "lr: 0.125" in text
    assert "lr: 0.25" in text
    assert text.count("\nchain(") == 1
