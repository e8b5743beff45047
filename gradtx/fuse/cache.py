"""Compile C++ to a shared library, and keep it on disk by content.

The key covers source, flags, compiler and processor. Files are written beside their place and
renamed, so processes may race; every file ends with a digest of itself and is rebuilt if that does
not fit. The directory belongs to the user and is closed to others.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import CannotFuseError

FLAGS = (
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++17", "-w"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"),
)
_DIGEST_SIZE = hashlib.sha256().digest_size


def compiler() -> str:
    """The C++ compiler: ``$CXX``, or the first of c++, g++, clang++ that is found.

    Raises:
        CannotFuseError: there is none.
    """
    for candidate in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    raise CannotFuseError("", "no C++ compiler was found (looked for $CXX, c++, g++, clang++)")


@functools.cache
def _toolchain(path: str) -> str:
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return f"{path}\n{version.stdout}\n{_processor()}"


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(
        next((x for x in lines if x.startswith(k)), "") for k in ("model name", "flags", "Features")
    )


def directory() -> Path:
    """The cache directory: ``$GRADTX_CACHE_DIR`` or ``~/.cache/gradtx``.

    A directory that others may write to, or that is not ours, is not used; then it is a temporary
    one of this process.
    """
    chosen = os.environ.get("GRADTX_CACHE_DIR")
    path = Path(chosen) if chosen else Path.home() / ".cache" / "gradtx"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return path
    except OSError:
        pass
    return _temporary()


@functools.cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="gradtx-"))


@functools.cache
def library(source: str) -> ctypes.CDLL:
    """The compiled source, from the cache or fresh.

    Args:
        source: C++.

    Raises:
        CannotFuseError: there is no compiler, or it fails.
    """
    cxx = compiler()
    key = [source, *FLAGS, _toolchain(cxx)]
    return ctypes.CDLL(str(entry(key, ".so", lambda: _build(cxx, source))))


def entry(key: Iterable[str], suffix: str, build: Callable[[], bytes]) -> Path:
    """The file of this content, built if it is missing or damaged."""
    name = hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
    path = directory() / f"{name}{suffix}"
    if not _is_intact(path):
        data = build()
        with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as folder:
            out = Path(folder) / path.name
            out.write_bytes(data + hashlib.sha256(data).digest())
            os.replace(out, path)
    return path


def content(path: Path) -> bytes:
    """What was built for an entry."""
    return path.read_bytes()[:-_DIGEST_SIZE]


def _is_intact(path: Path) -> bool:
    try:
        data = path.read_bytes()
        ours = path.stat().st_uid == os.getuid()
    except OSError:
        return False
    body, digest = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    return ours and hashlib.sha256(body).digest() == digest


def _build(cxx: str, source: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="gradtx-") as folder:
        file, out = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        file.write_text(source)
        command = [cxx, *FLAGS, str(file), "-o", str(out), "-lm"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise CannotFuseError("", f"{cxx} failed: {run.stderr.strip()[:400]}")
        return out.read_bytes()
