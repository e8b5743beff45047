"""The report of ``python -m gradtx``, and the library that is missing or broken."""

from __future__ import annotations

import logging
import subprocess
import sys

import torch

import gradtx_cuda
from gradtx.__main__ import environment, format_environment
from gradtx.fuse.cpp import kernel
from gradtx.fuse.ir import cache
from gradtx.ops import OPS
from gradtx_cuda import sources

KERNELS = {
    "add_product_",
    "block_dequantize",
    "block_fisher",
    "block_fisher_times",
    "block_quantize",
    "block_top_k",
    "cholesky_iteration",
    "cholesky_turn",
    "clenshaw",
    "column_adam",
    "coordinates",
    "coordinates_squares",
    "coupled_newton",
    "dct_after_",
    "dct_before",
    "dct_halves",
    "denman_beavers",
    "dequantize_affine",
    "hadamard",
    "largest_columns",
    "ldadam_columns",
    "ldadam_moments_",
    "microadam_",
    "newton_schulz",
    "orthonormalize_",
    "pack_signs",
    "quantize_affine",
    "random_bits",
    "random_normal",
    "sparse_window_combine",
    "sparse_window_dots",
    "sparse_window_push_",
    "sparse_window_step_",
    "symmetric_product",
    "unpack_signs",
    "window_dots",
    "window_moments",
}


def test_sections():
    sections = environment()
    assert set(sections) == {"versions", "devices", "tools", "backends"}
    assert set(sections["versions"]) == {"gradtx", "python", "torch", "optree", "numpy"}
    assert set(sections["backends"]) == {"reference", "cpu kernels", "cuda kernels", "fused passes"}
    for text in sections["backends"].values():
        assert text.startswith(("active: ", "inactive: "))
    assert sections["backends"]["reference"].startswith(f"active: {len(OPS)} operators")


def test_backend_lines_follow_the_library():
    backends = environment()["backends"]
    active, reason = gradtx_cuda.status()
    if active:
        assert reason == ""
        assert set(backends["cpu kernels"].removeprefix("active: ").split(", ")) == KERNELS
    else:
        assert backends["cpu kernels"] == backends["cuda kernels"] == f"inactive: {reason}"


def test_fused_passes_need_a_compiler(monkeypatch):
    assert environment()["backends"]["fused passes"].startswith(f"active: {cache.compiler()}, ")
    monkeypatch.setattr(cache.shutil, "which", lambda name: None)
    monkeypatch.setattr(kernel, "_kernels", {})
    cache.library.cache_clear()
    assert "inactive: no C++ compiler" in environment()["backends"]["fused passes"]


def test_importing_leaves_the_compiler_of_torch_alone():
    heavy = "'torch._dynamo', 'torch._inductor', 'sympy', 'torch.onnx', 'torch.distributed.fsdp'"
    code = f"import sys, torch; before = set(sys.modules); import gradtx; {_NEW.format(heavy)}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


_NEW = "print(*[m for m in ({}) if m in sys.modules and m not in before])"


def test_command_prints_every_entry():
    result = subprocess.run(
        [sys.executable, "-m", "gradtx"], capture_output=True, text=True, check=True
    )
    for title, entries in environment().items():
        assert title in result.stdout
        for name in entries:
            assert name in result.stdout
    assert format_environment({"a": {"b": "c", "long": "d"}}) == "a\n  b     c\n  long  d"


def test_a_missing_library_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(gradtx_cuda, "_LIBRARY", tmp_path / "_C.abi3.so")
    active, reason = gradtx_cuda._load()
    assert not active
    assert "was not built" in reason


def test_a_broken_library_is_explained(monkeypatch, tmp_path):
    library = tmp_path / "_C.abi3.so"
    library.write_bytes(b"not a library")
    monkeypatch.setattr(gradtx_cuda, "_LIBRARY", library)
    active, reason = gradtx_cuda._load()
    assert not active
    assert "does not load" in reason


def test_an_old_torch_is_explained(monkeypatch, tmp_path):
    (tmp_path / "_C.abi3.so").touch()
    monkeypatch.setattr(gradtx_cuda, "_LIBRARY", tmp_path / "_C.abi3.so")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert gradtx_cuda._load() == (False, "the kernels need torch >= 2.10, found 2.9.1")


def test_a_library_of_other_sources_is_not_loaded(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(gradtx_cuda, "_LIBRARY", tmp_path / "_C.abi3.so")
    monkeypatch.setattr(gradtx_cuda, "_SOURCES", tmp_path / "csrc")
    (tmp_path / "csrc" / "cpu").mkdir(parents=True)
    code = tmp_path / "csrc" / "cpu" / "hadamard.cpp"
    code.write_text("one")
    mark = sources.stamp(tmp_path / "csrc").encode()
    (tmp_path / "_C.abi3.so").write_bytes(b"\0\1" + mark + b"\0")
    assert sources.built_from(tmp_path / "_C.abi3.so") == sources.digest(tmp_path / "csrc")
    assert "does not load" in gradtx_cuda._load().reason  # it is asked to: nothing is in it
    code.write_text("two")
    with caplog.at_level(logging.WARNING, logger="gradtx"):
        active, reason = gradtx_cuda._load()
    assert not active
    assert "was built from other sources" in reason
    assert "build it again with `pip install" in caplog.text


def test_names_and_places_of_sources_count(tmp_path):
    (tmp_path / "a.h").write_text("x")
    one = sources.digest(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert sources.digest(tmp_path) == one
    (tmp_path / "a.h").rename(tmp_path / "b.h")
    assert sources.digest(tmp_path) != one
    assert sources.digest(tmp_path / "nowhere") == ""
