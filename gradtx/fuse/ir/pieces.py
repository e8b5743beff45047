"""Which thread does what: leaves cut into pieces, the pieces shared out by size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LEAST = 1 << 15  # elements of a piece of whole leaves: large against what it takes to hand it out
_MOST = 1 << 17  # elements of such a piece: they stay in a core's cache from stage to stage
_PER_THREAD = 8  # such pieces of a thread, so that others can take over some of them
_PARTS = 16  # of a thread's share: a leaf larger than one may be divided among threads


def share_out(
    numel: Sequence[int], first_task: Sequence[int], threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut leaves into pieces of roughly equal work for every thread.

    Args:
        numel: elements of every leaf.
        first_task: number of the first task of every leaf, and of all tasks.
        threads: how many.

    Returns:
        A row per piece (first leaf, end of leaves, first task, end of tasks, whether it is part of
        a leaf whose stages are done task by task) and the first piece of every thread, and of all.
    """
    total = int(sum(numel))
    if threads == 1:
        rows = [(0, len(numel), 0, int(first_task[-1]), 0)]
        return np.array(rows, dtype=np.int64), np.array([0, 1], dtype=np.int64)
    share = max(total / threads, 1.0)
    small = min(max(total // (_PER_THREAD * threads), _LEAST), _MOST)
    pieces: list[list[int]] = []
    owners: list[int] = []
    size = 0  # of the last piece, as long as leaves may join it
    before = 0
    for leaf, n in enumerate(numel):
        task, end = int(first_task[leaf]), int(first_task[leaf + 1])
        if n <= small or end - task <= 1:
            owner = min(int((before + n / 2) / share), threads - 1)
            if size and size + n <= small and owners[-1] == owner:
                pieces[-1][1], pieces[-1][3] = leaf + 1, end
                size += n
            else:
                pieces.append([leaf, leaf + 1, task, end, 0])
                owners.append(owner)
                size = max(n, 1)
        else:
            size = 0
            each = n / (end - task)
            whole = n * _PARTS <= share
            while task < end:
                here = before + (n / 2 if whole else (task - int(first_task[leaf]) + 0.5) * each)
                owner = min(int(here / share), threads - 1)
                stop = end
                if not whole and owner < threads - 1:
                    rest = (owner + 1) * share - before
                    stop = min(max(int(first_task[leaf]) + round(rest / each), task + 1), end)
                pieces.append([leaf, leaf + 1, task, stop, 1])
                owners.append(owner)
                task = stop
        before += n
    own = np.searchsorted(owners, np.arange(threads + 1)).astype(np.int64)
    return np.array(pieces, dtype=np.int64).reshape(-1, 5), own
