"""Other libraries' optimizers as steps on given parameters, where the library is installed."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], object]


@dataclass(frozen=True)
class Peer:
    """One optimizer of another library.

    Attributes:
        path: the class, or the function of Optax, by its full name.
        options: its arguments; others keep their defaults.
        matrices: it takes the matrices but the embedding alone; fused AdamW takes the rest.
    """

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    matrices: bool = False

    @property
    def name(self) -> str:
        """How it is called in tables."""
        shown = ", ".join(f"{k}={v}" for k, v in self.options.items())
        return self.path + (f"({shown})" if shown else "")

    @property
    def package(self) -> str:
        """The package that has it."""
        return self.path.split(".")[0]

    def step(self, params: list[Tensor]) -> Step:
        """A step on these parameters; a library on arrays of its own gets copies.

        Raises:
            ImportError: the package is not installed.
        """
        module, _, name = self.path.rpartition(".")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make = getattr(importlib.import_module(module), name)
            if self.package == "optax":
                return _optax_step(make(learning_rate=1e-3, **self.options), params)
            if not self.matrices:
                return make(params, **self.options).step
            chosen, rest = split(params)
            one, other = make(chosen, **self.options), torch.optim.AdamW(rest, fused=True)
            return lambda: (one.step(), other.step())


def split(params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices without the embedding, which comes first, and the rest."""
    chosen = [p for p in params[1:] if p.ndim == 2]
    return chosen, [p for i, p in enumerate(params) if i == 0 or p.ndim != 2]


def _optax_step(tx: Any, params: list[Tensor]) -> Step:
    """One jitted function that gives new parameters and state in the memory of the old ones."""
    import jax
    import optax

    def update(values: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, values)
        return optax.apply_updates(values, updates), state

    jitted = jax.jit(update, donate_argnums=(0, 1))
    values = [jax.numpy.array(p.detach().numpy()) for p in params]
    grads = [jax.numpy.array(p.grad.numpy()) for p in params if p.grad is not None]
    state = jax.tree.map(jax.numpy.copy, tx.init(values))  # may hold the values themselves

    def step() -> None:
        nonlocal values, state
        values, state = jax.block_until_ready(jitted(values, state, grads))

    return step


def set_threads(count: int) -> None:
    """How many threads everything uses; before a peer is imported."""
    torch.set_num_threads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)
    if count == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = flags
