"""Compile C++ to a shared library, and keep it on disk by content.

The key covers source, flags, compiler and processor. Files are written beside their place and
renamed, so processes may race; every file ends with a digest of itself and is rebuilt if that does
not fit. Folder and files belong to the user and nobody else may write to them; a file is checked
and loaded through one descriptor, so nothing can take its place in between. Whatever fails here,
a step goes on without: what cannot be kept is compiled in every process, and where nothing can be
compiled a chain runs as torch operations.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import logging
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from .errors import CannotFuseError

logger = logging.getLogger("gradtx")
FLAGS = (
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=c++17", "-w"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"),
)
_DIGEST_SIZE = hashlib.sha256().digest_size
_spellings = itertools.count(1)
PATIENCE = 600.0  # seconds that a compiler may take
_stuck: set[str] = set()
_failed: dict[tuple[object, ...], str] = {}
_said: set[str] = set()


# -- the compiler ----------------------------------------------------------------------------------


def compiler() -> str:
    """The C++ compiler: ``$CXX``, or the first of c++, g++, clang++ that is found.

    Raises:
        CannotFuseError: there is none.
    """
    if sys.platform == "win32":
        raise CannotFuseError("", "chains are not compiled on Windows")
    for candidate in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
    raise CannotFuseError("", "no C++ compiler was found (looked for $CXX, c++, g++, clang++)")


@functools.cache
def library(
    source: str, functions: tuple[str, ...] = (), flags: tuple[str, ...] = FLAGS
) -> ctypes.CDLL:
    """The compiled source, from the cache or fresh.

    Args:
        source: C++.
        functions: names that the library has to have.
        flags: of the compiler.

    Raises:
        CannotFuseError: there is no compiler, it fails, or its library cannot be loaded; said once
            as a warning of the logger.
    """
    try:
        cxx = compiler()
        place = entry([source, *flags, _toolchain(cxx)], ".so")
        if place and _is_intact(place):
            try:
                with opened(place) as file:
                    return _load(file, functions)
            except OSError as error:
                discard(place)
                _unused(place.parent, error)
                place = None
        return _fresh(cxx, source, functions, flags, place)
    except (CannotFuseError, MemoryError, OSError) as error:
        why = str(error) or "there is too little memory to run a compiler"
        _say("compiler", f"steps run as torch operations, which is slower: {why}")
        raise CannotFuseError("", why) from None


def _fresh(
    cxx: str, source: str, functions: tuple[str, ...], flags: tuple[str, ...], place: Path | None
) -> ctypes.CDLL:
    """Compile, load, and keep what could be loaded; what failed is not tried again."""
    key = (cxx, source, functions, flags)
    if key in _failed:
        raise CannotFuseError("", _failed[key])
    for where in _PLACES:
        try:
            with where() as out:
                _compile(cxx, source, flags, out)
                with open(out, "rb") as file:
                    code = _load(file, functions)
                    file.seek(0)
                    keep(place, file.read())
            return code
        except (CannotFuseError, OSError) as error:
            _failed[key] = str(error)
    raise CannotFuseError("", _failed[key])


@contextlib.contextmanager
def _in_memory() -> Iterator[str]:
    """A place for a file that is in no folder: it goes with this process, however that ends."""
    number = os.memfd_create("gradtx")
    try:
        yield f"/proc/{os.getpid()}/fd/{number}"
    finally:
        os.close(number)


@contextlib.contextmanager
def _in_folder() -> Iterator[str]:
    """A place on disk, for linkers that write to no other file than one they have made."""
    folder = tempfile.mkdtemp(prefix="gradtx-")
    try:
        yield f"{folder}/kernel.so"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # where no descriptor is left, this is all that works


_PLACES: tuple[Callable[[], AbstractContextManager[str]], ...] = (
    (_in_memory, _in_folder) if hasattr(os, "memfd_create") else (_in_folder,)
)


def _compile(cxx: str, source: str, flags: Sequence[str], out: str) -> None:
    run = _run([cxx, *flags, "-x", "c++", "-", "-o", out, "-lm"], source)
    if run.returncode:
        said = " ".join(run.stderr.decode(errors="replace").split())
        raise CannotFuseError("", f"{cxx} failed: {said[:400] or run.returncode}")
    if not (os.path.exists(out) and os.path.getsize(out)):
        raise CannotFuseError("", f"{cxx} wrote no library")


def _run(command: list[str], source: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run a compiler to its end, which has to come.

    Raises:
        CannotFuseError: it does not come; this compiler is not started again.
    """
    if command[0] in _stuck:
        raise CannotFuseError("", f"{command[0]} has not come to an end in {PATIENCE:g} s")
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        umask=0o077,  # what the compiler writes, others may not change
        start_new_session=True,  # and what it starts ends with it
    ) as process:
        try:
            out, said = process.communicate(source.encode(), timeout=PATIENCE)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            _stuck.add(command[0])
            return _run(command)
    return subprocess.CompletedProcess(command, process.returncode, out, said)


