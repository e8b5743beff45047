"""Compile CUDA C++ through NVRTC, load it, and launch kernels on the current stream.

Only ``cuda.bindings`` is used, which torch's CUDA wheels bring; it is imported when first needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from ..ir.cache import content, discard, entry, keep
from ..ir.errors import CannotFuseError

_OPTIONS = ("--std=c++17", "--disable-warnings")


class Module(Protocol):
    """Compiled code on one device."""

    def launch(self, kernel: str, blocks: int, threads: int, args: ctypes.Structure) -> None:
        """Launch a kernel that takes one argument block by value."""


@functools.cache
def bindings() -> tuple[Any, Any]:
    """The driver and NVRTC.

    Raises:
        CannotFuseError: they are not there.
    """
    if torch.version.hip:
        raise CannotFuseError("", "there is no back end for AMD devices")
    try:
        from cuda.bindings import driver, nvrtc
    except ImportError as error:
        raise CannotFuseError("", f"on CUDA devices cuda-bindings is needed: {error}") from error
    return driver, nvrtc


def _value(result: tuple[Any, ...], log: Callable[[], str] = str) -> Any:
    """The value of a call that returns its status first.

    Raises:
        RuntimeError: the call failed.
    """
    status, *values = result
    if int(status):
        raise RuntimeError(f"{status.name}: {log()}"[:600].rstrip(": "))
    return values[0] if values else None


def cubin(source: str, arch: str) -> bytes:
    """Machine code for an architecture such as "sm_90", from the cache or fresh.

    Raises:
        CannotFuseError: NVRTC is not there, or fails.
    """
    try:
        place = _place(source, arch)
        if place is not None:
            with contextlib.suppress(OSError):
                return content(place)
        code = _compile(source, arch)
    except RuntimeError as error:
        raise CannotFuseError("", f"NVRTC: {error}") from error
    keep(place, code)
    return code


def _place(source: str, arch: str) -> Path | None:
    _, nvrtc = bindings()
    version = nvrtc.nvrtcVersion()
    return entry(["cubin", source, arch, *_OPTIONS, *map(str, version[1:])], ".cubin")


def _compile(source: str, arch: str) -> bytes:
    _, nvrtc = bindings()
    program = _value(nvrtc.nvrtcCreateProgram(source.encode(), b"gradtx.cu", 0, [], []))

    def log() -> str:
        text = bytes(_value(nvrtc.nvrtcGetProgramLogSize(program)))
        _value(nvrtc.nvrtcGetProgramLog(program, text))
        return text.decode(errors="replace")

    try:
        options = [f"--gpu-architecture={arch}".encode(), *(o.encode() for o in _OPTIONS)]
        _value(nvrtc.nvrtcCompileProgram(program, len(options), options), log)
        code = bytes(_value(nvrtc.nvrtcGetCUBINSize(program)))
        _value(nvrtc.nvrtcGetCUBIN(program, code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


class CudaModule:
    """Machine code loaded into a device's primary context.

    Args:
        code: a cubin.
        device: with an index.
    """

    def __init__(self, code: bytes, device: torch.device) -> None:
        self._driver, _ = bindings()
        self._device = device
        self._functions: dict[str, Any] = {}
        with torch.cuda.device(device):
            handle = _value(self._driver.cuDeviceGet(device.index))
            self._context = _value(self._driver.cuDevicePrimaryCtxRetain(handle))
            _value(self._driver.cuCtxSetCurrent(self._context))
            self._module = _value(self._driver.cuModuleLoadData(code))

    def launch(self, kernel: str, blocks: int, threads: int, args: ctypes.Structure) -> None:
        """Launch a kernel that takes one argument block by value, on the current stream.

        Raises:
            RuntimeError: the device fails; the step may be half done.
        """
        driver = self._driver
        with torch.cuda.device(self._device):
            _value(driver.cuCtxSetCurrent(self._context))  # a new thread may have none
            if kernel not in self._functions:
                self._functions[kernel] = _value(
                    driver.cuModuleGetFunction(self._module, kernel.encode())
                )
            stream = torch.cuda.current_stream(self._device).cuda_stream
            addresses = (ctypes.c_void_p * 1)(ctypes.addressof(args))
            _value(
                driver.cuLaunchKernel(
                    self._functions[kernel],
                    *(blocks, 1, 1, threads, 1, 1, 0, stream),
                    ctypes.addressof(addresses),
                    0,
                )
            )


@functools.cache
def load(source: str, device: torch.device) -> Module:
    """The compiled source on a device.

    Raises:
        CannotFuseError: it cannot be compiled or loaded.
    """
    major, minor = torch.cuda.get_device_capability(device)
    code = cubin(source, f"sm_{major}{minor}")
    try:
        return CudaModule(code, device)
    except RuntimeError as error:
        discard(_place(source, f"sm_{major}{minor}"))
        raise CannotFuseError("", f"CUDA driver: {error}") from error
