"""The kernels are optional: a build without them succeeds and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from gradtx_cuda.sources import built_from, digest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not a source tree"),
]


def build(
    tmp_path: Path, *command: str, **environment: str
) -> tuple[subprocess.CompletedProcess, list[Path]]:
    """Build a small source tree around the kernels; return the process and the libraries made."""
    (tmp_path / "gradtx").mkdir()
    for name in ("__init__.py", "_version.py"):
        shutil.copy(ROOT / "gradtx" / name, tmp_path / "gradtx")
    shutil.copytree(ROOT / "gradtx_cuda", tmp_path / "gradtx_cuda", ignore=_ignore_built)
    for name in ("tests", "examples", "benchmarks", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "LICENSE").touch()
    process = subprocess.run(
        [sys.executable, "setup.py", *(command or ("build", "--build-base", "out"))],
        cwd=tmp_path,
        env={**os.environ, "MAX_JOBS": "2", "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return process, list(tmp_path.glob("out/**/*.so"))


def _ignore_built(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".so", "__pycache__"))]


def test_broken_compiler_degrades(tmp_path):
    tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    left = tmp_path / "out" / f"lib.{tag}" / "gradtx_cuda" / "_C.abi3.so"  # of an earlier build
    left.parent.mkdir(parents=True)
    left.touch()
    process, libraries = build(tmp_path, GRADTX_BUILD="auto", CC="/bin/false", CXX="/bin/false")
    assert process.returncode == 0, process.stderr
    assert "gradtx: the kernels did not compile, installing pure Python: " in process.stderr
    assert libraries == []


def test_a_wheel_without_kernels_is_tagged_as_one(tmp_path):
    process, _ = build(
        tmp_path, "bdist_wheel", GRADTX_BUILD="auto", CC="/bin/false", CXX="/bin/false"
    )
    assert process.returncode == 0, process.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as content:
        assert not [name for name in content.namelist() if name.endswith(".so")]
        assert "gradtx/__init__.py" in content.namelist()


def test_an_old_setuptools_is_named(tmp_path):
    (tmp_path / "setuptools").mkdir()
    (tmp_path / "setuptools" / "__init__.py").write_text("__version__ = '65.5.0'; setup = None")
    done = subprocess.run(
        [sys.executable, ROOT / "setup.py", "bdist_wheel"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gradtx: setuptools >= 77 is needed, found 65.5.0")


def test_the_source_distribution_is_whole(tmp_path):
    process, _ = build(tmp_path, "sdist", GRADTX_BUILD="0")
    assert process.returncode == 0, process.stderr
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    for folder in ("tests", "examples", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in names


def test_broken_compiler_is_fatal_on_request(tmp_path):
    process, libraries = build(tmp_path, GRADTX_BUILD="1", CC="/bin/false", CXX="/bin/false")
    assert process.returncode != 0
    assert libraries == []


def test_kernels_can_be_skipped(tmp_path):
    process, libraries = build(tmp_path, GRADTX_BUILD="0")
    assert process.returncode == 0, process.stderr
    assert "gradtx: installing pure Python: GRADTX_BUILD=0" in process.stderr
    assert libraries == []


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_build(tmp_path):
    process, libraries = build(tmp_path, GRADTX_BUILD="1")
    assert process.returncode == 0, process.stderr
    assert [path.name for path in libraries] == ["_C.abi3.so"]
    assert built_from(libraries[0]) == digest(ROOT / "gradtx_cuda" / "csrc") != ""
