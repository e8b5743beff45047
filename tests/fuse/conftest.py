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


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is written for 512-bit vectors."""
    text = cpp_vectors.PRELUDE.replace("defined(__AVX512BW__)", "0")
    assert text != cpp_vectors.PRELUDE
    monkeypatch.setattr(cpp_vectors, "PRELUDE", text)
    monkeypatch.setattr(kernel, "_kernels", {})


@pytest.fixture(params=[True, False])
def vectors(request: pytest.FixtureRequest) -> None:
    """As it is compiled here, and without vectors."""
    if not request.param:
        request.getfixturevalue("plain")


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
