"""Threads that share a machine with others. Import it before torch.

OpenMP's threads wait for one another by spinning, which is fast on a quiet machine; where another
process has the core of one of them, all others spin until it gets its turn. So they are to sleep
instead, and there is one for every core that is free.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def free_cores() -> int:
    """Cores that this process may use and nobody has used over the last minute; at least one."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(int(given) if given.isdigit() else cores, round(cores - busy)))