@functools.cache
def _toolchain(path: str) -> str:
    version = _run([path, "--version"]).stdout.decode(errors="replace")
    return f"{path}\n{version}\n{_processor()}"


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(
        next((x for x in lines if x.startswith(k)), "") for k in ("model name", "flags", "Features")
    )


def _load(file: BinaryIO, functions: tuple[str, ...]) -> ctypes.CDLL:
    """An open file as a library.

    Raises:
        OSError: it is none, or a function is missing.
    """
    code = ctypes.CDLL(_spelled(file))
    for name in functions:
        if not hasattr(code, name):
            raise OSError(f"the compiled library has no function {name}")
    return code


def _spelled(file: BinaryIO) -> str:
    """A path to an open file that no library was loaded under: loaders know theirs by the path."""
    if not os.path.exists(f"/proc/self/fd/{file.fileno()}"):
        return str(file.name)
    digits = "".join("/." if digit == "1" else "/" for digit in f"{next(_spellings):b}")
    return f"/proc/self/fd{digits}/{file.fileno()}"


# -- the folder ------------------------------------------------------------------------------------


def directory() -> Path | None:
    """The cache directory: ``$GRADTX_CACHE_DIR`` or ``~/.cache/gradtx``.

    A directory that others may write to, or that is not ours, is not used, which is said once.
    """
    if sys.platform == "win32":  # what may be trusted is told by owner and mode
        return None
    chosen = os.environ.get("GRADTX_CACHE_DIR") or "~/.cache/gradtx"
    try:
        path = _expanded(chosen)
    except RuntimeError as error:
        _unused(chosen, error)
        return None
    try:
        for folder in (*reversed(path.parents), path):
            with contextlib.suppress(FileExistsError):
                if not folder.exists():
                    folder.mkdir(mode=0o700)
        _check_owner(path.stat())
    except OSError as error:
        _unused(path, error)
        return None
    return path


def _expanded(chosen: str) -> Path:
    """A path without the sign for the home directory.

    Raises:
        RuntimeError: there is no home directory.
    """
    home = os.environ.get("HOME")
    if chosen.startswith("~") and home is not None and not os.path.isabs(home):
        raise RuntimeError(f"HOME is {home!r}, which is no absolute path")
    return Path(chosen).expanduser()


def _check_owner(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise PermissionError("it belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(f"others may write to it (mode {mode:o}; chmod go-w mends it)")


def entry(key: Iterable[str], suffix: str) -> Path | None:
    """Where the content of this key is kept; None where nothing can be kept."""
    folder = directory()
    name = hashlib.sha256(os.fsencode("\0".join(key))).hexdigest()[:32]
    return folder and folder / f"{name}{suffix}"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file of an entry, checked.

    Raises:
        OSError: there is none, others may write to it, or it is damaged.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no file")
        _check_owner(status)
        data = file.read()
        if hashlib.sha256(data[:-_DIGEST_SIZE]).digest() != data[-_DIGEST_SIZE:]:
            raise OSError("it is damaged")
        file.seek(0)
        yield file


def _is_intact(path: Path) -> bool:
    try:
        with opened(path):
            return True
    except OSError:
        return False


def content(path: Path) -> bytes:
    """What was built for an entry.

    Raises:
        OSError: as from ``opened``.
    """
    with opened(path) as file:
        return file.read()[:-_DIGEST_SIZE]


def keep(path: Path | None, data: bytes) -> None:
    """Write an entry, if that is possible; where it is not, say so once."""
    if path is None:
        return
    try:
        number, out = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data + hashlib.sha256(data).digest())
            os.replace(out, path)
        except BaseException:
            os.unlink(out)
            raise
    except OSError as error:
        _unused(path.parent, error)


def discard(path: Path | None) -> None:
    """Remove an entry that is of no use."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()


def _unused(folder: Path | str, error: Exception) -> None:
    _say(str(folder), f"the compile cache {folder} is not used (GRADTX_CACHE_DIR): {error}")


def _say(topic: str, message: str) -> None:
    """Warn once about a topic."""
    if topic not in _said:
        _said.add(topic)
        logger.warning("gradtx: %s", message)
