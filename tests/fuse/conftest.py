"""The CUDA back end without a device, and C++ without vectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradtx.fuse.cpp import kernel
from gradtx.fuse.cpp import vectors as cpp_vectors
from gradtx.fuse.cuda import table as cuda_table
from gradtx.fuse.cuda.table import CudaBackEnd
from gradtx.fuse.runtime import engine
from tests.fuse import cuda_emulator
from tests.fuse.cuda_emulator import Emulated


def without(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Compile as where the processor does not have these instructions."""
    text = cpp_vectors.PRELUDE
    for word in words:
        assert f"defined({word})" in text
        text = text.replace(f"defined({word})", "0")
    monkeypatch.setattr(cpp_vectors, "PRELUDE", text)
    monkeypatch.setattr(kernel, "_kernels", {})


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is written for vectors."""
    without(monkeypatch, "__AVX512BW__", "__AVX2__")


@pytest.fixture(params=["widest", "256 bits", "plain"])
def vectors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is compiled here, without vectors of 512 bits, and without vectors."""
    if request.param == "plain":
        request.getfixturevalue("plain")
    elif request.param == "256 bits":
        without(monkeypatch, "__AVX512BW__")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> list[Emulated]:
    """The CUDA back end on the CPU, its memory full of NaN at first; gives what it compiles."""
    loaded: list[Emulated] = []
    allocate = cuda_table.CudaTable._allocate

    def load(source: str, device: torch.device) -> Emulated:
        loaded.append(cuda_emulator.load(source, device))
        loaded[-1].launches.clear()
        loaded[-1].backwards = False
        return loaded[-1]

    def allocate_nan(self: cuda_table.CudaTable) -> list[Tensor]:
        buffers = allocate(self)
        for buffer in buffers:
            buffer.view(torch.uint8).fill_(255)
        return buffers

    back = CudaBackEnd(torch.device("cpu"), load)
    monkeypatch.setattr(engine, "back_end", lambda device: back)
    monkeypatch.setattr(cuda_table.CudaTable, "_allocate", allocate_nan)
    return loaded
