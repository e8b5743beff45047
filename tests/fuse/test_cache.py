"""The disk cache and the compiler."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
import torch

import gradtx as gx
from gradtx.fuse import cache
from gradtx.fuse.errors import CannotFuseError

SOURCE = 'extern "C" int gx_answer() { return 42; }'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADTX_CACHE_DIR", str(tmp_path / "cache"))
    cache.library.cache_clear()
    yield tmp_path / "cache"
    cache.library.cache_clear()


def test_built_once_and_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.library(SOURCE).gx_answer() == 42
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = folder.iterdir()
    cache.library.cache_clear()
    monkeypatch.setattr(cache, "_build", lambda *_: pytest.fail("built again"))
    assert cache.library(SOURCE).gx_answer() == 42
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_entry_is_rebuilt(folder: Path, damage: str) -> None:
    source = SOURCE.replace("42", str(43 + len(damage)))
    cache.library(source)
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    damaged = {"truncated": bytes(data[:100]), "flipped": bytes(data), "empty": b""}[damage]
    other = file.with_suffix(".new")  # the loaded library stays mapped from the old file
    other.write_bytes(damaged)
    os.replace(other, file)
    cache.library.cache_clear()
    assert cache.library(source).gx_answer() == 43 + len(damage)


def _answer(_: int) -> int:
    return cache.library(SOURCE).gx_answer()


def test_processes_may_race(folder: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_answer, range(8), chunksize=1) == [42] * 8
    assert len(list(folder.iterdir())) == 1


def test_a_directory_open_to_others_is_not_used(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    assert cache.directory() != folder
    assert stat.S_IMODE(cache.directory().stat().st_mode) == 0o700


def test_without_a_compiler_the_chain_runs_unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.shutil, "which", lambda name: None)
    cache.library.cache_clear()
    # A chain that no other test has: its kernel must not be in memory already.
    tx = gx.chain(gx.trace(0.5), gx.clip(9.0), gx.trace(0.0), gx.clip(8.0), gx.scale(-0.456))
    step, params = gx.fuse(tx), {"w": torch.ones(3)}
    step(params, {"w": torch.ones(3)}, tx.init(params))
    assert "no C++ compiler" in step.report()
    torch.testing.assert_close(params["w"], torch.full((3,), 1 - 0.456))


def test_a_compiler_error_is_reported(folder: Path) -> None:
    with pytest.raises(CannotFuseError, match="failed"):
        cache.library("this is not C++")
    assert not any(folder.iterdir())
