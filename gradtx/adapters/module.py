"""Adapters as layers of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .config import AdapterConfig, Kind, Normalize, Scaling, Start
from .functional import (
    Adapter,
    Targets,
    add_adapter,
    check_factors,
    init_adapter,
    merge,
    selector,
)
from .ranks import dylora_rank

M = TypeVar("M", bound=nn.Module)


class AdaptedLinear(nn.Linear):
    """A linear layer with a frozen weight and an adapter; made by ``wrap``.

    In training ``y = x W^T + b + ((x A) P) B``, in evaluation the adapter at a rank that
    ``set_rank`` chooses, the full one by default. The weight and the bias are those of the layer
    that it stands for, under their old names; P is float32 whatever the model is cast to, and not
    in the state dict.

    Attributes:
        A: parameter (in, r).
        B: parameter (r, out).
        config: an ``AdapterConfig``.
        rank: of evaluation.
        drawn: of training with "dylora"; None where none has been drawn since evaluation.

    >>> import torch, gradtx as gx
    >>> layer = gx.adapters.wrap(torch.nn.Linear(4, 3), rank=2)
    >>> [name for name, p in layer.named_parameters() if p.requires_grad]
    ['A', 'B']
    """

    diagonal: Tensor | None

    def __init__(self, linear: nn.Linear, layer: str, config: AdapterConfig) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)
        self.config = config
        self.rank = config.rank
        self.drawn: int | None = None
        adapter = init_adapter(layer, linear.weight.detach(), config)
        self.A, self.B = nn.Parameter(adapter.A), nn.Parameter(adapter.B)
        self.register_buffer("diagonal", self._diagonal(), persistent=False)
        self.training = linear.training
        # torch's encoder layers read the weights of their linear layers in evaluation, without
        # calling them, unless one has a hook.
        self.register_forward_pre_hook(_keep)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        base = F.linear(input, self.weight, self.bias)
        if not self.training:
            return self._at(base, input, self.rank)
        if self.config.kind == "dylora":
            if self.drawn is None:
                raise ValueError(
                    "AdaptedLinear: no rank has been drawn; call gx.adapters.draw_rank(model, "
                    "step) before a forward pass in training"
                )
            return self._at(base, input, self.drawn)
        if self.diagonal is None:
            return self._at(base, input, self.config.rank)
        return add_adapter(base, input, self.A, self.B, self.diagonal)

    def train(self, mode: bool = True) -> AdaptedLinear:
        """Switch; evaluation forgets the rank that was drawn."""
        if not mode:
            self.drawn = None
        return super().train(mode)

    def extra_repr(self) -> str:
        """What ``repr`` shows of the layer."""
        kind, ranks = self.config.kind, self.config.ranks
        return f"{super().extra_repr()}, rank={self.config.rank}, kind={kind}, train_ranks={ranks}"

    def _at(self, base: Tensor, x: Tensor, rank: int) -> Tensor:
        return add_adapter(base, x, self.A[:, :rank], self.B[:rank], self.config.scale(rank))

    def _diagonal(self) -> Tensor | None:
        """P; None where it is one number, which products take for nothing, or drawn."""
        if self.config.kind != "matryoshka":
            return None
        return self.config.diagonal(self.A.device)

    def _apply(self, fn: Any, recurse: bool = True) -> AdaptedLinear:
        """Move or cast the layer; P is made anew, in float32."""
        super()._apply(fn, recurse)
        self.diagonal = self._diagonal()
        return self


def _keep(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """A hook that changes nothing."""


def wrap(
    model: M,
    rank: int = 16,
    kind: Kind = "matryoshka",
    train_ranks: Sequence[int] | None = None,
    targets: Targets = None,
    scaling: Scaling = "sqrt",
    alpha: float = 1.0,
    normalize: Normalize = "sum",
    truncate: bool = False,
    init_A: Start = "reference",
    seed: int = 0,
) -> M:
    """Freeze a model and give its linear layers adapters, in place.

    What is left to train are the parameters A and B of the adapted layers; an optimizer that is
    given all parameters has state for those alone.

    Args:
        model: its layers of the type ``torch.nn.Linear`` can be adapted.
        rank: r, >= 1.
        kind: "matryoshka", "lora" or "dylora".
        train_ranks: the set of ranks; this and what follows as in ``AdapterConfig``.
        targets: which layers: a predicate of the dotted name, one or several last components of it,
            or None for all.
        scaling: s(k).
        alpha: multiplies s.
        normalize: "sum" or "mean".
        truncate: drop ranks above ``rank``.
        init_A: "reference" or "peft".
        seed: of A's numbers.

    Returns:
        The model; another one only where the model itself is a linear layer.

    Raises:
        ValueError: a value outside its range, a model that has adapters, or targets that match no
            layer. Nothing is changed then.

    Source: arXiv 2605.07850.

    >>> import torch, gradtx as gx
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> model = gx.adapters.wrap(model, rank=4, targets="0")
    >>> gx.adapters.set_rank(model.eval(), 2)
    >>> model[0]
    AdaptedLinear(in_features=8, out_features=8, bias=True, rank=4, kind=matryoshka, train_ranks=(1, 2, 4))
    """  # noqa: E501
    config = AdapterConfig(
        rank, kind, train_ranks, scaling, alpha, normalize, truncate, init_A, seed
    )
    if any(True for _ in adapted_layers(model)):
        raise ValueError("wrap: the model has adapters; unwrap it first")
    chosen = selector(targets)
    layers = dict(model.named_modules(remove_duplicate=False))
    linear = {name: layer for name, layer in layers.items() if type(layer) is nn.Linear}
    meant = {name: layer for name, layer in linear.items() if chosen(name)}
    if not meant:
        raise ValueError(f"wrap: targets match none of the linear layers {list(linear)}")
    for name, layer in meant.items():
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(
                f"wrap: {name!r} computes its weight (pruned or normalized by torch.nn.utils); "
                "make it a parameter first, or leave it out by targets"
            )
        if not layer.weight.is_floating_point():
            raise ValueError(f"wrap: {name!r} has a weight of dtype {layer.weight.dtype}")
    made: dict[nn.Linear, AdaptedLinear] = {}
    for name, layer in meant.items():
        if layer not in made:
            made[layer] = AdaptedLinear(layer, name, config)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # its nested sequences are for the fast path alone
    return _replace(model, {name: made[layer] for name, layer in meant.items()})


def unwrap(model: M, rank: int | None = None) -> M:
    """Merge adapters into the weights at a rank, and take them out, in place.

    All parameters require gradients again. A weight that another layer has as well stays as it is
    there; the merged one is a parameter of its own.

    Args:
        model: with adapters.
        rank: in [1, r]; None for r.

    Returns:
        The model; another one only where the model itself is an adapted layer.

    Raises:
        ValueError: a model without adapters, or a rank outside [1, r].

    >>> import torch, gradtx as gx
    >>> layer = gx.adapters.unwrap(gx.adapters.wrap(torch.nn.Linear(4, 3), rank=2), rank=1)
    >>> type(layer).__name__
    'Linear'
    """
    layers = _layers("unwrap", model)
    if rank is not None:
        next(iter(layers.values())).config.check("unwrap", rank)
    made: dict[AdaptedLinear, nn.Linear] = {}
    uses: Counter[Tensor] = Counter(p for m in model.modules() for p in m.parameters(recurse=False))
    with torch.no_grad():
        for layer in layers.values():
            c = layer.config
            merged = merge(layer.weight, layer.A, layer.B, rank or c.rank, c.scaling, c.alpha)
            if uses[layer.weight] == 1:
                layer.weight.copy_(merged)
            plain = nn.Linear(1, 1, bias=False, device="meta")
            plain.in_features, plain.out_features = layer.in_features, layer.out_features
            plain.weight = layer.weight if uses[layer.weight] == 1 else nn.Parameter(merged)
            plain.register_parameter("bias", layer.bias)
            plain.training = layer.training
            made[layer] = plain
    names = model.named_modules(remove_duplicate=False)
    new = {name: made[m] for name, m in names if isinstance(m, AdaptedLinear)}
    return _replace(model, new).requires_grad_(True)


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """Adapted layers and their names, those at several places once."""
    for name, layer in model.named_modules():
        if isinstance(layer, AdaptedLinear):
            yield name, layer


def get_adapters(model: nn.Module) -> dict[str, Adapter]:
    """The adapters of a model by layer, as ``apply_adapters`` takes them; parameters, not copies.

    Raises:
        ValueError: a model without adapters.

    >>> import torch, gradtx as gx
    >>> model = gx.adapters.wrap(torch.nn.Sequential(torch.nn.Linear(4, 3)), rank=2)
    >>> {layer: tuple(adapter.A.shape) for layer, adapter in gx.adapters.get_adapters(model).items()}
    {'0': (4, 2)}
    """  # noqa: E501
    return {name: Adapter(m.A, m.B) for name, m in _layers("get_adapters", model).items()}


def load_adapters(model: nn.Module, adapters: Mapping[str, Adapter]) -> None:
    """Copy numbers into the adapters of a model.

    Raises:
        ValueError: other layers than the model's, or other shapes. Nothing is changed then.

    >>> import torch, gradtx as gx
    >>> model = gx.adapters.wrap(torch.nn.Sequential(torch.nn.Linear(4, 3)), rank=2)
    >>> gx.adapters.load_adapters(model, gx.adapters.get_adapters(model))
    """
    layers = _layers("load_adapters", model)
    if layers.keys() != adapters.keys():
        raise ValueError(
            f"load_adapters: the model has adapters on {list(layers)}, given are {list(adapters)}"
        )
    for name, layer in layers.items():
        pair = Adapter(*adapters[name])
        check_factors("load_adapters", name, layer.weight, pair, layer.config.rank)
    with torch.no_grad():
        for name, layer in layers.items():
            layer.A.copy_(adapters[name][0])
            layer.B.copy_(adapters[name][1])


def set_rank(model: nn.Module, rank: int | None = None) -> None:
    """Choose the rank of evaluation; training is not concerned.

    Args:
        model: with adapters.
        rank: in [1, r]; None for r.

    Raises:
        ValueError: a model without adapters, or a rank outside [1, r].

    >>> import torch, gradtx as gx
    >>> gx.adapters.set_rank(gx.adapters.wrap(torch.nn.Linear(4, 3), rank=2), 1)
    """
    layers = _layers("set_rank", model)
    for layer in layers.values():
        if rank is not None:
            layer.config.check("set_rank", rank)
    for layer in layers.values():
        layer.rank = layer.config.rank if rank is None else rank


def draw_rank(model: nn.Module, step: int, micro_step: int = 0, seed: int = 0) -> int:
    """Draw the rank of the next forward passes of "dylora", one for all layers.

    The same counters give the same rank on every process, see ``dylora_rank``.

    Args:
        model: with adapters of kind "dylora".
        step: of the optimizer, >= 0.
        micro_step: forward pass inside an accumulation of gradients, >= 0.
        seed: an integer of at most 64 bits.

    Returns:
        The rank.

    Raises:
        ValueError: a model without such adapters, or a number outside its range.

    >>> import torch, gradtx as gx
    >>> model = gx.adapters.wrap(torch.nn.Linear(4, 3), rank=4, kind="dylora")
    >>> gx.adapters.draw_rank(model, step=0) in (1, 2, 4)
    True
    """
    layers = _layers("draw_rank", model)
    config = next(iter(layers.values())).config
    if config.kind != "dylora":
        raise ValueError(f"draw_rank: the adapters are of kind {config.kind!r}, not 'dylora'")
    rank = dylora_rank(config.ranks, step, micro_step, seed)
    for layer in layers.values():
        layer.drawn = rank
    return rank


def config_of(model: nn.Module) -> AdapterConfig:
    """What the adapters of a model have in common.

    Raises:
        ValueError: a model without adapters.

    >>> import torch, gradtx as gx
    >>> gx.adapters.config_of(gx.adapters.wrap(torch.nn.Linear(4, 3), rank=2)).rank
    2
    """
    return next(iter(_layers("config_of", model).values())).config


def _layers(who: str, model: nn.Module) -> dict[str, AdaptedLinear]:
    layers = dict(adapted_layers(model))
    if not layers:
        raise ValueError(f"{who}: the model has no adapters; gx.adapters.wrap gives it some")
    return layers


def _replace(model: M, new: Mapping[str, nn.Module]) -> M:
    """Put modules in the places of others; the model itself may be one of them."""
    if "" in new:
        return new[""]  # type: ignore[return-value]
    for name, layer in new.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
    return model
