"""Fine-tune a small GPT with AdamW, 8-bit AdamW and MicroAdam: loss against optimizer memory.

The model first learns Python source code with AdamW. From there every optimizer continues with
other text, the reference manual of the language, from the same weights and on the same batches.
Writes the numbers and one picture. ``python examples/fine_tune.py --help`` lists the options; the
defaults take about four minutes on two cores. Needs the extras ``pip install 'gradtx[examples]'``.
"""

import lm.threads  # noqa: F401

# isort: split

import torch
from torch.optim import Optimizer

import gradtx as gx
from lm.comparison import Make, compare, new_model, parser, train_on
from lm.data import reference_manual, standard_library
from lm.model import GPT

BETAS = (0.9, 0.95)
OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda model: gx.optim.AdamW(model.parameters(), lr=1e-3, betas=BETAS),
    "AdamW, 8-bit": lambda model: gx.optim.AdamW8bit(model.parameters(), lr=1e-3, betas=BETAS),
    "MicroAdam": lambda model: gx.optim.MicroAdam(model.parameters(), lr=1e-3),
}


def first_optimizer(model: GPT) -> Optimizer:
    """What learns source code."""
    return gx.optim.AdamW(model.parameters(), lr=3e-3, betas=BETAS)


def main(argv: list[str] | None = None) -> None:
    """Train, fine-tune, print the table, write ``results.json`` and ``tradeoff.png``."""
    options = parser(__doc__, OPTIMIZERS, "out/fine_tune")
    options.add_argument("--first-steps", type=int, default=500, help="steps on source code")
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = new_model(args)
    code = standard_library()
    train_on(code, "source code, AdamW", model, first_optimizer, args, args.first_steps)
    compare(args, OPTIMIZERS, reference_manual(), start=model.state_dict())


if __name__ == "__main__":
    main()
