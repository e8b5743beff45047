"""Compressed gradients between the processes of DistributedDataParallel."""

from __future__ import annotations

import inspect
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from ..codecs import Codec, as_codec
from ..compressors import Compressor
from ..core import tree
from ..core.autocast import outside_autocast
from ..core.tree import accumulator
from .exchange import exchange
from .rounds import Exchange, Mean, Wire, run


class CommHook:
    """Average gradients over processes by what a compressor keeps; made by ``comm_hook``."""

    __name__ = "comm_hook"
    # DistributedDataParallel looks at the names and annotations of the arguments.
    __signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for name in ("state", "bucket")
        ]
    )

    def __init__(
        self, compressor: Compressor, quantizer: Codec | torch.dtype | None, group: Any
    ) -> None:
        if not isinstance(compressor, Compressor):
            raise TypeError(
                "comm_hook: compressor must be one of gx.compressors, "
                f"got {type(compressor).__name__}"
            )
        self.compressor = compressor
        if not isinstance(quantizer, (Codec, torch.dtype, NoneType)):
            raise TypeError(
                "comm_hook: quantizer must be one of gx.codecs, a dtype or None, "
                f"got {type(quantizer).__name__}"
            )
        self.codec = as_codec(quantizer)
        self.__qualname__ = f"comm_hook({compressor!r})"
        self._wire = Wire(group)
        self._names: dict[nn.Parameter, str] = {}
        self._errors: dict[str, Any] = {}
        self._states: dict[str, Any] = {}
        self._loaded: dict[str, dict[str, Any]] = {"errors": {}, "compressors": {}}

    @property
    def sent_bytes(self) -> int:
        """Bytes given to collectives so far."""
        return self._wire.sent_bytes

    @outside_autocast
    def __call__(self, state: Any, bucket: Any) -> torch.futures.Future[Tensor]:
        """Average a bucket's gradients in place; ``state`` is the module."""
        leaves = []
        for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True):
            name = self._name(state, p)
            self._remember(name, p)
            leaves.append((name, g))
        # One more exchange says which leaves have a gradient anywhere: of the others nothing is
        # taken, because DistributedDataParallel leaves their gradients as they are.
        exchanges, codecs = [_any_gradient([g for _, g in leaves])], []
        for name, g in leaves:
            codec, wide = self.codec.for_leaf(name), accumulator(g)
            total = wide + codec.decode(self._errors[name], wide)
            exchanges.append(exchange(self.compressor, total, self._states[name], g.dtype))
            codecs.append(codec)
        present, *results = run(exchanges, self._wire)
        for (name, g), there, codec, (mean, rest, new) in zip(
            leaves, present, codecs, results, strict=True
        ):
            g.copy_(torch.where(there, mean, 0))
            # An overflow, as loss scaling makes them, must not stay in memory for ever.
            finite = torch.isfinite(mean).all() & there
            self._states[name] = tree.where(finite, new, self._states[name])
            finite = finite & torch.isfinite(rest).all()
            old = self._errors[name]
            self._errors[name] = tree.where(finite, codec.encode(rest, old), old)
        buffer = bucket.buffer()
        devices = [buffer.device] if buffer.device.type != "cpu" else None
        done: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
        done.set_result(buffer)
        return done

    def _name(self, module: Any, p: nn.Parameter) -> str:
        if p not in self._names:
            if not isinstance(module, nn.Module):
                raise TypeError(
                    "comm_hook: register it with the module, "
                    "model.register_comm_hook(model.module, hook), so that it knows the names of "
                    f"parameters; got {type(module).__name__}"
                )
            self._names = {q: name for name, q in module.named_parameters()}
        return self._names[p]

    def init_state(self, module: nn.Module) -> None:
        """Make the state of every parameter that has none, without a backward pass.

        A distributed checkpoint is read into the entries that ``state_dict()`` has, so a new hook
        needs them first.

        Args:
            module: the module that the hook is registered with, not its wrapper.
        """
        for p in module.parameters():
            if p.requires_grad:
                self._remember(self._name(module, p), p)

    def _remember(self, name: str, p: Tensor) -> None:
        """Make or take over the state of a parameter that has none."""
        if name in self._errors:
            return
        fresh = {
            "errors": {name: self.codec.for_leaf(name).init(p, signed=True)},
            "compressors": {name: self.compressor.init(p, name)},
        }
        loaded = {kind: {name: held[name]} for kind, held in self._loaded.items() if name in held}
        state = tree.from_dict({kind: fresh[kind] for kind in loaded}, loaded)
        self._errors[name] = {**fresh, **state}["errors"][name]
        self._states[name] = {**fresh, **state}["compressors"][name]
        for held in self._loaded.values():
            held.pop(name, None)

    def _who(self) -> str:
        """What the entry of this process is called, so that no other one loads it."""
        if not torch.distributed.is_initialized():
            return "rank_0_of_1"
        rank = torch.distributed.get_rank(self._wire.group)
        return f"rank_{rank}_of_{torch.distributed.get_world_size(self._wire.group)}"

    def state_dict(self) -> dict[str, Any]:
        """What this process remembers, by parameter name, under the name of its rank.

        Nested dicts of tensors: ``torch.load`` takes them by default. Every process has its own;
        in a distributed checkpoint they lie beside each other.
        """
        now = {"errors": self._errors, "compressors": self._states}
        own = {kind: {**self._loaded[kind], **tree.to_dict(now[kind])} for kind in now}
        return {self._who(): own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()`` of the same process.

        Args:
            state: what it gave. Shapes and dtypes are compared when a parameter is met.

        Raises:
            ValueError: the state is that of other processes (names them).
        """
        if "errors" not in state and self._who() not in state:
            raise ValueError(
                f"comm_hook: the state is that of {sorted(state)}, this process is {self._who()}; "
                "what a process remembers is of no use to another one"
            )
        own = state.get(self._who(), state)
        self._loaded = {kind: dict(tree.to_dict(own.get(kind, {}))) for kind in self._loaded}
        self._errors, self._states = {}, {}


def _any_gradient(grads: list[Tensor]) -> Exchange:
    """Ask in which leaves some process has a gradient that is not zero: bool (leaves,)."""
    own = torch.stack([(g != 0).any() for g in grads])
    mean = yield Mean(own.to(grads[0].dtype))
    return mean != 0


def comm_hook(
    compressor: Compressor,
    quantizer: Codec | torch.dtype | None = None,
    group: Any = None,
) -> CommHook:
    """A communication hook of DistributedDataParallel that compresses with error feedback.

    Process w sends C(a_w), a_w = g_w + e_w, and remembers e_w = Q(a_w - C(a_w)); gradients become
    the mean of C(a_w). What is sent of a leaf: positions and values (``top_k``, ``block_top_k``),
    values alone (``random_k``), two bits an entry and a magnitude a block (``sign``), the two
    factors of the mean (``low_rank``, which is PowerSGD); of every other leaf everything. A leaf
    whose gradient is zero in all processes, as one that no process used, gets zero and keeps e_w;
    a flag a leaf travels for that.

    Args:
        compressor: C, one of ``gx.compressors``.
        quantizer: Q, how e is kept: one of ``gx.codecs`` or a dtype; None keeps float32.
        group: process group; None is the default one, which DistributedDataParallel takes too.

    Returns:
        A hook that is registered with the module: errors belong to parameters, not to buckets.

    Raises:
        TypeError: a compressor or quantizer of another type, or a hook registered without module.

    Source: arXiv 1905.13727, arXiv 1809.07599, arXiv 1901.09847.

    >>> import gradtx as gx
    >>> hook = gx.distributed.comm_hook(gx.compressors.top_k(0.01), gx.codecs.affine(4))
    >>> # model = DistributedDataParallel(module); model.register_comm_hook(module, hook)
    >>> hook.sent_bytes
    0
    """
    return CommHook(compressor, quantizer, group)
