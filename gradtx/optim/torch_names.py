"""What ``torch.optim`` calls the entries of states and groups, and how they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .leaves import Nested

# How a step runs is each library's own business; the rest of what both know has one meaning.
OWN = ("foreach", "fused", "fallback")
_ADAM = {"step": "step", "mu": "exp_avg", "nu": "exp_avg_sq"}
_QUINTIC = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class TorchNames:
    """Torch's names for the state of one class.

    Attributes:
        name: of the class.
        entries: torch's name of every entry, by its path here.
        unused: counters of torch that change nothing.
        ones: entries here that torch has no use for, and which are 1 after a step.
        kept_dims: where torch keeps a dimension of size 1, by its name.
        implied: options of torch's class that have one value here.
        only: options that torch's class lacks, with the value for which it does the same.
    """

    name: str
    entries: Mapping[str, str]
    unused: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    kept_dims: Mapping[str, int] = field(default_factory=dict)
    implied: tuple[str, ...] = ()
    only: Mapping[str, Any] = field(default_factory=dict)

    def keys(self) -> frozenset[str]:
        """All names of torch's entries."""
        return frozenset({*self.entries.values(), *self.unused})

    def defaults(self) -> dict[str, Any]:
        """The options that torch's class has, with its defaults."""
        dummy = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float32, device="cpu"))
        group = dict(getattr(torch.optim, self.name)([dummy]).param_groups[0])
        del group["params"]
        return group

    def exported(self, own: Mapping[str, Tensor], p: Tensor, capturable: bool) -> dict[str, Any]:
        """Torch's state of a parameter from the entries here, by path.

        Raises:
            ValueError: there are entries that torch's class does not have.
        """
        out: dict[str, Any] = {}
        for path, value in own.items():
            if path in self.ones:
                continue
            if path not in self.entries:
                raise ValueError(
                    f"to_torch_state_dict: torch.optim.{self.name} keeps nothing like {path} "
                    f"for a parameter of shape {tuple(p.shape)}"
                )
            key = self.entries[path]
            dim = self.kept_dims.get(key)
            out[key] = value if dim is None else value.unsqueeze(dim)
        device = p.device if capturable else torch.device("cpu")
        for key in ("step", *self.unused):
            if key in out:
                out[key] = out[key].to(device, torch.float32, copy=True)
            elif key in self.unused:
                out[key] = torch.ones((), dtype=torch.float32, device=device)
        return {key: out[key] for key in sorted(out, key=lambda key: key != "step")}

    def imported(self, path: str, state: Mapping[str, Any]) -> Any:
        """What torch's state says for an entry here, None if nothing."""
        return 1 if path in self.ones else state.get(self.entries.get(path, ""))

    def check_exported(self, who: str, group: Mapping[str, Any]) -> None:
        """Raise ValueError for an option in use that torch's class does not have."""
        for name, value in self.only.items():
            if group[name] != value:
                raise ValueError(
                    f"to_torch_state_dict: torch.optim.{self.name} has no option {name!r}; "
                    f"{who} does the same only with {name}={value!r}, got {group[name]!r}"
                )
        coefficients = group.get("ns_coefficients", "quintic5")
        numbers = isinstance(coefficients, (tuple, list)) and len(coefficients) == 3
        if coefficients != "quintic5" and not (numbers and all(map(_is_number, coefficients))):
            raise ValueError(
                f"to_torch_state_dict: torch.optim.{self.name} takes three ns_coefficients, "
                f"got {coefficients!r}"
            )

    def group_values(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Options that torch's class writes in another way."""
        coefficients = group.get("ns_coefficients")
        if coefficients is None:
            return {}
        return {"ns_coefficients": _QUINTIC if coefficients == "quintic5" else coefficients}


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float))


def _adam(name: str, member: str, extra: Mapping[str, str], **more: Any) -> TorchNames:
    entries = {f"{member}.{own}": theirs for own, theirs in {**_ADAM, **extra}.items()}
    return TorchNames(name, entries, **more)


