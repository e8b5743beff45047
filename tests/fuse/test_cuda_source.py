"""Generated CUDA C++: run on the CPU it gives what the pure chain gives, and nvcc compiles it."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import gradtx as gx
from gradtx.fuse.cuda import launch as cuda_launch
from gradtx.fuse.cuda import table as cuda_table
from gradtx.fuse.cuda.blocks import PRELUDE as BLOCKS
from gradtx.fuse.cuda.prelude import CHUNK, PRELUDE
from gradtx.fuse.cuda.table import CudaBackEnd
from gradtx.fuse.ir.errors import CannotFuseError
from gradtx.fuse.runtime import backend, engine
from gradtx.fuse.runtime import segments as parts
from tests.fuse import cuda_emulator
from tests.fuse.cuda_emulator import Emulated
from tests.fuse.helpers import assert_same, copy, run_both, tensors
from tests.fuse.test_cuda_blocks import CHAINS as CODED
from tests.fuse.test_matrix import CHAINS as MATRICES
from tests.fuse.test_matrix import factored_adam
from tests.fuse.test_table import CHAINS
from tests.table import ROWS, Row

CPU = torch.device("cpu")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_emulated_is_pure(row: Row, modules: list[Emulated]) -> None:
    fused, pure, step = run_both(row.make(), steps=3)
    assert_same(fused, pure)
    if row.runs == "fused" and row.id != "identity":
        if "on CUDA devices" in step.report() or row.name in ("microadam", "sparse_mfac"):
            return  # fused on CPUs only
        assert step.report() == "everything is fused"
        assert any("gx_put" in m.launches for m in modules)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", CHAINS)
def test_dtypes(name: str, dtype: torch.dtype, modules: list[Emulated]) -> None:
    fused, pure, step = run_both(CHAINS[name](), dtype=dtype)
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-9}[dtype]
    if name == "low moments":
        tolerance = 2e-2  # a moment may round the other way
    assert_same(fused, pure, rtol=tolerance, atol=tolerance / 10)
    assert step.report() == "everything is fused"


@pytest.mark.parametrize("name", CHAINS)
def test_shapes(name: str, modules: list[Emulated]) -> None:
    shapes = {
        **{"scalar": (), "empty": (0,), "empty_matrix": (3, 0), "one": (1,), "ones": (1, 1)},
        **{"row": (1, 9), "column": (9, 1), "odd": (1031,), "chunk": (CHUNK,)},
        "three_chunks": (2 * CHUNK + 3,),
    }
    fused, pure, _ = run_both(CHAINS[name](), shapes, steps=2)
    assert_same(fused, pure)


@pytest.mark.parametrize("offset", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_addresses_need_not_be_aligned(
    offset: int, dtype: torch.dtype, modules: list[Emulated]
) -> None:
    tx = gx.chain(gx.clip_by_global_norm(0.5), gx.adamw(0.1))
    flat = tensors({"w": (203,)}, 0, dtype)["w"]
    params = {"w": flat[offset : offset + 200]}
    grads = {"w": tensors({"w": (200,)}, 1, dtype)["w"]}
    pure = copy(params)
    updates, _ = tx.update(grads, tx.init(pure), pure)
    step = gx.fuse(tx)
    step(params, grads, tx.init(params))
    rtol = 1e-2 if dtype == torch.bfloat16 else 2e-5
    assert_same(params, gx.apply_updates(pure, updates), rtol=rtol)
    assert step.report() == "everything is fused"


def test_nothing_depends_on_the_order_of_blocks_and_threads(modules: list[Emulated]) -> None:
    tx = gx.chain(gx.clip_by_global_norm(0.5), gx.scale_by_adam(), gx.cautious_mask(), gx.scale(-1))
    shapes = {"a": (3 * CHUNK + 7,), "b": (5, 3)}
    results = []
    for backwards in (False, True):
        step, params = gx.fuse(tx), tensors(shapes, 0)
        state = tx.init(params)
        step(params, tensors(shapes, 1), state)
        for module in modules:
            module.backwards = backwards
        step(params, tensors(shapes, 2), state)
        results.append((params, state))
    assert_same(*results, rtol=0, atol=0)


def test_numbers_may_stand_on_the_device(modules: list[Emulated]) -> None:
    lr = torch.tensor(0.25)
    step = gx.fuse(gx.sgd(1.0))
    params = {"w": torch.zeros(3)}
    state = step.transform.init(params)
    grads = {"w": torch.ones(3)}
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        step(params, grads, state, hyper={"lr": lr.to(dtype)})
    assert_same(params, {"w": torch.full((3,), -1.0)})
    back = CudaBackEnd(CPU, cuda_emulator.load)
    with pytest.raises(CannotFuseError, match="int8"):
        back.number(torch.tensor(1, dtype=torch.int8))
    with pytest.raises(CannotFuseError, match="meta"):
        back.number(torch.tensor(1.0, device="meta"))


def test_few_launches_per_step(modules: list[Emulated]) -> None:
    tx = gx.adamw(0.1)
    shapes = {str(i): (17,) for i in range(400)}
    params = tensors(shapes, 0)
    state, step, grads = tx.init(params), gx.fuse(tx), tensors(shapes, 1)
    step(params, grads, state)
    (module,) = {id(m): m for m in modules if len(m.launches) > 6}.values()
    for hyper, want in (({}, []), ({"lr": 0.2}, ["gx_put"])):
        module.launches.clear()
        step(params, grads, state, hyper=hyper)
        assert module.launches == [*want, "scalars_0", "pass_0", "commit_leaf"]


@pytest.mark.parametrize("is_factored", [False, True])
def test_a_captured_step_can_be_replayed(
    is_factored: bool, modules: list[Emulated], monkeypatch: pytest.MonkeyPatch
) -> None:
    tx = gx.adamw(0.1)
    if is_factored:
        tx = gx.chain(factored_adam(), gx.scale_by_learning_rate(0.1))
    lr = torch.tensor(0.1)
    params, grads = tensors({"w": (70, 9)}, 0), tensors({"w": (70, 9)}, 1)
    state = tx.init(params)
    pure, pure_state = copy(params), copy(state)
    step = gx.fuse(tx)
    step(params, grads, state, hyper={"lr": lr})
    recorded: list[Any] = []
    kept: list[list[Tensor]] = []
    allocate = cuda_table.CudaTable._allocate

    def record(self: Emulated, kernel: str, *launch: Any) -> None:
        *sizes, args = launch
        recorded.append((self, kernel, *sizes, type(args).from_buffer_copy(args)))

    def keep(self: Any) -> list[Tensor]:
        kept.append(allocate(self))
        return kept[-1]

    with monkeypatch.context() as patch:
        patch.setattr(cuda_table, "_stream", lambda device: (0, True))
        patch.setattr(Emulated, "launch", record)
        patch.setattr(cuda_table.CudaTable, "_allocate", keep)
        step(params, grads, state, hyper={"lr": lr})
    elsewhere = {"w": grads["w"].clone()}
    step(params, elsewhere, state, hyper={"lr": 0.3})
    lr.fill_(0.2)
    for module, kernel, blocks, threads, args in recorded:
        module.launch(kernel, blocks, threads, args)
    for rate in (0.1, 0.3, 0.2):
        updates, pure_state = tx.update(grads, pure_state, pure, hyper={"lr": rate})
        pure = gx.apply_updates(pure, updates)
    assert_same((params, state), (pure, pure_state))


def test_conversions_round_to_nearest_even(modules: list[Emulated]) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16)  # as bits of 16-bit numbers
    for dtype in (torch.bfloat16, torch.float16):
        grads = {"w": every.view(dtype)}
        for factor in (1.0, 0.37, 1.5, 2.0**-11, 3e4):
            params = {"w": torch.zeros_like(grads["w"])}
            step = gx.fuse(gx.scale(factor))
            step(params, grads, ())
            want = (grads["w"].float() * factor).to(dtype)
            torch.testing.assert_close(params["w"], want, rtol=0, atol=0, equal_nan=True)
            assert step.report() == "everything is fused"


# -- compilers ------------------------------------------------------------------------------------


class Silent:
    """A module that does nothing."""

    def launch(self, kernel: str, blocks: int, threads: int, args: ctypes.Structure) -> None:
        pass


@functools.cache
def all_sources() -> tuple[str, ...]:
    """What is generated for all rows of the table, and for chains in other dtypes."""
    found: dict[str, None] = {}

    def load(source: str, device: torch.device) -> Silent:
        found[source] = None
        return Silent()

    with pytest.MonkeyPatch.context() as patch:
        back = CudaBackEnd(CPU, load)
        patch.setattr(engine, "back_end", lambda device: back)
        patch.setattr(parts, "check", lambda *_: None)
        for row in ROWS:
            run_both(row.make(), steps=1)
        for make in (*CHAINS.values(), *MATRICES.values(), *CODED.values()):
            for dtype in (torch.bfloat16, torch.float16, torch.float64):
                run_both(make(), steps=1, dtype=dtype)
    return tuple(found)


def one_unit(sources: tuple[str, ...]) -> str:
    """Many sources as one translation unit."""
    units = [PRELUDE, BLOCKS]
    for i, source in enumerate(sources):
        own = source.removeprefix(PRELUDE).removeprefix("\n" + BLOCKS)
        units.append(re.sub(r"GX_KERNEL (\w+)\(", rf"GX_KERNEL k{i}_\1(", own))
    return "\n".join(units)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_nvcc_compiles_everything(tmp_path: Path) -> None:
    sources = all_sources()
    assert len(sources) > 80
    file = tmp_path / "kernels.cu"
    file.write_text(one_unit(sources))
    targets = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (80, 90, 100)]
    command = ["nvcc", "-w", "-std=c++17", "--fatbin", "-Xptxas=-O1", "--threads=2", *targets]
    run = subprocess.run(
        [*command, str(file), "-o", str(tmp_path / "kernels.fatbin")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[:4000]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_nvrtc_compiles(
    arch: str, modules: list[Emulated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    monkeypatch.setenv("GRADTX_CACHE_DIR", str(tmp_path))
    step, params = gx.fuse(CHAINS["clipped adamw"]()), tensors({"w": (5,)}, 0)
    step(params, tensors({"w": (5,)}, 1), step.transform.init(params))
    text = PRELUDE
    code = cuda_launch.cubin(text, arch)
    assert code[1:4] == b"ELF"
    (file,) = tmp_path.glob("*.cubin")
    file.write_bytes(b"damaged")
    assert cuda_launch.cubin(text, arch) == code
    with pytest.raises(CannotFuseError, match="undefined"):
        cuda_launch.cubin("__global__ void f() { nothing(); }", arch)


def test_machine_code_is_kept_unless_it_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[str] = []
    nvrtc = SimpleNamespace(nvrtcVersion=lambda: (0, 12, 8))
    monkeypatch.setenv("GRADTX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda_launch, "bindings", lambda: (None, nvrtc))
    monkeypatch.setattr(cuda_launch, "_compile", lambda *a: builds.append(a) or b"code")
    assert [cuda_launch.cubin("text", "sm_90") for _ in range(2)] == [b"code"] * 2
    assert len(builds) == 1

    def refuse(code: bytes, device: torch.device) -> None:
        raise RuntimeError("invalid image")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda_launch, "CudaModule", refuse)
    with pytest.raises(CannotFuseError, match="invalid image"):
        cuda_launch.load("text", torch.device("cuda", 0))
    assert not list((tmp_path / "cache").iterdir())


@pytest.fixture
def without_bindings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    cuda_launch.bindings.cache_clear()
    yield
    cuda_launch.bindings.cache_clear()


def test_without_bindings_there_is_no_back_end(without_bindings: None) -> None:
    with pytest.raises(CannotFuseError, match="cuda-bindings is needed"):
        backend.back_end(torch.device("cuda", 0))
    with pytest.raises(CannotFuseError, match="no back end for meta"):
        backend.back_end(torch.device("meta"))
