"""Imports follow the order of the rooms, modules are short, and nothing goes in circles."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradtx

PACKAGE = Path(gradtx.__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"
LINES = 450
THIRD_PARTY = {"numpy", "optree", "torch", "typing_extensions"}

# What a room may import, besides itself and _version.
LOWER = ("core", "ops", "codecs", "compressors")
MIDDLE = (*LOWER, "transforms", "subspace", "precondition", "sparsity", "schedules")
BASE = (*MIDDLE, "recipes")
ALLOWED = {
    "core": (),
    "ops": ("core",),
    "codecs": ("core", "ops"),
    "compressors": ("core", "ops"),
    "transforms": LOWER,
    "subspace": LOWER,
    "precondition": LOWER,
    "sparsity": LOWER,
    "schedules": ("core",),
    "recipes": MIDDLE,
    "optim": (*BASE, "fuse", "distributed"),
    "fuse": ("core", "ops", "codecs"),
    "distributed": BASE,
    "adapters": BASE,
    "capacity": BASE,
    "testing": (*BASE, "fuse", "meta"),
    "meta": BASE,
    "solutions": (*BASE, "capacity"),
}
# What a room of fuse may import of its others.
FUSE = {
    "ir": (),
    "frontend": ("ir",),
    "cpp": ("ir",),
    "cuda": ("ir",),
    "runtime": ("ir", "frontend", "cpp", "cuda"),
}
TOP = {"__init__", "__main__", "_collector", "_version"}  # of the package itself: may import all
SEES_THE_EXTENSION = {"ops", "__main__"}


def modules() -> dict[str, Path]:
    """Dotted name -> file, packages under their own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Every module that ``name`` imports, wherever in the file, ``from`` names resolved."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def room(name: str) -> str:
    """The room of a module of ours; the package's own modules are their own rooms."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def is_ours(name: str) -> bool:
    return name.split(".")[0] == "gradtx"


def test_every_room_is_known() -> None:
    unknown = {room(name) for name in MODULES} - set(ALLOWED) - TOP
    assert not unknown, f"rooms without a place in the order: {sorted(unknown)}"


def test_rooms_import_downwards() -> None:
    wrong = []
    for name in MODULES:
        here = room(name)
        for target in filter(is_ours, imports(name)):
            there = room(target)
            if here not in TOP and there not in (here, "_version", *ALLOWED[here]):
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_rooms_of_fuse_import_downwards() -> None:
    wrong = []
    for name in MODULES:
        here = name.split(".")[2:3]
        if room(name) != "fuse" or not here:
            continue
        for target in imports(name):
            there = target.split(".")[2:3]
            inside = room(target) == "fuse" if is_ours(target) else False
            if inside and (not there or there[0] not in (*here, *FUSE[here[0]])):
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_fuse_knows_no_transform() -> None:
    """It knows what transforms declare in ``core.execution``."""
    unknown = {"transforms", "compressors", "subspace", "precondition", "sparsity", "recipes"}
    wrong = [
        f"{name} imports {target}"
        for name in MODULES
        if room(name) == "fuse"
        for target in filter(is_ours, imports(name))
        if room(target) in unknown
    ]
    assert not wrong, "\n".join(wrong)


def test_only_ops_sees_the_extension() -> None:
    wrong = [
        name
        for name in MODULES
        if room(name) not in SEES_THE_EXTENSION
        and any(target.split(".")[0] == "gradtx_cuda" for target in imports(name))
    ]
    assert not wrong, wrong


def test_dependencies_are_declared() -> None:
    """The standard library, the four run-time dependencies, and ourselves.

    The binding to NVRTC comes with torch's CUDA builds and is imported only when a GPU is used,
    matplotlib only when a picture is drawn, safetensors only when such a file is read.
    """
    allowed = THIRD_PARTY | set(sys.stdlib_module_names) | {"gradtx", "gradtx_cuda"}
    with_extras = {
        "gradtx.fuse.cuda.launch": {"cuda"},
        "gradtx.capacity.picture": {"matplotlib"},
        "gradtx.solutions.picture": {"matplotlib"},
        "gradtx.adapters.peft": {"safetensors"},
    }
    wrong = [
        f"{name} imports {target}"
        for name in MODULES
        for target in imports(name)
        if target.split(".")[0] not in allowed | with_extras.get(name, set())
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_is_long() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    long = {name: n for name, n in lengths.items() if n >= LINES}
    assert not long, long
    if CONTRIBUTING.exists():
        assert f"under {LINES} lines" in CONTRIBUTING.read_text()


def test_no_import_cycles() -> None:
    """Imports inside functions count: they would only hide a cycle."""
    graph = {
        name: {t for t in imports(name) if t in MODULES and t != name}
        for name in MODULES
        if name != "gradtx"  # the façade imports everything, and nothing imports it
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done or name not in graph:
            return
        for target in sorted(graph[name]):
            visit(target, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_nothing_imports_the_facade() -> None:
    wrong = [name for name in MODULES if room(name) not in TOP and "gradtx" in set(imports(name))]
    assert not wrong, wrong


def test_rooms_that_few_programs_need_are_imported_later() -> None:
    code = (
        "import sys, gradtx as gx; later = ('adapters', 'capacity', 'solutions', 'testing'); "
        "print(*(room for room in later if f'gradtx.{room}' in sys.modules)); "
        "print(*(getattr(gx, room).__name__ for room in later))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    loaded, found = done.stdout.split("\n")[:2]
    assert loaded == ""
    assert found == "gradtx.adapters gradtx.capacity gradtx.solutions gradtx.testing"
    with pytest.raises(AttributeError, match="module 'gradtx' has no attribute 'adapter'"):
        _ = gradtx.adapter  # type: ignore[attr-defined]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_importing_does_not_collect_and_leaves_the_collector_as_it_was(
    enabled: bool, fails: bool
) -> None:
    """A collection in it would look through all of torch's objects, a fifth of the time."""
    code = (
        "import gc, sys, torch; from contextlib import suppress; collections = []\n"
        f"gc.{'enable' if enabled else 'disable'}()\n"
        "gc.callbacks.append(lambda phase, info: collections.append(info['generation']))\n"
        f"if {fails}: sys.modules['gradtx.optim.optimizer'] = None\n"
        "with suppress(ImportError):\n"
        "    import gradtx\n"
        "print(2 in collections, gc.isenabled(), 'gradtx' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", str(enabled), str(not fails)]


# What makes tensors out of numbers: without dtype and device they would be the default ones.
FACTORIES = {
    *("arange", "as_tensor", "asarray", "empty", "empty_strided", "eye", "full", "linspace"),
    *("logspace", "ones", "rand", "randint", "randn", "randperm", "range", "scalar_tensor"),
    *("tensor", "tril_indices", "triu_indices", "zeros"),
}


def is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return is_number(node.operand)
    return isinstance(node, ast.Constant) or ast.unparse(node) in ("torch.inf", "torch.nan")


def test_every_tensor_has_a_dtype_and_a_device() -> None:
    wrong = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            made = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            given = {keyword.arg for keyword in node.keywords}
            if made and node.func.attr in FACTORIES and not {"dtype", "device"} <= given:
                wrong.append(f"{name}:{node.lineno} torch.{node.func.attr} needs dtype and device")
            # Of two numbers, where makes a tensor of the default dtype.
            numbers = [is_number(arg) for arg in node.args[1:]]
            if made and node.func.attr == "where" and len(numbers) == 2 and all(numbers):
                wrong.append(f"{name}:{node.lineno} torch.where of two numbers")
    assert not wrong, "\n".join(wrong)
