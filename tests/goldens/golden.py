"""One golden file: what it says about itself, and its arrays as tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tree = dict[str, Tensor | None]


@dataclass(frozen=True)
class Golden:
    """A file; arrays are read when they are asked for."""

    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path, allow_pickle=False) as file:
            return dict(file)

    @cached_property
    def _names_and_meta(self) -> tuple[list[str], dict[str, Any]]:
        """Read without the arrays, since every file is asked for them when tests are collected."""
        with np.load(self.path, allow_pickle=False) as file:
            return file.files, json.loads(str(file["meta"]))

    @property
    def meta(self) -> dict[str, Any]:
        return self._names_and_meta[1]

    @property
    def system(self) -> str:
        return self.meta["system"]

    @property
    def steps(self) -> int:
        return self.meta.get("steps") or 0

    @property
    def is_trajectory(self) -> bool:
        return any(key.startswith("param/0/") for key in self._names_and_meta[0])

    @property
    def holds_bits(self) -> bool:
        """Whether parameters and gradients are bit patterns of bfloat16."""
        return any(a.dtype == np.uint16 for k, a in self.arrays.items() if k.startswith("param/"))

    @property
    def extra(self) -> dict[str, Tensor]:
        return {k.removeprefix("extra/"): self.tensor(k) for k in self._keys("extra/")}

    @property
    def workers(self) -> int:
        """How many workers have parameters of their own; 0 where there is one set of them."""
        return self.meta.get("hyperparameters", {}).get("workers", 0)

    def tree(self, what: str, t: int) -> Tree:
        """Parameters or gradients of a step in the order of ``meta``; None where there is none.

        Of several workers: every leaf of every one, as ``w0/leaf``, or what all have in common.
        """
        keys = {leaf: f"{what}/{t}/{leaf}" for leaf in self.meta["leaves"]}
        if self.workers:
            own = [(f"w{m}/{leaf}", leaf) for m in range(self.workers) for leaf in keys]
            keys = {
                name: key if (key := f"{what}/{t}/{name}") in self.arrays else keys[leaf]
                for name, leaf in own
            }
        return {n: self.tensor(k) if k in self.arrays else None for n, k in keys.items()}

    def states(self, t: int) -> dict[str, dict[str, Tensor]]:
        """Recorded state of a step: ``{key: {leaf: tensor}}``."""
        out: dict[str, dict[str, Tensor]] = {}
        for path in self._keys(f"state/{t}/"):
            key, leaf = path.split("/", 3)[2:]
            out.setdefault(key, {})[leaf] = self.tensor(path)
        return out

    def tensor(self, key: str) -> Tensor:
        """A copy of an array. Values of bfloat16 files come as bits or as float32 numbers."""
        array = self.arrays[key]
        is_value = key.startswith(("param/", "grad/"))
        if array.dtype == np.uint16:
            if is_value:
                return torch.from_numpy(array.copy().view(np.int16)).view(torch.bfloat16)
            array = array.astype(np.int32)
        out = torch.from_numpy(array.copy())
        return out.bfloat16() if is_value and self.meta.get("dtype") == "bfloat16" else out

    def _keys(self, prefix: str) -> list[str]:
        return [key for key in self.arrays if key.startswith(prefix)]


def find(paths: Iterable[Path]) -> list[Golden]:
    """The goldens in files and folders, sorted.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        found.update(dict.fromkeys(sorted(path.rglob("*.npz")) if path.is_dir() else [path]))
    return [Golden(path) for path in found]
