"""One worker of a process group: a module, its local steps, and meetings with the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core import tree
from ..core.apply import apply_updates
from ..core.errors import described
from .comm_hook import CommHook
from .hooking import register
from .local_shards import check_local, local_gradient, shard_name
from .local_steps import LocalSteps
from .records import local_part
from .remembered import entry, world_of
from .resume import loaded
from .team import Team

Run = Callable[..., Any]


class Worker:
    """Train a module by local steps, with the processes of a group as workers.

    ``backward``, then ``step``: gradients stay here, and after steps that ``method.due`` names
    workers meet. A meeting happens for all or for none: everybody is called first, means are
    received beside the parameters, everybody tells a checksum of what must be the same everywhere,
    and then they are written. Whoever is missing is named after ``timeout``.

    Of DTensors, as ``fully_shard`` makes them, every rank trains its shards; ``group`` has the
    ranks with the same ones, and all processes meet. The method must treat elements one by one.

    A module in DistributedDataParallel is told to leave gradients alone. Before the first step a
    worker without steps takes parameters and state from rank 0, if that has some.

    Args:
        module: the model, the same in all processes; leaves that need no gradient stay as they are.
        method: what workers do, such as ``lordo``.
        group: process group; None is the default one.
        timeout: seconds to wait for the others, > 0.
        run: a step in place such as ``gx.fuse(method.transform)``; None updates purely.

    Raises:
        RuntimeError: a module in DistributedDataParallel has another communication hook.
        TypeError: no module or no method, or a sharded parameter whose elements would meet, or of
            which workers have different shards (names the leaf).

    Source: arXiv 2311.08105.

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Linear(2, 1)
    >>> worker = gx.distributed.Worker(model, gx.distributed.desloc(0.1, every=1))
    >>> model(torch.ones(2)).sum().backward()
    >>> worker.step()
    >>> int(worker.state.step)
    1
    """

    def __init__(
        self,
        module: nn.Module,
        method: LocalSteps,
        group: Any = None,
        timeout: float = 600.0,
        run: Run | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"Worker: module must be an nn.Module, got {described(module)}")
        if not isinstance(method, LocalSteps):
            raise TypeError(f"Worker: method must be LocalSteps, got {described(method)}")
        if _is_ddp(module):
            register("Worker", module, _leave)
            module = module.module  # type: ignore[assignment]
        self._leaves = {k: p for k, p in module.named_parameters() if p.requires_grad}
        check_local(method, self._leaves, group)
        self._shard = shard_name(self._leaves)
        self.method, self.state = method, method.init(self.params)
        self._team = _Workers(group, timeout, self._shard)
        self._run, self._joined = run, False

    @property
    def params(self) -> dict[str, Tensor]:
        """The parameters that are trained, by name: of DTensors the shard that is here."""
        return {name: local_part(p).detach() for name, p in self._leaves.items()}

    @property
    def sent_bytes(self) -> int:
        """Bytes that this worker has given to collectives for means so far."""
        return self._team.sent_bytes

    @torch.no_grad()
    def step(self, **extra: Any) -> None:
        """One step with the gradients of the module, and the meeting that is due after it.

        Args:
            extra: further arguments of ``update``, such as ``hyper={"lr": 0.1}``.

        Raises:
            RuntimeError: somebody missed the meeting (names the ranks). The step has been done,
                and nothing else; ``meet`` tries again.
        """
        grads = {name: local_gradient(name, p) for name, p in self._leaves.items()}
        self.join()
        self.state = self._team.begin(self.method, grads, self.params, self.state)
        if self._run is None:
            updates, state = self.method.update(grads, self.state, self.params, **extra)
            self._write(apply_updates(self.params, updates))
        else:
            params, local = self._run(self.params, grads, self.state.local, **extra)
            self._write(params)
            state = self.method.stepped(self.state, local)
        self.state = state
        if self.method.due(state.step):
            self.meet()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self._leaves.values():
            p.grad = None

    @torch.no_grad()
    def meet(self) -> None:
        """The meeting that is due after this step.

        Raises:
            RuntimeError: somebody missed it, or results differ (names the ranks); nothing has
                changed.
        """
        params, self.state = self._team.sync(self.method, self.params, self.state)
        self._write(params)

    @torch.no_grad()
    def join(self) -> None:
        """Agree with the others on where training is; happens before the first step.

        Raises:
            ValueError: parameters differ at the start, or some workers are elsewhere in training
                than rank 0 and not at their beginning (names the ranks).
        """
        if self._joined:
            return
        params, self.state = self._team.join(self.method, self.params, self.state)
        self._write(params)
        self._joined = True

    def _write(self, params: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self.params.items():
                if params[name].data_ptr() != p.data_ptr() or not p.numel():
                    p.copy_(params[name])

    def state_dict(self) -> dict[str, Any]:
        """Parameters and state of this worker, under the name of its rank.

        Nested dicts of tensors. Every worker has its own: parameters differ between meetings, and
        what compression has dropped always does.
        """
        own: dict[str, Any] = {"params": self.params, "state": tree.to_dict(self.state)}
        return {self._entry: own if self._shard is None else {self._shard: own}}

    @property
    def _entry(self) -> str:
        return entry(*world_of(self._team.group))

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], residuals: str | None = None) -> None:
        """Continue from ``state_dict()``, of this worker or of another number of them.

        Args:
            state: what it gave; with another number of workers, entries of some or all of them,
                saved right after a meeting.
            residuals: what becomes of what those have dropped: "sum" shares it out, which needs
                all entries, "drop" forgets it.

        Raises:
            ValueError: another number of workers without ``residuals``, or entries that do not
                fit, or of another number of shards (says what to do).
            TreeMismatchError: the state of another method or model.
        """
        if self._shard is not None:
            state = {name: _of_shard(self._shard, held) for name, held in state.items()}
        params, new = loaded(state, residuals, world_of(self._team.group), self.params, self.method)
        self._write(params)
        self.state, self._joined = new, False


def _of_shard(shard: str, held: Mapping[str, Any]) -> Any:
    """What a rank with the same shard has saved."""
    if shard not in held:
        raise ValueError(
            f"Worker: the state has {sorted(held)}, this rank needs {shard!r}: load it with as "
            "many shards as it was saved with"
        )
    return held[shard]


class _Workers(Team):
    _who, _again = "Worker", "meet()"


def _is_ddp(module: nn.Module) -> bool:
    from torch.nn.parallel import DistributedDataParallel

    return isinstance(module, DistributedDataParallel)


def _leave(state: Any, bucket: Any) -> torch.futures.Future[Tensor]:
    """A communication hook that does not communicate."""
    buffer = bucket.buffer()
    devices = None if buffer.device.type == "cpu" else [buffer.device]
    done: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
    done.set_result(buffer)
    return done


# DistributedDataParallel looks at the annotations of the arguments.
_leave.__signature__ = CommHook.__signature__  # type: ignore[attr-defined]
