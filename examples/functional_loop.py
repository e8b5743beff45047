"""Train the GPT as a pure function: first alone, then four seeds at once under ``vmap``.

There is no optimizer object here. Parameters and optimizer state are values that go into ``step``
and come out of it, so whatever maps over functions maps over training: ``torch.func.vmap(step)``
trains an ensemble. Its first member has the seed of the model trained alone and must follow it.
"""

import argparse
from collections.abc import Callable, Iterable
from time import perf_counter

import optree
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import gradtx as gx
from lm.data import batches, standard_library
from lm.model import GPT, GPTConfig, next_byte_loss
from lm.table import format_table

Params = dict[str, Tensor]
Step = Callable[..., tuple[Params, object, Tensor]]


def make_step(model: GPT, tx: gx.GradientTransformation) -> Step:
    """Return ``(params, state, inputs, targets) -> (params, state, loss)``, a pure function."""

    def loss_of(params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        return next_byte_loss(functional_call(model, params, (inputs,)), targets)

    def step(
        params: Params, state: object, inputs: Tensor, targets: Tensor
    ) -> tuple[Params, object, Tensor]:
        grads, loss = grad_and_value(loss_of)(params, inputs, targets)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, loss

    return step


def train(
    step: Step, params: Params, state: object, data: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, float]:
    """Return the losses, of shape (steps, ...), and the seconds taken."""
    started = perf_counter()
    losses = []
    for inputs, targets in data:
        params, state, loss = step(params, state, inputs, targets)
        losses.append(loss)
    return torch.stack(losses), perf_counter() - started


def stack(trees: list) -> object:
    """Stack equal trees leaf by leaf along a new first dimension, the one ``vmap`` maps over."""
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


def main(argv: list[str] | None = None) -> None:
    """Train both ways and print the losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=96)
    args = parser.parse_args(argv)
    # Matrices this small gain nothing from more threads.
    torch.set_num_threads(1)

    tx = gx.chain(
        gx.clip_by_global_norm(1.0),
        gx.scale_by_adam(b1=0.9, b2=0.95),
        gx.add_decayed_weights(0.1),
        gx.scale_by_learning_rate(
            gx.schedules.warmup_cosine_decay(
                init_value=0.0,
                peak_value=5e-3,
                warmup_steps=args.steps // 10,
                decay_steps=args.steps,
                end_value=5e-4,
            )
        ),
    )
    text = standard_library().train
    models = [GPT(GPTConfig(layers=args.layers, width=args.width), seed) for seed in args.seeds]
    members = [{name: p.detach() for name, p in model.named_parameters()} for model in models]
    data = [batches(text, args.steps, size=8, context=64, seed=seed) for seed in args.seeds]
    step = make_step(models[0], tx)

    alone, alone_seconds = train(step, members[0], tx.init(members[0]), data[0])

    params = stack(members)
    together = [stack(batch) for batch in zip(*data, strict=True)]
    # Of the attention kernels only the composed one has a vmap rule on every device.
    with sdpa_kernel(SDPBackend.MATH):
        ensemble, ensemble_seconds = train(vmap(step), params, vmap(tx.init)(params), together)

    tail = -max(1, args.steps // 10)
    columns = {f"alone, seed {args.seeds[0]}": alone}
    columns |= {f"ensemble, seed {s}": ensemble[:, i] for i, s in enumerate(args.seeds)}
    rows = [(k, f"{v[0]:.4f}", f"{v[tail:].mean():.4f}") for k, v in columns.items()]
    print(format_table(("model", "first loss", "last losses"), rows))
    print(f"\nalone {alone_seconds:.1f} s; {len(models)} at once {ensemble_seconds:.1f} s")


if __name__ == "__main__":
    main()
