"""``python -m gradtx``: versions, devices, tools, and which backends are in use."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

import torch

import gradtx_cuda
from gradtx import explain, scale
from gradtx._version import __version__
from gradtx.fuse.ir import cache
from gradtx.ops import OPS
from gradtx.ops.registry import has_kernel

_REQUIREMENTS = ("torch", "optree", "numpy")


def environment() -> dict[str, dict[str, str]]:
    """Gather what a bug report needs.

    Returns:
        ``versions``, ``devices``, ``tools`` and ``backends``, each a mapping from name to text.
        A backend's text starts with "active" or "inactive".
    """
    return {
        "versions": {
            "gradtx": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _REQUIREMENTS},
        },
        "devices": _devices(),
        "tools": {"c++": _find_compiler() or "not found", "nvcc": _find_nvcc() or "not found"},
        "backends": {
            "reference": f"active: {len(OPS)} operators, every device",
            "cpu kernels": _kernels("CPU"),
            "cuda kernels": _kernels("CUDA"),
            "fused passes": _fused_passes(),
        },
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        devices[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}"
    return devices


def _find_compiler() -> str | None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which(str(Path(home, "bin", "nvcc")))


def _kernels(dispatch_key: str) -> str:
    status = gradtx_cuda.status()
    if not status.active:
        return f"inactive: {status.reason}"
    names = [name for name in OPS if has_kernel(name, dispatch_key)]
    if not names:
        return "inactive: the library was built without nvcc or against a CPU build of torch"
    if dispatch_key == "CUDA" and not torch.cuda.is_available():
        return "inactive: torch finds no CUDA device"
    return f"active: {', '.join(names)}"


def _fused_passes() -> str:
    """Whether a chain can be compiled here, found by compiling one."""
    plan = explain(
        scale(2.0), {"w": torch.ones(2, dtype=torch.float32, device="cpu")}
    ).splitlines()[-1]
    if plan.startswith("not compiled: "):
        why = plan.removeprefix("not compiled: ")
        return f"inactive: {why}; pointwise chains run as multi-tensor operations"
    folder = cache.directory()
    return f"active: {cache.compiler()}, {f'kept in {folder}' if folder else 'not kept on disk'}"


def format_environment(sections: dict[str, dict[str, str]]) -> str:
    """Lay the sections out as indented text."""
    lines: list[str] = []
    for title, entries in sections.items():
        lines.append(title)
        width = max(map(len, entries))
        lines += [f"  {name:<{width}}  {text}" for name, text in entries.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(format_environment(environment()))
