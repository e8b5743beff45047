"""What was measured, as a table and as JSON."""

import platform
from collections.abc import Mapping
from dataclasses import asdict

import torch

import gradtx as gx
from lm.table import format_table
from lm.training import Run


def results(settings: Mapping[str, object], runs: list[Run]) -> dict[str, object]:
    """Everything needed to read the numbers again, as JSON types."""
    return {
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gradtx": gx.__version__,
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
        },
        "settings": {**settings, "out": str(settings["out"])},
        "runs": [asdict(run) | {"final_train_loss": run.final_train_loss} for run in runs],
    }


def summary(runs: list[Run]) -> str:
    """One line per optimizer."""
    header = (
        *("optimizer", "train loss", "val. loss", "model ms/step", "optimizer ms/step"),
        *("state bytes", "bytes/parameter"),
    )
    rows = [
        (
            run.optimizer,
            f"{run.final_train_loss:.4f}",
            f"{run.validation_loss[-1]:.4f}",
            f"{run.model_ms:.1f}",
            f"{run.optimizer_ms:.2f}",
            f"{run.state_bytes:,}",
            f"{run.bytes_per_parameter:.2f}",
        )
        for run in runs
    ]
    return format_table(header, rows)
