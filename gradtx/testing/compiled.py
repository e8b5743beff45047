"""torch.compile of an update."""

from __future__ import annotations

from typing import Any

import torch

from .claims import require_close
from .subject import Subject, holds_for_all
from .trees import call, number, some_grads, some_params

# Five polynomials of an orthogonalisation multiply float32 rounding by up to some hundred.
_RTOL = 5e-5
SHAPES = {"b": (3,), "w": (3, 2)}  # the compiler takes its time for every leaf


@holds_for_all
def compile(s: Subject) -> None:
    """One graph, the numbers of eager mode, and no recompilation for other values."""
    params = some_params(SHAPES)

    def step(grads: Any, state: Any, hyper: Any) -> Any:
        return call(s.tx, grads, state, params, hyper=hyper)

    torch._dynamo.reset()
    try:
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        state = want_state = s.tx.init(params)
        for t in range(3):
            hyper = {d.key: number(d.other_value(0.1 + 0.2 * t)) for d in s.dynamics}
            with torch.compiler.set_stance("fail_on_recompile" if t else "default"):
                out, state = compiled(some_grads(t, SHAPES), state, hyper)
            want, want_state = step(some_grads(t, SHAPES), want_state, hyper)
            require_close(out, want, f"the updates of step {t}", rtol=_RTOL)
            require_close(state, want_state, f"the state after step {t}", rtol=_RTOL)
    finally:
        torch._dynamo.reset()
