"""Register an operator under ``gradtx::*`` from a schema, a reference, a fake and a vmap rule.

The reference is plain torch code that serves every device. Faster kernels (package ``gradtx_cuda``)
register the same name for one device and then win there; nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from gradtx.core.autocast import outside_autocast
from gradtx.core.watch import is_watched

__all__ = [
    "NAMESPACE",
    "OPS",
    "Op",
    "applied",
    "has_kernel",
    "is_watched",
    "map_examples",
    "operator",
    "require_apart",
    "require_together",
    "single",
]

NAMESPACE = "gradtx"
_LIBRARY = Library(NAMESPACE, "FRAGMENT")

Reference = Callable[..., Any]
VmapRule = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes:
        schema: torch schema without a namespace, ``"name(Tensor x, ...) -> ..."``.
        reference: what the operator computes, in plain torch calls, for one example.
        fake: the same signature, shapes and dtypes only.
        vmap: batching rule ``(info, in_dims, *args) -> (outputs, out_dims)``;
            None makes one call an example.
        mutates: whether it overwrites arguments; it then has no batching rule.
    """

    schema: str
    reference: Reference
    fake: Reference
    vmap: VmapRule | None = None
    mutates: bool = False

    @property
    def name(self) -> str:
        """The operator's name without the namespace."""
        return self.schema.split("(", 1)[0].strip()

    def define(self, library: Library) -> torch._ops.OpOverload:
        """Define the operator in `library`; its outputs are constants for autograd."""
        library.define(self.schema, tags=(torch.Tag.pt2_compliant_tag,))
        reference = outside_autocast(torch.no_grad()(self.reference))
        library.impl(self.name, reference, "CompositeExplicitAutograd")
        library.impl(self.name, torch.library.fallthrough_kernel, "Autograd")
        overload = getattr(getattr(torch.ops, library.ns), self.name).default
        torch.library.register_fake(overload, self.fake, lib=library)
        if not self.mutates:
            rule = self.vmap or partial(map_examples, overload)
            torch.library.register_vmap(overload, rule, lib=library)
        return overload


def map_examples(
    op: Callable[..., Any], info: Any, in_dims: tuple[Any, ...], *args: Any
) -> tuple[Any, Any]:
    """Batching rule that calls `op` once an example and stacks the results."""
    results = [
        op(*(a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    if isinstance(results[0], tuple):
        outputs = tuple(torch.stack(column) for column in zip(*results, strict=True))
        return outputs, (0,) * len(outputs)
    return torch.stack(results), 0


OPS: dict[str, Op] = {}
"""Every operator of this library by name, in order of registration."""


def operator(
    schema: str, *, fake: Reference, vmap: VmapRule | None = None, mutates: bool = False
) -> Callable[[Reference], torch._ops.OpOverload]:
    """Turn a reference function into the dispatcher operator ``gradtx::<name>``.

    Args:
        schema: torch schema without a namespace.
        fake: shapes and dtypes of the outputs.
        vmap: batching rule; by default one call an example.
        mutates: whether it overwrites arguments.

    Returns:
        A decorator that returns the operator and lists it in `OPS`.
    """

    def register(reference: Reference) -> torch._ops.OpOverload:
        op = Op(schema, reference, fake, vmap, mutates)
        OPS[op.name] = op
        return op.define(_LIBRARY)

    return register


def has_kernel(name: str, dispatch_key: str) -> bool:
    """Whether an operator has a compiled kernel for a dispatch key, "CPU" or "CUDA"."""
    return bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", dispatch_key)
    )


def require_together(name: str, *xs: Tensor | None) -> None:
    """Raise ValueError unless all tensors are on one device."""
    devices = {x.device for x in xs if x is not None}
    if len(devices) > 1:
        raise ValueError(
            f"{name}: all tensors must share a device, got {sorted(map(str, devices))}"
        )


def single(value: float, dtype: torch.dtype) -> float:
    """A factor as kernels of this dtype take it: some are infinite in float32, some zero."""
    if dtype == torch.float64:
        return value
    if abs(value) > torch.finfo(torch.float32).max:
        return math.copysign(math.inf, value)
    return 0.0 if abs(value) <= 2.0**-150 else value


def require_apart(name: str, out: Tensor, *others: Tensor) -> None:
    """Raise ValueError if what is overwritten shares memory with others, as dense tensors tell."""
    begin, size = out.data_ptr(), out.numel() * out.element_size()
    for x in others:
        start, length = x.data_ptr(), x.numel() * x.element_size()
        dense = out.is_contiguous() and x.is_contiguous()
        if dense and start < begin + size and begin < start + length:
            raise ValueError(
                f"{name}: what is overwritten must not share memory with another argument"
            )


def applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply``, or its ``forward`` alone where nothing watches.

    ``apply`` inspects the signature at every call, which takes longer than many kernels.
    """
    return function.apply(*args) if is_watched(*args) else function.forward(*args)
