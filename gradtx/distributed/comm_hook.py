"""Compressed gradients between the processes of DistributedDataParallel."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..codecs import Codec, as_codec
from ..compressors import Compressor
from ..core import tree
from ..core.autocast import outside_autocast
from ..core.tree import accumulator, accumulator_dtype
from .exchange import exchange
from .remembered import Remembered, entry, share_of, world_of
from .roll_call import absent, ranks
from .rounds import Exchange, Mean, Wire, run

_PATIENCE = 5.0  # seconds between the first process that sees a failure and the last


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
        self._module: weakref.ref[nn.Module] | None = None
        self._names: dict[nn.Parameter, str] = {}
        self._errors: dict[str, Any] = {}
        self._states: dict[str, Any] = {}
        self._loaded = Remembered({}, {})
        # What the buckets of a backward pass leave behind, until all have been exchanged.
        self._errors_to_be: dict[str, Any] = {}
        self._states_to_be: dict[str, Any] = {}
        self._exchanges = 0

    @property
    def sent_bytes(self) -> int:
        """Bytes given to collectives so far."""
        return self._wire.sent_bytes

    @outside_autocast
    def __call__(self, state: Any, bucket: Any) -> torch.futures.Future[Tensor]:
        """Average a bucket's gradients in place; ``state`` is the module.

        Raises:
            RuntimeError: the exchange failed (names the ranks that are missing). What is remembered
                is as before the backward pass.
        """
        if bucket.index() == 0:  # after a backward pass that has failed
            self._errors_to_be, self._states_to_be = {}, {}
        leaves = []
        for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True):
            name = self._name(state, p)
            self._remember(name, p)
            leaves.append((name, g))
        # One more exchange says which leaves have a gradient anywhere: of the others nothing is
        # taken, because DistributedDataParallel leaves their gradients as they are.
        exchanges, codecs = [_any_gradient([g for _, g in leaves])], []
        _, workers = world_of(self._wire.group)
        for name, g in leaves:
            codec, wide = self.codec.for_leaf(name), accumulator(g)
            total = wide + codec.decode(self._errors[name], wide)
            exchanges.append(exchange(self.compressor, total, self._states[name], g.dtype, workers))
            codecs.append(codec)
        present, *results = self._exchanged(exchanges)
        for (name, g), there, codec, (mean, rest, new) in zip(
            leaves, present, codecs, results, strict=True
        ):
            g.copy_(torch.where(there, mean, 0))
            # An overflow, as loss scaling makes them, must not stay in memory for ever.
            finite = torch.isfinite(mean).all() & there
            self._states_to_be[name] = tree.where(finite, new, self._states[name])
            finite = finite & torch.isfinite(rest).all()
            old = self._errors[name]
            self._errors_to_be[name] = tree.where(finite, codec.encode(rest, old), old)
        if bucket.is_last():
            self._errors.update(self._errors_to_be)
            self._states.update(self._states_to_be)
        buffer = bucket.buffer()
        devices = [buffer.device] if buffer.device.type != "cpu" else None
        done: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
        done.set_result(buffer)
        return done

    def _exchanged(self, exchanges: list[Exchange]) -> list[Any]:
        """The results of exchanges, or an error that says who is missing."""
        self._exchanges += 1
        try:
            return run(exchanges, self._wire)
        except RuntimeError as error:
            missing = absent(self._wire.group, f"comm_hook/{self._exchanges}", _PATIENCE)
            who = f"{ranks(missing)} missed" if missing else "processes were too far apart for"
            raise RuntimeError(
                f"comm_hook: {who} an exchange of gradients: {error}. No step has been made of "
                "this backward pass, and what is remembered is as before it; make a new process "
                "group of those that are left, and give a new hook what this one remembers: "
                "load_state_dict(hook.state_dict(), residuals='drop')"
            ) from error

    def _name(self, module: Any, p: nn.Parameter) -> str:
        if not isinstance(module, nn.Module):
            raise TypeError(
                "comm_hook: register it with the module, "
                "model.register_comm_hook(model.module, hook), so that it knows the names of "
                f"parameters; got {type(module).__name__}"
            )
        if self._module is None:
            self._module = weakref.ref(module)
        if self._module() is not module:
            raise ValueError(
                "comm_hook: the hook is registered with two modules, whose parameters it cannot "
                "tell apart; make one for each"
            )
        if p not in self._names:
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
        codec = self.codec.for_leaf(name)
        fresh = codec.init(p, signed=True), self.compressor.init(p, name)
        self._errors[name], self._states[name] = self._loaded.take(name, *fresh)
        if self._loaded.everyones is not None:
            like = torch.zeros_like(p, dtype=accumulator_dtype(p.dtype))
            mean = self._loaded.mean(name, codec, fresh[0], like, self._wire)
            self._errors[name] = codec.encode(mean, fresh[0])

    def state_dict(self, world_size: int | None = None) -> dict[str, Any]:
        """What this process remembers, by parameter name, under the name of its rank.

        Nested dicts of tensors: ``torch.load`` takes them by default. Every process has its own;
        in a distributed checkpoint they lie beside each other, with how many there were.

        Args:
            world_size: of the processes that made a checkpoint which is to be read; None for what
                these processes have. The entries of the others are shared out among these.

        >>> import torch, gradtx as gx
        >>> hook = gx.distributed.comm_hook(gx.compressors.sign())
        >>> hook.init_state(torch.nn.Linear(2, 1))
        >>> list(hook.state_dict()), list(hook.state_dict(world_size=2))
        (['world_size', 'rank_0_of_1'], ['world_size', 'rank_0_of_2', 'rank_1_of_2'])
        """
        rank, world = world_of(self._wire.group)
        errors = {**self._loaded.errors, **tree.to_dict(self._errors)}
        compressors = {**self._loaded.compressors, **tree.to_dict(self._states)}
        if world_size is None or world_size == world:
            own = {"errors": errors, "compressors": compressors}
            return {"world_size": world, entry(rank, world): own}
        return {"world_size": world_size, **share_of(rank, world, world_size, errors, compressors)}

    def load_state_dict(
        self, state: Mapping[str, Any], residuals: Literal["sum", "drop"] | None = None
    ) -> None:
        """Continue from ``state_dict()`` of the same process, or of another number of them.

        A distributed checkpoint of another number of processes is read into
        ``state_dict(world_size=...)`` of that number, which is its entry ``"world_size"``.

        Args:
            state: what it gave. Shapes and dtypes are compared when a parameter is met.
            residuals: what becomes of what other processes remember. None refuses it; "sum" keeps
                all of it, so that nothing is lost: every process goes on with the mean of all of
                them; "drop" forgets it. All processes must call this alike.

        Raises:
            ValueError: the state is that of other processes (names them) and ``residuals`` is None,
                or an entry is missing for "sum".
        """
        self._loaded = Remembered.read(state, residuals, self._wire)
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
    a flag a leaf travels for that. All processes get the means: a module has one hook, so
    that ``gx.optim.zero1`` is used without ``model`` beside it.

    Args:
        compressor: C, one of ``gx.compressors``.
        quantizer: Q, how e is kept: one of ``gx.codecs`` or a dtype; None keeps float32.
        group: process group; None is the default one, which DistributedDataParallel takes too.

    Returns:
        A hook that is registered with the module: errors belong to parameters, not to buckets.

    Raises:
        TypeError: a compressor or quantizer of another type, or a hook registered without module.
        ValueError: a hook registered with two modules.

    Source: arXiv 1905.13727, arXiv 1809.07599, arXiv 1901.09847.

    >>> import gradtx as gx
    >>> hook = gx.distributed.comm_hook(gx.compressors.top_k(0.01), gx.codecs.affine(4))
    >>> # model = DistributedDataParallel(module); model.register_comm_hook(module, hook)
    >>> hook.sent_bytes
    0
    """
    return CommHook(compressor, quantizer, group)
