"""``torch.compile`` around ``step`` (contract 28)."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.optim import lr_scheduler as lrs

from .cases import BY_NAME, assert_close, assert_equal, parameters, run, set_gradients

BUDGET = 2  # recompilations after warm-up


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["float", "tensor"])
def test_few_compilations_under_a_scheduler(case, kind):
    def rate() -> object:
        return torch.tensor(0.01) if kind == "tensor" else 0.01

    mine, theirs = parameters(), parameters()
    opt, plain = case.make(mine, lr=rate()), case.make(theirs, lr=rate())
    first, second = lrs.ExponentialLR(opt, 0.9), lrs.ExponentialLR(plain, 0.9)
    counter = CompileCounter()
    step = torch.compile(opt.step, backend=counter)
    warm = 0
    for t in range(20):
        set_gradients(mine, t)
        set_gradients(theirs, t)
        if t in (9, 13):
            mine[2].grad = theirs[2].grad = None
        step()
        plain.step()
        first.step()
        second.step()
        if t == 2:
            warm = counter.frame_count
    assert counter.frame_count - warm <= BUDGET
    assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["AdamW", "clip_adam_cautious"])
def test_a_compiled_training_step(name):
    """The usual form: loss, backward and ``opt.step()`` in one function."""
    case = BY_NAME[name]
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 2)
        opt = case.make(model.parameters())

        def train(x: torch.Tensor, model=model, opt=opt) -> None:
            model(x).square().mean().backward()
            opt.step()
            opt.zero_grad()

        fn = torch.compile(train, backend="eager") if compiled else train
        torch.manual_seed(1)
        for _ in range(4):
            fn(torch.randn(3, 4))
        results.append([p.detach() for p in model.parameters()])
    assert_close(results[1], results[0])


def test_compile_before_or_after_the_scheduler(case):
    """A scheduler needs a method to wrap, so it comes first; then compiling must still work."""
    params, plain_params = parameters(), parameters()
    opt, plain = case.make(params), case.make(plain_params)
    scheduler, other = lrs.StepLR(opt, 1, 0.5), lrs.StepLR(plain, 1, 0.5)
    opt.step = torch.compile(opt.step, backend="eager")
    for t in range(3):
        run(opt, params, range(t, t + 1))
        run(plain, plain_params, range(t, t + 1))
        scheduler.step()
        other.step()
    assert_equal(params, plain_params)
