"""Train a small GPT with AdamW and with optimizers that keep less: loss against state memory.

Every run starts from the same weights and sees the same batches. Writes the numbers and one
picture. ``python examples/low_memory.py --help`` lists the options; the defaults take about five
minutes on two cores. Needs the extras ``pip install 'gradtx[examples]'``.
"""

import lm.threads  # noqa: F401

# isort: split

import torch

import gradtx as gx
from lm.comparison import Make, compare, parser
from lm.data import standard_library

ADAM = {"lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda model: gx.optim.AdamW(model.parameters(), **ADAM),
    "AdamW, 8-bit": lambda model: gx.optim.AdamW8bit(model.parameters(), **ADAM),
    "AdamW, 4-bit": lambda model: gx.optim.AdamW4bit(model.parameters(), **ADAM),
    "factored Adam": lambda model: gx.optim.AdamAdv(model.parameters(), **ADAM, factored=True),
    "factored + AdEMAMix": lambda model: gx.optim.AdamAdv(
        model.parameters(),
        **ADAM,
        factored=True,
        ademamix=True,
        b3=0.999,
        alpha=2.0,
        t_alpha=500,
    ),
    "factored Lion": lambda model: gx.optim.LionAdv(
        model.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=0.6
    ),
}


def main(argv: list[str] | None = None) -> None:
    """Train, print the table, write ``results.json`` and ``tradeoff.png``."""
    args = parser(__doc__, OPTIMIZERS, "out/low_memory").parse_args(argv)
    torch.set_num_threads(args.threads)
    compare(args, OPTIMIZERS, standard_library())


if __name__ == "__main__":
    main()
