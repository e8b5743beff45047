"""Optional compiled kernels; everything else is in pyproject.toml.

GRADTX_BUILD=0 skips them, GRADTX_BUILD=1 makes any failure to build them an error; by default a
failure leaves a pure Python installation and one line that says why.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import setuptools
from setuptools import setup

if int(setuptools.__version__.partition(".")[0]) < 77:  # older ones do not read pyproject.toml
    raise SystemExit(
        f"gradtx: setuptools >= 77 is needed, found {setuptools.__version__}: "
        'pip install "setuptools>=77"'
    )

MODE = os.environ.get("GRADTX_BUILD", "auto")
CSRC = Path("gradtx_cuda/csrc")
CUDA_ARCHS = ("8.0", "9.0", "10.0")
MIN_TORCH = (2, 10)
# The oldest libtorch that the stable-ABI binary may meet.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# Kernels promise the bits of the reference: no contraction, no reassociation.
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-std=c++17",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    TORCH_TARGET,
]
NVCC_FLAGS = ["-O3", "-std=c++17", "--fmad=false", "-DUSE_CUDA", TORCH_TARGET]


class NotBuildableError(Exception):
    """Why the kernels, or their CUDA half, cannot be built here."""


def report(message: str) -> None:
    """Print one line, in commands that build something."""
    if any(re.match("bdist|build|install|develop|editable", a) for a in sys.argv[1:]):
        print(f"gradtx: {message}", file=sys.stderr, flush=True)


def require_torch() -> Any:
    """Return torch's extension tools."""
    if sys.platform == "win32":
        raise NotBuildableError("the kernels are not available on Windows")
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise NotBuildableError(
            "torch is not importable here; install with --no-build-isolation to build the kernels"
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MIN_TORCH:
        raise NotBuildableError(f"the kernels need torch >= 2.10, found {torch.__version__}")
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "c++", "g++")):
        raise NotBuildableError("no C++ compiler was found (looked for $CXX, c++, g++)")
    return cpp_extension


def require_cuda(cpp_extension: Any) -> list[str]:
    """Return the architectures to compile for."""
    import torch

    if torch.version.cuda is None:
        raise NotBuildableError("this torch is a CPU build")
    if cpp_extension.CUDA_HOME is None:
        raise NotBuildableError("nvcc was not found")
    nvcc = Path(cpp_extension.CUDA_HOME, "bin", "nvcc")
    try:
        version = subprocess.check_output([nvcc, "--version"], text=True)
        supported = subprocess.check_output([nvcc, "--list-gpu-arch"], text=True).split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotBuildableError(f"{nvcc} does not run: {error}") from error
    release = re.search(r"release (\d+)", version)
    if release is None or release[1] != torch.version.cuda.split(".")[0]:
        raise NotBuildableError(
            f"nvcc and torch disagree on the CUDA version (torch has {torch.version.cuda})"
        )
    return [arch for arch in CUDA_ARCHS if f"compute_{arch.replace('.', '')}" in supported]


def sources(pattern: str) -> list[str]:
    return sorted(str(path) for path in CSRC.glob(pattern))


def make_cpu_extension(cpp_extension: Any) -> Any:
    return cpp_extension.CppExtension(
        "gradtx_cuda._C",
        sources=[*sources("*.cpp"), *sources("cpu/*.cpp")],
        depends=sources("**/*.h"),
        extra_compile_args={"cxx": CXX_FLAGS},
        py_limited_api=True,
    )


def make_cuda_extension(cpp_extension: Any, archs: list[str]) -> Any:
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(archs))
    return cpp_extension.CUDAExtension(
        "gradtx_cuda._C",
        sources=[*sources("*.cpp"), *sources("cpu/*.cpp"), *sources("cuda/*.cu")],
        depends=sources("**/*.h"),
        define_macros=[("GX_WITH_CUDA", None)],
        extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS},
        py_limited_api=True,
    )


def make_extension(cpp_extension: Any) -> Any:
    """Return the extension: CPU kernels, and CUDA kernels where they can be built."""
    try:
        archs = require_cuda(cpp_extension)
    except NotBuildableError as reason:
        report(f"building CPU kernels only: {reason}")
        return make_cpu_extension(cpp_extension)
    extension = make_cuda_extension(cpp_extension, archs)
    report(f"building CPU and CUDA kernels ({os.environ['TORCH_CUDA_ARCH_LIST']})")
    return extension


def make_build_command(cpp_extension: Any) -> type:
    """Return a build_ext that drops what does not compile: CUDA first, then all kernels."""

    class BuildKernels(cpp_extension.BuildExtension):
        def build_extensions(self) -> None:
            for extension in self.extensions:
                self.add_stamp(extension)
            try:
                super().build_extensions()
            except Exception as error:
                if MODE == "1":
                    raise
                reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
                if self.extensions[0].define_macros:
                    report(f"CUDA kernels did not build, trying CPU kernels only: {reason}")
                    vars(self.extensions[0]).update(cpu_settings(cpp_extension))
                    self.build_extensions()
                else:
                    report(f"the kernels did not compile, installing pure Python: {reason}")
                    for extension in self.extensions:  # what an earlier build has left
                        Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
                    self.extensions.clear()

        def add_stamp(self, extension: Any) -> None:
            """Let the library say of which sources it is; a file of its own, compiled at once."""
            place = Path(self.build_temp, "stamp.cpp")
            text = runpy.run_path(str(CSRC.parent / "sources.py"))["stamp"](CSRC)
            if not place.exists() or place.read_text() != text:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text)
            if str(place) not in extension.sources:
                extension.sources.append(str(place))

    return BuildKernels


def make_wheel_command() -> type:
    """Return a bdist_wheel that is tagged as pure Python where no kernels were built."""
    from setuptools.command.bdist_wheel import bdist_wheel

    class TagWhatWasBuilt(bdist_wheel):
        def run(self) -> None:
            self.run_command("build")
            if not self.distribution.ext_modules:
                self.root_is_pure, self.py_limited_api = True, False
            super().run()

    return TagWhatWasBuilt


def cpu_settings(cpp_extension: Any) -> dict[str, Any]:
    """Return what tells the CPU extension from the CUDA extension."""
    extension = make_cpu_extension(cpp_extension)
    names = ("sources", "define_macros", "include_dirs", "library_dirs", "libraries")
    return {name: getattr(extension, name) for name in (*names, "extra_compile_args")}


def kernel_options() -> dict[str, Any]:
    """Return the arguments of setup() that build the kernels, if they can be built."""
    try:
        if MODE == "0":
            raise NotBuildableError("GRADTX_BUILD=0")
        cpp_extension = require_torch()
    except NotBuildableError as reason:
        if MODE == "1":
            raise SystemExit(f"gradtx: GRADTX_BUILD=1, but {reason}") from reason
        report(f"installing pure Python: {reason}")
        return {}
    return {
        "ext_modules": [make_extension(cpp_extension)],
        "cmdclass": {
            "build_ext": make_build_command(cpp_extension),
            "bdist_wheel": make_wheel_command(),
        },
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**kernel_options())
