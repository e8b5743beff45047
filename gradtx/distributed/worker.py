"""One worker of a process group: a module, its local steps, and meetings with the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core import tree
from ..core.apply import apply_updates
from ..core.errors import described
from .checksum import checksum
from .comm_hook import CommHook
from .local_shards import check_local, local_gradient, shard_name
from .local_steps import LocalSteps
from .records import local_part
from .remembered import entry, world_of
from .resume import loaded, newcomer
from .roll_call import RollCall
from .rounds import Rounds, Wire, drive, one_worker

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
            module.register_comm_hook(None, _leave)  # type: ignore[operator]
            module = module.module  # type: ignore[assignment]
        self._leaves = {k: p for k, p in module.named_parameters() if p.requires_grad}
        check_local(method, self._leaves, group)
        self._shard = shard_name(self._leaves)
        self.method, self.state = method, method.init(self.params)
        # With shards everybody is called: a meeting of some shards alone would be half of one.
        everybody = group if self._shard is None else None
        self._wire, self._roll_call = Wire(group), RollCall(everybody, timeout)
        self._run, self._joined = run, False

    @property
    def params(self) -> dict[str, Tensor]:
        """The parameters that are trained, by name: of DTensors the shard that is here."""
        return {name: local_part(p).detach() for name, p in self._leaves.items()}

    @property
    def sent_bytes(self) -> int:
        """Bytes that this worker has given to collectives for means so far."""
        return self._wire.sent_bytes

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
        if int(self.state.step) == 0 and self.method.start is not None:
            rounds = self.method.begin_rounds(grads, self.params, self.state)
            self.state = self._together("first step", rounds, lambda state: state)
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
        params, state = self._together(
            f"meeting after step {int(self.state.step)}",
            self.method.rounds(self.params, self.state),
            lambda result: self.method.same(*result),
        )
        self._write(params)
        self.state = state

    def _together(self, what: str, rounds: Rounds, same: Callable[[Any], Any]) -> Any:
        """The result of rounds, once everybody has the same."""
        self._roll_call(what)
        try:
            result = drive(rounds, self._wire if self._roll_call.world > 1 else one_worker)
            word = f"{self._shard} {checksum(same(result))}"
        except RuntimeError as error:
            self._roll_call.give_up(f"end of the {what}")
            raise RuntimeError(
                f"Worker: the {what} broke off: {error}. Nothing has been averaged; "
                "make a new process group of those that are left"
            ) from error
        words = self._roll_call(f"end of the {what}", word)
        if others := _others(words):
            self._roll_call.try_again()
            raise RuntimeError(
                f"Worker: ranks {others} have other numbers than rank 0 after the {what}; "
                "nothing has been changed. Load one checkpoint on all"
            )
        return result

    @torch.no_grad()
    def join(self) -> None:
        """Agree with the others on where training is; happens before the first step.

        Raises:
            ValueError: parameters differ at the start, or some workers are elsewhere in training
                than rank 0 and not at their beginning (names the ranks).
        """
        if self._joined:
            return
        step, shared = int(self.state.step), self.method.same(self.params, self.state)
        word = checksum((self.params, shared) if step == 0 else shared)
        said = self._roll_call("start", f"{step} {self._shard} {word}")
        words = [w.partition(" ") for w in said]
        steps = [int(s) for s, _, _ in words]
        late = [rank for rank, s in enumerate(steps) if s != steps[0]]
        first = _firsts([sums for _, _, sums in words])
        wrong = [rank for rank in late if steps[rank] or rank in first]
        if wrong:
            raise ValueError(
                f"Worker: ranks {wrong} have done {[steps[rank] for rank in wrong]} steps, rank 0 "
                f"has done {steps[0]}; load one checkpoint on all, or none on those that are new"
            )
        there = [None if rank in late else sums for rank, (_, _, sums) in enumerate(words)]
        if others := _others(there):
            raise ValueError(
                f"Worker: ranks {others} start with other parameters than rank 0; seed all alike, "
                "or load one checkpoint on all"
            )
        if late:
            self._take_over(new=self._roll_call.rank in late)
        self._joined = True

    def _take_over(self, new: bool) -> None:
        """Broadcast parameters and state of rank 0; those that are new take them."""
        params, state = self._wire.from_first((self.params, self.state))
        if new:
            self._write(params)
            self.state = newcomer(state, self.method.init(params))

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
        return entry(*world_of(self._wire.group))

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
        params, new = loaded(state, residuals, world_of(self._wire.group), self.params, self.method)
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


def _firsts(words: Sequence[str | None]) -> dict[int, str]:
    """By rank the words of those that are the first with their shard."""
    found: dict[str, int] = {}
    for rank, word in enumerate(words):
        if word is not None:
            found.setdefault(word.split(" ")[0], rank)
    return {rank: str(words[rank]) for rank in found.values()}


def _others(words: Sequence[str | None]) -> list[int]:
    """The ranks that say something else than the first with their shard; None says nothing."""
    good = set(_firsts(words).values())
    return [rank for rank, word in enumerate(words) if word is not None and word not in good]


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
