"""Compiled functions that take addresses in place of tensors, for many leaves in a table.

At every call of an operator each tensor of its lists goes through torch's dispatcher, which takes
longer than the work on a small leaf. A caller that sees its tensors lie where they did keeps a
table of them between calls instead. Nothing is checked here: that tensors are there, lie still, are
contiguous and of the right form is for the caller to know.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor

import gradtx_cuda

__all__ = ["Entry", "LeafTable", "Values"]

Values: TypeAlias = "Sequence[Tensor] | Sequence[int] | Sequence[bool] | np.ndarray"


class LeafTable:
    """What a compiled function knows of many leaves: addresses and whole numbers.

    Args:
        fields: their names, in the order of the function's structure.
        values: by name a value a leaf; tensors stand for where they begin. Other fields are zero.
    """

    def __init__(self, fields: Sequence[str], **values: Values) -> None:
        self._at = {name: k for k, name in enumerate(fields)}
        self._last: dict[str, list[int]] = {}
        count = len(next(iter(values.values())))
        self.records = np.zeros((count, len(fields)), dtype=np.int64)
        for name, column in values.items():
            self.records[:, self._at[name]] = [
                x.data_ptr() if isinstance(x, Tensor) else x for x in column
            ]

    def put(self, name: str, values: np.ndarray | list[int]) -> None:
        """Set a field of all leaves; numbers that are the same as the last time cost little."""
        if isinstance(values, list):
            if values == self._last.get(name):
                return
            self._last[name] = values.copy()
        self.records[:, self._at[name]] = values


class Entry:
    """A function of the compiled library.

    Args:
        name: the function's.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_there(self) -> bool:
        """Whether the library has it."""
        return gradtx_cuda.function(self._name) is not None

    def __call__(self, *args: LeafTable | Tensor | int) -> None:
        """Call it.

        Args:
            args: in its order; tensors, on the CPU, stand for where they begin, tables for where
                they begin and how many leaves they have.

        Raises:
            RuntimeError: what it says is wrong.
        """
        function = gradtx_cuda.function(self._name)
        assert function is not None  # who calls has asked
        values: list[ctypes.c_void_p | ctypes.c_int64] = []
        for x in args:
            if isinstance(x, Tensor):
                values.append(ctypes.c_void_p(x.data_ptr()))
            elif isinstance(x, LeafTable):
                values.append(ctypes.c_void_p(x.records.ctypes.data))
                values.append(ctypes.c_int64(len(x.records)))
            else:
                values.append(ctypes.c_int64(x))
        said = function(*values)
        if said is not None:
            raise RuntimeError(said.decode())
