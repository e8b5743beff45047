"""Train a small GPT with AdamW and with optimizers that see matrices as matrices.

GaLore, LDAdam, SNSM, DCT-AdamW and Trion keep their moments in a subspace of every weight matrix,
Muon orthogonalises its momentum. Every run starts from the same weights and sees the same batches.
Writes the numbers and one picture of loss against state memory. ``python examples/matrices.py
--help`` lists the options; the defaults take about ten minutes on two cores. Needs the extras
``pip install 'gradtx[examples]'``.
"""

import lm.threads  # noqa: F401

# isort: split

import torch

import gradtx as gx
from lm.comparison import Make, compare, parser
from lm.data import standard_library

RANK = 32
ADAM = {"lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
SUBSPACE = {**ADAM, "lr": 3e-2, "rank": RANK, "update_proj_gap": 50}
OTHERS = {"lr": 3e-3, "weight_decay": 0.1}  # embeddings and vectors, which get AdamW
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda model: gx.optim.AdamW(model.parameters(), **ADAM),
    "GaLore": lambda model: gx.optim.GaLoreAdamW(
        model.parameters(), **SUBSPACE, on_refresh="rotate"
    ),
    "LDAdam": lambda model: gx.optim.LDAdamW(
        model.parameters(), lr=3e-3, weight_decay=0.1, rank=RANK
    ),
    "SNSM": lambda model: gx.optim.AdamSNSM(model.parameters(), **SUBSPACE),
    "DCT-AdamW": lambda model: gx.optim.DCTAdamW(
        model.parameters(), **{**ADAM, "lr": 1e-2}, rank=RANK, use_ef=True, ef_bits=8
    ),
    "Trion": lambda model: gx.optim.Trion(
        gx.matrix_groups(model, {"lr": 0.05, "weight_decay": 0.1}, OTHERS), rank=RANK
    ),
    "Muon": lambda model: gx.optim.Muon(
        gx.matrix_groups(model, {"lr": 0.02, "weight_decay": 0.1}, OTHERS)
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, write ``results.json`` and ``tradeoff.png``."""
    args = parser(__doc__, OPTIMIZERS, "out/matrices").parse_args(argv)
    torch.set_num_threads(args.threads)
    compare(args, OPTIMIZERS, standard_library())


if __name__ == "__main__":
    main()
