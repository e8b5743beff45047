"""Real text that every machine has: the source code of Python's standard library."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Corpus:
    """Two disjoint uint8 streams, split by file so that no file is in both."""

    train: Tensor
    validation: Tensor


def standard_library(max_bytes: int = 4_000_000) -> Corpus:
    """Read the top-level modules in alphabetical order; every tenth one is for validation."""
    train, validation = bytearray(), bytearray()
    for index, path in enumerate(sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))):
        text = path.read_bytes()
        if len(train) + len(validation) + len(text) > max_bytes:
            break
        (validation if index % 10 == 9 else train).extend(text)
    return Corpus(*(torch.frombuffer(part, dtype=torch.uint8) for part in (train, validation)))


def reference_manual() -> Corpus:
    """The help texts on Python's syntax; every tenth topic is for validation."""
    train, validation = bytearray(), bytearray()
    for index, (_, text) in enumerate(sorted(topics.items())):
        (validation if index % 10 == 9 else train).extend(text.encode())
    return Corpus(*(torch.frombuffer(part, dtype=torch.uint8) for part in (train, validation)))


def batches(stream: Tensor, count: int, size: int, context: int, seed: int) -> list[Batch]:
    """Draw ``count`` batches of (inputs, targets), int64 of shape (size, context).

    Targets are the inputs shifted by one byte. The same seed draws the same batches.
    """
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(stream) - context, (count, size, 1), generator=generator)
    windows = stream[starts + torch.arange(context + 1)].long()
    return [(window[:, :-1], window[:, 1:]) for window in windows]
