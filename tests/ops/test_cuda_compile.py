"""Every CUDA source compiles for every supported architecture; no GPU and no CUDA torch needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

CSRC = Path(__file__).parents[2] / "gradtx_cuda" / "csrc"
SOURCES = sorted(CSRC.glob("cuda/*.cu"))
ARCHS = (80, 90, 100)

NVCC = shutil.which("nvcc") or shutil.which(
    os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")
)


def test_there_are_sources():
    assert SOURCES


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc was not found")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_compiles(source, tmp_path):
    assert NVCC is not None
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS]
    flags = ["-O3", "-std=c++17", "--fmad=false", "-Xcompiler", "-fPIC", "-Werror", "all-warnings"]
    macros = ["-DUSE_CUDA", "-DGX_WITH_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    includes = [part for path in include_paths() for part in ("-isystem", path)]
    command = [NVCC, *flags, *targets, *macros, *includes, "-c", source, "-o", tmp_path / "out.o"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.o").stat().st_size > 0
