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
from .rounds import Wire, run


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
            if name not in self._errors:
                self._errors[name] = self.codec.for_leaf(name).init(p, signed=True)
                self._states[name] = self.compressor.init(p, name)
            leaves.append((name, g))
        exchanges, codecs = [], []
        for name, g in leaves:
            codec, wide = self.codec.for_leaf(name), accumulator(g)
            total = wide + codec.decode(self._errors[name], wide)
            exchanges.append(exchange(self.compressor, total, self._states[name], g.dtype))
            codecs.append(codec)
        results = run(exchanges, self._wire)
        for (name, g), codec, (mean, rest, new) in zip(leaves, codecs, results, strict=True):
            g.copy_(mean)
            # An overflow, as loss scaling makes them, must not stay in memory for ever.
            finite = torch.isfinite(mean).all()
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

    def state_dict(self) -> dict[str, Any]:
        """What this process remembers, by parameter name; every process has its own."""
        return {"errors": dict(self._errors), "compressors": dict(self._states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()`` of the same process."""
        self._errors = dict(state["errors"])
        self._states = dict(state["compressors"])


def comm_hook(
    compressor: Compressor,
    quantizer: Codec | torch.dtype | None = None,
    group: Any = None,
) -> CommHook:
    """A communication hook of DistributedDataParallel that compresses with error feedback.

    Process w sends C(a_w), a_w = g_w + e_w, and remembers e_w = Q(a_w - C(a_w)); gradients become
    the mean of C(a_w). What is sent of a leaf: positions and values (``top_k``, ``block_top_k``),
    values alone (``random_k``), two bits an entry and a magnitude a block (``sign``), the two
    factors of the mean (``low_rank``, which is PowerSGD); of every other leaf everything.

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
