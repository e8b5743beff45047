"""The state is saved and read, and the run goes on bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch

from ..core import tree
from .claims import require_same, require_same_structure
from .subject import Subject, holds_for_all
from .trees import STEPS, run, some_params, tensors


def through_a_file(value: Any) -> Any:
    """What torch reads, by default, of what it has written."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumes(s: Subject, state: Any, middle: Any) -> None:
    """Raise unless the run goes on from a state as it did from that in the middle."""
    require_same(state, middle, "the state that was read")
    outs, last = run(s.tx, state=state, start=2)
    require_same(outs, s.plain[0][2:STEPS], "the updates of the run that goes on")
    require_same(last, s.plain[1], "the last state of the run that goes on")


@holds_for_all
def state_saves_and_resumes(s: Subject) -> None:
    """The state's tensors go through a file and fit a state that init makes."""
    middle = s.state_after(2)
    loaded = through_a_file(tensors(middle))
    fresh = s.tx.init(some_params())
    require_same_structure(fresh, middle, "the state that init makes")
    values = iter(loaded)
    resumes(s, tree.map(lambda _: next(values), fresh), middle)


@holds_for_all
def state_through_a_file(s: Subject) -> None:
    """The state goes through a file as nested dicts of tensors and numbers."""
    middle = s.state_after(2)
    plain = through_a_file(tree.to_dict(middle))
    resumes(s, tree.from_dict(s.tx.init(some_params()), plain), middle)


@holds_for_all
def state_pickles(s: Subject) -> None:
    """A pickled and a copied state has the same bits."""
    _, state = s.plain
    require_same(pickle.loads(pickle.dumps(state)), state, "the pickled state")
    require_same(copy.deepcopy(state), state, "the copied state")


@holds_for_all
def map_params_finds_every_leaf(s: Subject) -> None:
    """``tree.map_params`` with the identity leaves the state as it is."""
    _, state = s.plain
    same = tree.map_params(lambda x, p: x, state, some_params())
    require_same(same, state, "the state after map_params")
