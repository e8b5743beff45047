"""Adapters of low rank whose leading columns are adapters of lower ranks.

``wrap`` puts them into a model; ``init_adapters`` and ``apply_adapters`` are the same as pure
functions of trees. One training run gives an adapter that can be cut to any rank.
"""

from .config import AdapterConfig, adapter_diagonal, scale
from .functional import (
    Adapter,
    apply_adapters,
    init_adapters,
    matryoshka_linear,
    merge,
    slice_adapter,
)
from .module import (
    AdaptedLinear,
    config_of,
    draw_rank,
    get_adapters,
    load_adapters,
    set_rank,
    unwrap,
    wrap,
)
from .peft import from_peft, load_peft, save_peft, to_peft
from .ranks import aurac, dylora_rank

__all__ = [
    "AdaptedLinear",
    "Adapter",
    "AdapterConfig",
    "adapter_diagonal",
    "apply_adapters",
    "aurac",
    "config_of",
    "draw_rank",
    "dylora_rank",
    "from_peft",
    "get_adapters",
    "init_adapters",
    "load_adapters",
    "load_peft",
    "matryoshka_linear",
    "merge",
    "save_peft",
    "scale",
    "set_rank",
    "slice_adapter",
    "to_peft",
    "unwrap",
    "wrap",
]
