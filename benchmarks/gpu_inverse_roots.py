"""Inverse roots of the load of DASH's published step times, on a CUDA device.

    python benchmarks/gpu_inverse_roots.py

The factors are those of rank 0 of 8 of a Llama of 953M parameters with blocks of 1024: 230 of
1024 x 1024, 8 of 512 x 512 and 2 of 256 x 256, fourth roots at every step. Printed are the
milliseconds of a refresh beside those published for a whole step on H100 GPUs, 138 (by layer) and
119 (by rank) for 10 coupled Newton iterations in float16, whose exchange between ranks is not part
of what is measured here.
"""

from __future__ import annotations

import statistics

import torch

import gradtx as gx
from gradtx.precondition.inverse_roots import RootMethod

LOAD = ((230, 1024), (8, 512), (2, 256))
METHODS: dict[str, tuple[RootMethod, bool, str]] = {
    "coupled Newton, 10, TF32": (
        gx.inverse_roots.coupled_newton(10, stop="never"),
        True,
        "149 / 136",
    ),
    "coupled Newton, 10, float16": (
        gx.inverse_roots.coupled_newton(10, matmul_dtype=torch.float16, stop="never"),
        True,
        "138 / 119",
    ),
    "Newton-DB, 10, TF32": (gx.inverse_roots.newton_db(10), True, "188 / 174"),
    "eigenvalues": (gx.inverse_roots.evd(dtype=None), False, "2850 / 2850"),
}


def factors() -> list[torch.Tensor]:
    """Random factors of full rank."""
    generator = torch.Generator("cuda").manual_seed(0)
    found = []
    for count, side in LOAD:
        g = torch.randn(count, side, side, generator=generator, device="cuda")
        found.append(g @ g.mT / side)
    return found


def milliseconds(method: RootMethod, stacks: list[torch.Tensor], repeats: int) -> float:
    """Median time of all roots, until the device has finished them."""
    times = []
    for _ in range(repeats + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for stack in stacks:
            gx.matrix_root(stack, 4, method, eps=1e-10)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[2:])


def main() -> None:
    """Measure and print."""
    stacks = factors()
    print(f"{torch.cuda.get_device_name()}: milliseconds of all roots")
    print(f"{'method':<30}{'here':>10}  published step, by layer / by rank")
    for name, (method, tf32, published) in METHODS.items():
        torch.backends.cuda.matmul.allow_tf32 = tf32
        repeats = 2 if name == "eigenvalues" else 20
        print(f"{name:<30}{milliseconds(method, stacks, repeats):>10.1f}  {published}")


if __name__ == "__main__":
    main()
