"""What is measured: our chains, and beside each the published implementations of the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from peers import Peer, split
from torch import Tensor

import gradtx as gx

# A chain, or a class of ``gx.optim``, or a function that is called like one.
Ours = gx.GradientTransformation | Callable[[list[Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what it is called.
        ours: our implementation.
        bytes_moved: per float32 parameter and step, at least.
        peers: other implementations.
        matrices: it is about matrices, and measured on the smaller network only.
        settles: steps until it takes as long as it always will, when a window is full.
    """

    name: str
    ours: Ours
    bytes_moved: float
    peers: tuple[Peer, ...] = ()
    matrices: bool = False
    settles: int = 0


def low_moments() -> gx.GradientTransformation:
    """AdamW with moments in bfloat16."""
    return gx.chain(
        gx.scale_by_adam(mu_codec=torch.bfloat16, nu_codec=torch.bfloat16),
        gx.add_decayed_weights(1e-2),
        gx.scale_by_learning_rate(1e-3),
    )


def muon(
    params: list[Tensor], ns_dtype: torch.dtype | None = torch.bfloat16
) -> torch.optim.Optimizer:
    """Muon on the matrices as torch's iterates, AdamW on the embedding and the vectors."""
    matrices, others = split(params)
    groups = [{"params": matrices}, {"params": others, "matrix": False}]
    return gx.optim.Muon(groups, ns_dtype=ns_dtype)


def row(
    name: str,
    ours: Ours,
    bytes_moved: float,
    *peers: str | Peer,
    matrices: bool = False,
    settles: int = 0,
) -> Row:
    """Short for ``Row``; a peer without options is given by its path."""
    given = (Peer(p) if isinstance(p, str) else p for p in peers)
    return Row(name, ours, bytes_moved, tuple(given), matrices, settles)


_CLIPPED = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
_FACTORED = {"nnmf_factor": True, "vector_reshape": True}
_OTHERS = ("optax.adamw", "heavyball.AdamW", "torchopt.AdamW", "adv_optm.AdamW_adv")
_FOREACH = Peer("torch.optim.AdamW", {"foreach": True})
_LOOP = Peer("torch.optim.AdamW", {"foreach": False})
_SGD = Peer("torch.optim.SGD", {"momentum": 0.9, "fused": True})
_FACTORED_ADAMW = Peer("adv_optm.AdamW_adv", _FACTORED)
_FACTORED_LION = Peer("adv_optm.Lion_adv", _FACTORED)
_CLIPPING = Peer("heavyball.AdamW", {"gradient_clipping": "l2_clip_"})
_CAUTIOUS = Peer("heavyball.AdamW", {"caution": True})
_RELATIVE = Peer("pytorch_optimizer.AdaFactor", {"lr": None})
_MUON = Peer("torch.optim.Muon", matrices=True)
_SNSM = {"rank": 64, "update_proj_gap": 200, "proj_type": "uniform"}

# fmt: off
ROWS = (
    row("adamw", gx.adamw(1e-3), 28, _FOREACH, _LOOP, *_OTHERS),
    row("adamw, torch optimizer", gx.optim.AdamW, 28),
    row("adamw, bf16 moments", low_moments(), 20),
    row("lion", gx.lion(1e-4), 20, "optax.lion", "pytorch_optimizer.Lion", "adv_optm.Lion_adv"),
    row("signum", gx.signum(1e-3), 20, "pytorch_optimizer.SignSGD", "adv_optm.SignSGD_adv"),
    row("sgd with momentum", gx.sgd(1e-3, 0.9), 20, _SGD, Peer("optax.sgd", {"momentum": 0.9})),
    row("clip + adamw", _CLIPPED, 32, _CLIPPING),
    row("cautious adamw", gx.c_adamw(1e-3), 36, _CAUTIOUS),
    row("adabelief", gx.adabelief(1e-3), 28, "optax.adabelief", "pytorch_optimizer.AdaBelief"),
    row("nadam", gx.nadam(1e-3), 28, "torch.optim.NAdam", "optax.nadam", "heavyball.NAdam"),
    row("radam", gx.radam(1e-3), 28, "torch.optim.RAdam", "optax.radam"),
    row("adan", gx.adan(1e-3), 44, "optax.adan", "pytorch_optimizer.Adan", "adan_pytorch.Adan"),
    row("adopt", gx.adopt(1e-3), 28, "heavyball.ADOPT", "pytorch_optimizer.ADOPT", "adv_optm.Adopt_adv"),  # noqa: E501
    row("ademamix", gx.ademamix(1e-3), 36, "optax.contrib.ademamix", "heavyball.AdEMAMix", "pytorch_optimizer.AdEMAMix"),  # noqa: E501
    row("adafactor", gx.adafactor(1e-3), 24, "torch.optim.Adafactor", "optax.adafactor", _RELATIVE),
    row("prodigy", gx.prodigy(1.0), 40, "prodigyopt.Prodigy", "optax.contrib.prodigy", "pytorch_optimizer.Prodigy"),  # noqa: E501
    row("prodigy, sums of every 11th element", gx.prodigy_adv(1.0), 29, "adv_optm.Prodigy_adv"),
    row("prodigy, one pass", gx.prodigy_adv(1.0, slice_p=1), 40),
    row("factored adamw", gx.adam_adv(1e-3, factored=True), 13, _FACTORED_ADAMW),
    row("factored adamw + ademamix", gx.adam_adv(1e-3, factored=True, ademamix=True), 13),
    row("factored lion", gx.lion_adv(1e-4, factored=True), 13, _FACTORED_LION),
    row("adamw, 8-bit moments", gx.adamw8bit(1e-3), 16, "torchao.optim.AdamW8bit", "bitsandbytes.optim.AdamW8bit"),  # noqa: E501
    row("adamw, 4-bit moments", gx.adamw4bit(1e-3), 14, "torchao.optim.AdamW4bit"),
    row("microadam", gx.microadam(1e-3), 13.5, settles=10),
    row("subset-norm adamw", gx.adamw_sn(1e-3), 24, matrices=True),
    row("snsm, uniform, rank 64", gx.adam_snsm(1e-3, **_SNSM), 16, matrices=True),
    row("ldadamw, rank 64", gx.ldadamw(1e-3, rank=64), 24, matrices=True),
    row("apollo, random, rank 64", gx.apollo(1e-3, rank=64), 16, matrices=True),
    row("muon on the matrices", muon, 20, _MUON, matrices=True),
    row("muon on the matrices, float32", partial(muon, ns_dtype=None), 20, matrices=True),
)
# fmt: on
