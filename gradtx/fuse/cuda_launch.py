"""Compile CUDA C++ through NVRTC, load it, and launch kernels on the current stream.

Only ``cuda.bindings`` is used, which torch's CUDA wheels bring; it is imported when first needed.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch

from .cache import content, entry
from .errors import CannotFuseError

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
        from cuda.bindings import driver, nvrtc  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise CannotFuseError("", f"on CUDA devices cuda-bindings is needed: {error}") from error
    return driver, nvrtc


def _checked(result: tuple[Any, ...], log: Callable[[], str] = str) -> Any:
    """The value of a call that returns its status first."""
    status, *values = result
    if int(status):
        raise CannotFuseError("", f"{status.name}: {log()}"[:600].rstrip(": "))
    return values[0] if values else None


def cubin(source: str, arch: str) -> bytes:
    """Machine code for an architecture such as "sm_90", from the cache or fresh.

    Raises:
        CannotFuseError: NVRTC is not there, or fails.
    """
    _, nvrtc = bindings()
    try:
        version = nvrtc.nvrtcVersion()
    except RuntimeError as error:
        raise CannotFuseError("", f"NVRTC cannot be loaded: {error}") from error
    key = ["cubin", source, arch, *_OPTIONS, *map(str, version[1:])]
    return content(entry(key, ".cubin", lambda: _compile(source, arch)))


def _compile(source: str, arch: str) -> bytes:
    _, nvrtc = bindings()
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"gradtx.cu", 0, [], []))

    def log() -> str:
        text = bytes(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        _checked(nvrtc.nvrtcGetProgramLog(program, text))
        return text.decode(errors="replace")

    try:
        options = [f"--gpu-architecture={arch}".encode(), *(o.encode() for o in _OPTIONS)]
        _checked(nvrtc.nvrtcCompileProgram(program, len(options), options), log)
        code = bytes(_checked(nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc.nvrtcGetCUBIN(program, code))
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
            handle = _checked(self._driver.cuDeviceGet(device.index))
            self._context = _checked(self._driver.cuDevicePrimaryCtxRetain(handle))
            _checked(self._driver.cuCtxSetCurrent(self._context))
            self._module = _checked(self._driver.cuModuleLoadData(code))

    def launch(self, kernel: str, blocks: int, threads: int, args: ctypes.Structure) -> None:
        """Launch a kernel that takes one argument block by value, on the current stream."""
        driver = self._driver
        with torch.cuda.device(self._device):
            _checked(driver.cuCtxSetCurrent(self._context))  # a new thread may have none
            if kernel not in self._functions:
                self._functions[kernel] = _checked(
                    driver.cuModuleGetFunction(self._module, kernel.encode())
                )
            stream = torch.cuda.current_stream(self._device).cuda_stream
            addresses = (ctypes.c_void_p * 1)(ctypes.addressof(args))
            _checked(
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
    return CudaModule(cubin(source, f"sm_{major}{minor}"), device)