_NAMES = (
    _adam("Adam", "scale_by_adam", {"nu_max": "max_exp_avg_sq"}),
    _adam(
        "AdamW",
        "scale_by_adam",
        {"nu_max": "max_exp_avg_sq"},
        implied=("decoupled_weight_decay",),
    ),
    _adam("NAdam", "scale_by_nadam", {"mu_product": "mu_product"}),
    _adam("RAdam", "scale_by_radam", {}),
    _adam("Adamax", "scale_by_adamax", {"nu": "exp_inf"}),
    TorchNames(
        "SGD",
        {"trace.trace": "momentum_buffer", "damped_trace.trace": "momentum_buffer"},
        ones=("damped_trace.step",),
    ),
    TorchNames(
        "Adagrad",
        {"scale_by_inverse_time.step": "step", "scale_by_rss.sum_of_squares": "sum"},
    ),
    TorchNames(
        "Adadelta",
        {"scale_by_adadelta.e_g": "square_avg", "scale_by_adadelta.e_x": "acc_delta"},
        unused=("step",),
    ),
    TorchNames(
        "RMSprop",
        {
            "scale_by_rms.nu": "square_avg",
            "scale_by_stddev.nu": "square_avg",
            "scale_by_stddev.mu": "grad_avg",
            "trace.trace": "momentum_buffer",
        },
        unused=("step",),
    ),
    TorchNames(
        "Adafactor",
        {
            "scale_by_factored_rms.step": "step",
            "limit_relative_step.step": "step",
            "scale_by_factored_rms.v_row": "row_var",
            "scale_by_factored_rms.v_col": "col_var",
            "scale_by_factored_rms.v": "variance",
        },
        kept_dims={"row_var": -1, "col_var": -2},
    ),
    TorchNames(
        "Muon",
        {"partition.matrix.ema.ema": "momentum_buffer"},
        only={
            "matrix": True,
            "average": True,
            "ns_scaling": "clamp",
            "split_sizes": None,
            "num_heads": None,
            "cautious_decay": False,
        },
    ),
)


def of_torch() -> Mapping[str, TorchNames]:
    """The classes that both have, by name."""
    return {names.name: names for names in _NAMES}


def counterpart(optimizer: Any) -> TorchNames | None:
    """Torch's names for an optimizer's class, or for the one it is derived from."""
    found = (of_torch().get(cls.__name__) for cls in type(optimizer).__mro__)
    return next((names for names in found if names is not None), None)


def from_torch(optimizer: Any, state_dict: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """A state dict with groups as this optimizer has them, and whether its states are torch's.

    Any other state dict comes back as it is.
    """
    theirs = counterpart(optimizer)
    if theirs is None or "gradtx" in state_dict or not _is_torchs(theirs.keys(), state_dict):
        return state_dict, False
    groups = [
        {k: v for k, v in group.items() if k not in (*OWN, *theirs.implied)}
        for group in state_dict["param_groups"]
    ]
    return {**state_dict, "param_groups": groups}, True


def own_state(optimizer: Any, p: Tensor, wanted: Nested, state: Nested) -> Nested:
    """The state of one parameter from torch's, as far as it is there.

    Args:
        optimizer: whose class has a counterpart.
        p: the parameter.
        wanted: a state of the form that is needed; shapes and dtypes count.
        state: what torch's class keeps.
    """
    theirs = counterpart(optimizer)
    assert theirs is not None
    out: Nested = {}
    for path, want in values(wanted):
        value = theirs.imported(path, state)
        if value is None:
            continue
        value = torch.as_tensor(value, dtype=want.dtype, device=p.device)
        if _squeezed(value) == _squeezed(want):  # torch keeps dimensions of size 1
            value = value.reshape(want.shape)
        inner = out
        *above, last = path.split(".")
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return out


def _is_torchs(keys: frozenset[str], state_dict: Mapping[str, Any]) -> bool:
    states = [set(state) for state in state_dict["state"].values() if state]
    if states:
        return all(state <= keys for state in states)
    return all("fallback" not in group for group in state_dict["param_groups"])


def _squeezed(x: Tensor) -> tuple[int, ...]:
    return tuple(n for n in x.shape if n != 1)


def values(nested: Nested, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The values of nested dicts by dotted path."""
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from values(value, f"{path}{name}.")
        else:
            yield path + name, value
