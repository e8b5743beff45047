"""Training in several processes: compressed communication of gradients."""

from .comm_hook import CommHook, comm_hook

__all__ = ["CommHook", "comm_hook"]
