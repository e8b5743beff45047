"""Who is there: workers say so in the store of their group, and wait for one another."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import torch

from .remembered import world_of

_calls = itertools.count()


class RollCall:
    """Meetings of which everybody learns who has missed them.

    A collective that waits for a missing process fails without saying for which one. Here every
    process writes a word into the store, waits for those of the others, and names the ranks
    whose word has not come. Two calls around collectives make one decision of them: a process
    that comes to the second one has received everything.

    Args:
        group: process group; None is the default one.
        timeout: seconds to wait, > 0.
        who: for errors.
        again: what tries once more, for errors.

    Raises:
        ValueError: ``timeout`` is not positive.
    """

    def __init__(self, group: Any, timeout: float, who: str, again: str) -> None:
        if not timeout > 0:
            raise ValueError(f"{who}: timeout must be > 0 seconds, got {timeout}")
        self.rank, self.world = world_of(group)
        self._timeout, self._who, self._again = timeout, who, again
        self._written: list[str] = []
        self._attempt = 0
        self._store: Any = None
        if self.world > 1:
            whole: Any = group if group is not None else torch.distributed.group.WORLD
            store = whole.get_group_store()
            prefix = f"gradtx/roll_call/{next(_calls)}"
            self._store = torch.distributed.PrefixStore(prefix, store)

    def __call__(self, what: str, word: str = "") -> list[str]:
        """Say a word and hear those of all workers, by rank.

        Args:
            what: the occasion, the same for all workers and for no other call.
            word: anything.

        Raises:
            RuntimeError: somebody has not come in time, or others have given up (names ranks).
        """
        if self._store is None:
            return [word]
        occasion = f"{what}/{self._attempt}"
        keys = [f"{occasion}/{rank}" for rank in range(self.world)]
        self._write(keys[self.rank], word)
        self._refuse_if_given_up(what, occasion)
        try:
            self._store.wait(keys, timedelta(seconds=self._timeout))
        except RuntimeError as error:
            missing = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
            if missing:
                self.give_up(what)
                raise RuntimeError(
                    f"{self._who}: {ranks(missing)} missed the {what}: {ranks([self.rank])} "
                    f"waited {self._timeout:g} s. Nothing has been averaged. Call {self._again} "
                    "again once they are back, or go on with those that are left in a new process "
                    "group: load_state_dict(..., residuals='sum' or 'drop')"
                ) from error
        self._refuse_if_given_up(what, occasion)
        return [self._store.get(key).decode() for key in keys]

    def give_up(self, what: str) -> None:
        """Let the others know that this worker has stopped waiting."""
        if self._store is not None:
            self._store.set(f"{what}/{self._attempt}/given_up", str(self.rank))
        self.try_again()

    def try_again(self) -> None:
        """Count a meeting that all know has failed, so that the next one finds no old words."""
        self._attempt += 1

    def _write(self, key: str, word: str) -> None:
        """Write a word. Whoever comes to a call has heard the one before, so older ones may go."""
        self._store.set(key, word)
        self._written.append(key)
        while len(self._written) > 2:
            self._store.delete_key(self._written.pop(0))

    def _refuse_if_given_up(self, what: str, occasion: str) -> None:
        key = f"{occasion}/given_up"
        if self._store.check([key]):
            rank = self._store.get(key).decode()
            self.try_again()
            raise RuntimeError(
                f"{self._who}: rank {rank} has given up the {what}; {ranks([self.rank])} came too "
                f"late or lost the connection. Nothing has been averaged. Call {self._again} "
                "again together with the others"
            )


def absent(group: Any, occasion: str, seconds: float) -> list[int]:
    """The ranks of a group that do not say in some seconds that a collective has failed there.

    Args:
        group: process group; None is the default one.
        occasion: what has failed, the same for all and for nothing else.
        seconds: to wait.
    """
    rank, world = world_of(group)
    whole: Any = group if group is not None else torch.distributed.group.WORLD
    store = torch.distributed.PrefixStore(f"gradtx/absent/{occasion}", whole.get_group_store())
    keys = [str(r) for r in range(world)]
    store.set(str(rank), "")
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except RuntimeError:
        return [r for r, key in enumerate(keys) if not store.check([key])]
    return []


def ranks(some: list[int]) -> str:
    """Ranks in words."""
    return ("rank " if len(some) == 1 else "ranks ") + ", ".join(map(str, some))
