"""Files of results, with what they were measured on."""

from __future__ import annotations

import json
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

import gradtx as gx


def write(folder: Path, name: str, threads: int, results: dict[str, Any], **settings: Any) -> None:
    """Write results beside the date, the processor, versions, threads and further settings.

    Results of other parts that are there stay.
    """
    path = folder / f"{name}_cpu_{threads}_threads.json"
    old = json.loads(path.read_text())["results"] if path.exists() else {}
    about = {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "gradtx": gx.__version__,
        "threads": threads,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | settings | {"results": old | results}, indent=2) + "\n")
    print(f"wrote {path}")
