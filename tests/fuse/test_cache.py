"""The disk cache and the compiler: kept once, closed to others, and never a reason to fail."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import gradtx as gx
from gradtx.fuse.ir import cache
from gradtx.fuse.ir.errors import CannotFuseError

SOURCE = 'extern "C" int gx_answer() { return 42; }'
CXX = cache.compiler()
OUT = '$(echo "$@" | sed "s/.* -o //;s/ .*//")'  # where a compiler is to write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test, and a folder for temporary files."""
    monkeypatch.setenv("GRADTX_CACHE_DIR", str(tmp_path / "above" / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(cache, "_failed", {})
    monkeypatch.setattr(cache, "_said", set())
    cache.library.cache_clear()
    yield tmp_path / "above" / "cache"
    left = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert all(name.startswith("torchinductor") for name in left), left  # torch's own, once
    cache.library.cache_clear()


@pytest.fixture
def built(folder: Path) -> Path:
    """The entry of SOURCE."""
    assert cache.library(SOURCE).gx_answer() == 42
    cache.library.cache_clear()
    (file,) = folder.iterdir()
    return file


def write_compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def planted(work: Path, answer: int) -> bytes:
    """A file of the cache that answers something else."""
    work.mkdir(exist_ok=True)
    cache._compile(CXX, SOURCE.replace("42", str(answer)), cache.FLAGS, f"{work}/planted.so")
    data = (work / "planted.so").read_bytes()
    return data + cache.hashlib.sha256(data).digest()


def put(file: Path, data: bytes, mode: int = 0o600) -> None:
    """In place of the file, which stays as it is where it is loaded."""
    other = file.with_suffix(".other")
    other.write_bytes(data)
    other.chmod(mode)
    os.replace(other, file)


# -- what is kept, and who may write it ------------------------------------------------------------


def test_built_once_and_private(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_compile", lambda *_: pytest.fail("built again"))
    assert cache.library(SOURCE).gx_answer() == 42
    assert list(built.parent.iterdir()) == [built]


def test_private_whatever_the_umask(folder: Path) -> None:
    old = os.umask(0)
    try:
        cache.library(SOURCE)
    finally:
        os.umask(old)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for made in (folder, folder.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o602, 0o620])
def test_an_entry_that_others_may_write_is_not_loaded(built: Path, tmp_path: Path, mode: int):
    put(built, planted(tmp_path / "work", 13), mode)
    assert cache.library(SOURCE).gx_answer() == 42
    assert stat.S_IMODE(built.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_entry_of_another_user_is_not_loaded(built: Path, tmp_path: Path) -> None:
    put(built, planted(tmp_path / "work", 13), 0o644)
    os.chown(built, 12345, 12345)
    assert cache.library(SOURCE).gx_answer() == 42
    assert built.stat().st_uid == 0


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "dangling"])
def test_an_entry_that_is_no_file_is_not_loaded(built: Path, tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere.so"
    put(elsewhere, planted(tmp_path / "work", 13))
    built.unlink()
    if kind == "folder":
        built.mkdir()
    elif kind == "pipe":
        os.mkfifo(built, 0o600)
    else:
        built.symlink_to(elsewhere if kind == "link" else tmp_path / "nothing")
    assert cache.library(SOURCE).gx_answer() == 42


def test_what_was_checked_is_loaded(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, load = planted(tmp_path / "work", 13), cache._load

    def exchange_and_load(*args):
        put(built, data)
        return load(*args)

    monkeypatch.setattr(cache, "_load", exchange_and_load)
    assert cache.library(SOURCE).gx_answer() == 42


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_entry_is_rebuilt(folder: Path, damage: str) -> None:
    source = SOURCE.replace("42", str(43 + len(damage)))
    cache.library(source)
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    put(file, {"truncated": bytes(data[:100]), "flipped": bytes(data), "empty": b""}[damage])
    cache.library.cache_clear()
    assert cache.library(source).gx_answer() == 43 + len(damage)
    assert cache._is_intact(file)


def test_an_entry_that_does_not_load_is_replaced(
    built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(built, b"no library" + cache.hashlib.sha256(b"no library").digest())
    assert cache.library(SOURCE).gx_answer() == 42
    assert not built.exists()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert str(built.parent) in caplog.text


def _answer(_: int) -> int:
    return cache.library(SOURCE).gx_answer()


def test_processes_may_race(folder: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_answer, range(8), chunksize=1) == [42] * 8
    assert len(list(folder.iterdir())) == 1


# -- folders that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o775, 0o702])
def test_a_folder_open_to_others_is_not_used(
    folder: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert cache.directory() is None
    for answer in (42, 43):
        assert cache.library(SOURCE.replace("42", str(answer))).gx_answer() == answer
    assert not list(folder.iterdir())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{folder} is not used" in caplog.text
    assert "chmod go-w" in caplog.text


def test_a_folder_of_another_user_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.directory() is None
    assert "another user" in caplog.text


def test_a_folder_that_takes_no_files(
    monkeypatch: pytest.MonkeyPatch, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/proc/self/cache", "/dev/null", "/proc/self"):
        monkeypatch.setenv("GRADTX_CACHE_DIR", path)
        cache.library.cache_clear()
        assert cache.library(SOURCE).gx_answer() == 42
    assert len(caplog.records) == 3


def test_no_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("GRADTX_CACHE_DIR")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert cache.library(SOURCE).gx_answer() == 42
    assert "GRADTX_CACHE_DIR" in caplog.text


@pytest.mark.parametrize("home", ["", "nix", "."])
def test_a_home_that_is_no_place(
    folder: Path,
    tmp_path: Path,
    home: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", home)
    for chosen in ("", "~/cache"):
        monkeypatch.setenv("GRADTX_CACHE_DIR", chosen)
        cache.library.cache_clear()
        assert cache.library(SOURCE).gx_answer() == 42
    assert f"HOME is {home!r}, which is no absolute path" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.name in ("nix", ".cache", "~")]


def test_the_folder_may_be_under_the_home(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GRADTX_CACHE_DIR", "~/kept")
    assert cache.directory() == tmp_path / "kept"


# -- compilers that fail, and machines -------------------------------------------------------------


def step_unfused(size: float) -> None:
    """A chain that no other test has: its kernel must not be in memory already."""
    tx = gx.chain(gx.trace(0.5), gx.clip(9.0), gx.trace(0.0), gx.clip(8.0), gx.scale(size))
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = gx.optim.from_transform(tx, [p], lr=1.0)
    for _ in range(3):
        p.grad = torch.ones(3)
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 1 - size * (1 + 1.5 + 1.75)))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


SCRIPTS = {
    "fails": ("exit 1", "failed"),
    "is killed": ("kill -9 $$", "failed"),
    "writes nothing": ("exit 0", "wrote no library"),
    "prints no text": (r"printf '\377\376'; printf '\351rreur' >&2; exit 1", "rreur"),
    "writes no library": (f'case "$*" in *" -o "*) echo no library > {OUT};; esac', ""),
    "leaves the functions out": (f"echo 'int x;' | {CXX} \"$@\"", "gx_run"),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_a_compiler_that(
    what: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    script, reason = SCRIPTS[what]
    monkeypatch.setenv("CXX", write_compiler(tmp_path / "compiler", script))
    for size in (0.456, 0.457):
        step_unfused(size)
    (said,) = warnings_of(caplog)
    assert "run as torch operations" in said
    assert reason in said
    assert not list(folder.iterdir())


@pytest.mark.parametrize("when", ["", '[ "$1" = --version ] && exit\n'], ids=["asked", "compiling"])
def test_a_compiler_that_never_ends(
    when: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is stopped with all that it has started, and not started again."""
    script = f"{when}echo x >>{tmp_path}/started\nsleep 20 &\nwait"
    monkeypatch.setattr(cache, "PATIENCE", 2.0)
    monkeypatch.setenv("CXX", write_compiler(tmp_path / "compiler", script))
    began = time.monotonic()
    for size in (0.456, 0.457):
        step_unfused(size)
    assert time.monotonic() - began < 18
    (said,) = warnings_of(caplog)
    assert "compiler has not come to an end in 2 s" in said
    assert (tmp_path / "started").read_text() == "x\n"
    assert not list(folder.glob("*"))


def test_a_compiler_whose_name_is_no_text(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path(os.fsdecode(os.fsencode(tmp_path) + b"/g\xff++"))
    there.symlink_to(CXX)
    monkeypatch.setenv("CXX", str(there))
    assert cache.library(SOURCE).gx_answer() == 42
    assert len(list(folder.iterdir())) == 1


def test_a_compiler_that_cannot_be_started(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "compiler").write_bytes(b"\0")
    (tmp_path / "compiler").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    step_unfused(0.456)
    assert len(warnings_of(caplog)) == 1


def test_too_little_memory_for_a_compiler(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("subprocess.Popen", no_memory)
    cache._toolchain.cache_clear()
    step_unfused(0.625)
    (warning,) = warnings_of(caplog)
    assert "too little memory to run a compiler" in warning


def test_without_a_compiler_a_chain_runs_unfused_and_says_so_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for size in (0.456, 0.457):
        step_unfused(size)
    (said,) = warnings_of(caplog)
    assert "no C++ compiler" in said


def test_a_compiler_error_is_reported_and_not_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with pytest.raises(CannotFuseError, match="failed"):
            cache.library("this is not C++")
        monkeypatch.setattr(cache, "_compile", lambda *_: pytest.fail("tried again"))
    assert not any(folder.iterdir())


def test_a_linker_that_writes_only_what_it_has_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'{CXX} "$@" || exit; out={OUT}; mv $out $out.new && mv $out.new $out'
    monkeypatch.setenv("CXX", write_compiler(tmp_path / "compiler", script))
    assert cache.library(SOURCE).gx_answer() == 42
    assert len(list(folder.iterdir())) == 1


@contextmanager
def limit(which: int, value: int) -> Iterator[None]:
    old = resource.getrlimit(which)
    resource.setrlimit(which, (value, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, old)


def test_a_full_disk(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with limit(resource.RLIMIT_FSIZE, 4096):
        step_unfused(0.456)
    assert len(warnings_of(caplog)) == 1
    assert not list(folder.iterdir())


def test_too_many_open_files(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with limit(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd"))):
        step_unfused(0.456)
    assert len(warnings_of(caplog)) == 1


def test_a_library_that_may_not_be_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where folders are mounted noexec and memory may not be executed."""

    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(CannotFuseError, match="failed to map"):
        cache.library(SOURCE)
    (said,) = warnings_of(caplog)
    assert "failed to map" in said
    assert not list(folder.iterdir())


def test_a_killed_build_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    monkeypatch.setenv(
        "CXX",
        write_compiler(
            tmp_path / "compiler", f"[ $1 = --version ] || {{ touch {started}; sleep 2; }}"
        ),
    )
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(0,))
    process.start()
    deadline = time.monotonic() + 30
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert started.exists()
    assert not list(folder.iterdir())
