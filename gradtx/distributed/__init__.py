"""Training in several processes: compressed gradients, and steps between meetings."""

from .bases import first_bases, low_rank_leaves, refresh_subspaces
from .comm_hook import CommHook, comm_hook
from .diloco import diloco
from .feedback import Feedback, Residual
from .held import HoldState, exchange_held, hold_updates
from .local_adam import desloc, mt_dao
from .local_steps import LocalState, LocalSteps, Meeting, Start, Sync
from .lordo import lordo
from .moments import average_moments
from .outer import OuterState, outer
from .quantized import quantized
from .rounds import Gather, Mean, Reducer, Rounds, drive, one_worker
from .simulation import Lockstep, Simulation
from .sparse import demo, sparse_loco
from .team import Team
from .worker import Worker

__all__ = [
    "CommHook",
    "Feedback",
    "Gather",
    "HoldState",
    "LocalState",
    "LocalSteps",
    "Lockstep",
    "Mean",
    "Meeting",
    "OuterState",
    "Reducer",
    "Residual",
    "Rounds",
    "Simulation",
    "Start",
    "Sync",
    "Team",
    "Worker",
    "average_moments",
    "comm_hook",
    "demo",
    "desloc",
    "diloco",
    "drive",
    "exchange_held",
    "first_bases",
    "hold_updates",
    "lordo",
    "low_rank_leaves",
    "mt_dao",
    "one_worker",
    "outer",
    "quantized",
    "refresh_subspaces",
    "sparse_loco",
]
