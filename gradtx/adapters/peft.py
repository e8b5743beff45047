"""Adapters in the layout of the PEFT library, as tensors or as a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import AdapterConfig
from .functional import Adapter, layer_of
from .module import config_of, get_adapters, load_adapters

_PREFIX = "base_model.model."
_FACTORS = {".lora_A.weight": 0, ".lora_B.weight": 1}
_SETTINGS, _TENSORS = "adapter_config.json", "adapter_model.bin"
_SAFE = "adapter_model.safetensors"  # which PEFT reads before the other one
# What would change what the adapters do, and the values that leave them alone.
_UNKNOWN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    # Others change the weights below the adapters.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False, None),
}


def to_peft(
    adapters: Mapping[str, Adapter], config: AdapterConfig, rank: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Adapters at a rank as PEFT's tensors and settings.

    PEFT keeps the transposes, ``lora_A`` (b, in) and ``lora_B`` (out, b), and multiplies by
    ``lora_alpha / b``, or with ``use_rslora`` by ``lora_alpha / sqrt(b)``.

    Args:
        adapters: by layer.
        config: of these adapters.
        rank: b, in [1, r]; None for r.

    Returns:
        What is in ``adapter_model.bin``, and what is in ``adapter_config.json``.

    Raises:
        ValueError: a rank outside [1, r].

    >>> import torch, gradtx as gx
    >>> adapters = {"up": gx.adapters.Adapter(torch.ones(3, 4), torch.ones(4, 2))}
    >>> tensors, settings = gx.adapters.to_peft(adapters, gx.adapters.AdapterConfig(rank=4), 2)
    >>> tensors["base_model.model.up.lora_A.weight"].shape, settings["r"]
    (torch.Size([2, 3]), 2)
    """
    b = config.check("to_peft", config.rank if rank is None else rank)
    tensors = {}
    for name, pair in adapters.items():
        layer = _PREFIX + layer_of(name)
        tensors[f"{layer}.lora_A.weight"] = pair[0].detach()[:, :b].mT.contiguous()
        tensors[f"{layer}.lora_B.weight"] = pair[1].detach()[:b].mT.contiguous()
    alpha = config.alpha * (b if config.scaling == "none" else 1)
    settings = {
        "peft_type": "LORA",
        "r": b,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "use_rslora": config.scaling == "sqrt",
        "target_modules": [layer_of(name) for name in adapters],
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    return tensors, settings


def from_peft(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Adapter], AdapterConfig]:
    """PEFT's tensors and settings as adapters of kind "lora".

    Args:
        tensors: by PEFT's names, with or without "base_model.model.".
        settings: those of ``adapter_config.json``.

    Returns:
        Adapters by layer, and their config.

    Raises:
        ValueError: another kind of adapter, tensors that are no factors of linear layers, a factor
            without its other one, no tensors, or ranks that are not the settings'.

    >>> import torch, gradtx as gx
    >>> pair = {"up.lora_A.weight": torch.ones(2, 3), "up.lora_B.weight": torch.ones(5, 2)}
    >>> adapters, config = gx.adapters.from_peft(pair, {"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    >>> adapters["up"].B.shape, config.scale(2)
    (torch.Size([2, 5]), 2.0)
    """  # noqa: E501
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"from_peft: peft_type must be 'LORA', got {settings.get('peft_type')!r}")
    for name, harmless in _UNKNOWN.items():
        if settings.get(name, harmless[0]) not in harmless:
            raise ValueError(f"from_peft: cannot take {name}={settings[name]!r}")
    rank = settings.get("r")
    parts: dict[str, list[Tensor | None]] = {}
    for key, tensor in tensors.items():
        suffix = next((s for s in _FACTORS if key.endswith(s)), None)
        if suffix is None:
            raise ValueError(f"from_peft: {key!r} is no factor of a linear layer")
        layer = key.removesuffix(suffix).removeprefix(_PREFIX)
        parts.setdefault(layer, [None, None])[_FACTORS[suffix]] = tensor
    if not parts:
        raise ValueError("from_peft: there are no tensors")
    adapters = {}
    for layer, (first, second) in parts.items():
        if first is None or second is None:
            raise ValueError(f"from_peft: {layer!r} has one factor only")
        if first.ndim != 2 or second.ndim != 2:
            raise ValueError(
                f"from_peft: {layer!r} has factors of shapes {tuple(first.shape)} and "
                f"{tuple(second.shape)}, which are not those of a linear layer"
            )
        if first.shape[0] != rank or second.shape[1] != rank:
            raise ValueError(
                f"from_peft: {layer!r} has shapes {tuple(first.shape)} and "
                f"{tuple(second.shape)}, r is {rank}"
            )
        adapters[layer] = Adapter(first.mT.contiguous(), second.mT.contiguous())
    rooted = bool(settings.get("use_rslora"))
    scaling, alpha = "sqrt" if rooted else "rank", settings.get("lora_alpha", 8)
    return adapters, AdapterConfig(rank, "lora", scaling=scaling, alpha=alpha)  # type: ignore[arg-type]


