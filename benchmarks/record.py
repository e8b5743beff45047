"""Files of results, with what they were measured on."""

from __future__ import annotations

import json
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

import gradtx as gx


def processor() -> str:
    """Its name where the system tells it, and the widest instructions that torch uses."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def write(folder: Path, name: str, threads: int, results: dict[str, Any], **settings: Any) -> None:
    """Write results beside the date, the processor, versions, threads and further settings.

    Results of other parts that are there stay.
    """
    path = folder / f"{name}_cpu_{threads}_threads.json"
    old = json.loads(path.read_text())["results"] if path.exists() else {}
    about = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "torch": torch.__version__,
        "gradtx": gx.__version__,
        "threads": threads,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about | settings | {"results": old | results}, indent=2) + "\n")
    print(f"wrote {path}")
