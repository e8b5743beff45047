"""What the Hugging Face Trainer does to an optimizer."""

from __future__ import annotations

import io

import pytest
import torch

import gradtx as gx

from ..contract.cases import assert_equal


@pytest.mark.parametrize("name", ["AdamW", "Lion", "Adafactor", "LAMB"])
def test_class_with_groups_and_keyword_arguments(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    opt = getattr(gx.optim, name)(groups, **{"lr": 0.05})
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1.0 / (1 + t))
    for _ in range(2):
        model(torch.ones(2, 3)).sum().backward()
        opt.step()
        scheduler.step()
        opt.zero_grad()
    assert opt.param_groups[0]["lr"] == pytest.approx(0.05 / 3)
    assert [g["weight_decay"] for g in opt.param_groups] == [0.1, 0.0]
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    opt.load_state_dict(torch.load(buffer, weights_only=True))


def test_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.layer(x).square().mean()}

    model = Model()
    before = [p.detach().clone() for p in model.parameters()]
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(tmp_path, max_steps=2, use_cpu=True, report_to=[]),
        train_dataset=[{"x": torch.ones(3)}] * 8,
        optimizer_cls_and_kwargs=(gx.optim.AdamW, {"lr": 0.1}),
    )
    trainer.train()
    with pytest.raises(AssertionError):
        assert_equal(model.parameters(), before)