def save_peft(model: nn.Module, folder: str | Path, rank: int | None = None) -> None:
    """Write the adapters of a model at a rank into a folder that PEFT loads.

    Args:
        model: with adapters.
        folder: made if it is not there; gets adapter_config.json and adapter_model.bin.
        rank: in [1, r]; None for r.

    Raises:
        ValueError: a model without adapters, a rank outside [1, r], or a folder with
            adapter_model.safetensors, which PEFT would read instead. Nothing is written then.

    >>> import os, tempfile, torch, gradtx as gx
    >>> model = gx.adapters.wrap(torch.nn.Sequential(torch.nn.Linear(4, 3)), rank=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gx.adapters.save_peft(model, folder, rank=2)
    ...     sorted(os.listdir(folder))
    ['adapter_config.json', 'adapter_model.bin']
    """
    tensors, settings = to_peft(get_adapters(model), config_of(model), rank)
    folder = Path(folder)
    if (folder / _SAFE).exists():
        raise ValueError(
            f"save_peft: {folder} has {_SAFE}, which PEFT reads before {_TENSORS}; remove it or "
            "take another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    torch.save({name: tensor.cpu() for name, tensor in tensors.items()}, folder / _TENSORS)


def load_peft(model: nn.Module, folder: str | Path) -> None:
    """Read adapters that PEFT or ``save_peft`` wrote into a model with such adapters.

    Make them with ``wrap(model, **)`` of the same rank, scaling and layers; the error says what
    does not fit. Files in the safetensors format need that library.

    Args:
        model: with adapters.
        folder: with adapter_config.json and adapter_model.bin or adapter_model.safetensors.

    Raises:
        ValueError: other layers, another rank or scale. Nothing is changed then.
        FileNotFoundError: a file is not there.

    >>> import tempfile, torch, gradtx as gx
    >>> model = gx.adapters.wrap(torch.nn.Sequential(torch.nn.Linear(4, 3)), rank=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gx.adapters.save_peft(model, folder)
    ...     gx.adapters.load_peft(model, folder)
    """
    adapters, config = from_peft(*read_peft(folder))
    here = config_of(model)
    if config.rank != here.rank or abs(config.scale(config.rank) - here.scale(here.rank)) > 1e-9:
        raise ValueError(
            f"load_peft: the file has rank {config.rank} and scale {config.scale(config.rank):g}, "
            f"the model rank {here.rank} and scale {here.scale(here.rank):g}"
        )
    load_adapters(model, adapters)


def read_peft(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the settings in a folder of PEFT's; of two files that which PEFT reads.

    Raises:
        FileNotFoundError: a file is not there.
        ModuleNotFoundError: the file is in the safetensors format, and that is not installed.
    """
    folder = Path(folder)
    settings = json.loads((folder / _SETTINGS).read_text())
    if not (folder / _SAFE).exists():
        return torch.load(folder / _TENSORS, map_location="cpu", weights_only=True), settings
    from safetensors.torch import load_file

    return load_file(folder / _SAFE), settings
