"""How many tensors lie, seen in one call.

Asking tensors in Python takes as long for each of address, shape, strides, dtype and device as C
takes for all of them. The C is a few lines that read tensors through the functions that torch
exports for DLPack; where they cannot be compiled, Python asks.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ir.cache import compiler, library
from ..ir.errors import CannotFuseError

_FORM = tuple(map(attrgetter, ("shape", "dtype", "device")))
_CAPSULE = b"dlpack_exchange_api"
_FEW = 16  # tensors up to which asking in Python takes less than a second library is worth
_READ = 5  # word of the capsule's table that holds ``dltensor_from_py_object_no_sync``
_SOURCE = """
#include <cstdint>
struct gx_dltensor {
  void* data;
  int32_t device, index, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t offset;
};
// 0: all tensors of a Python list lie in the form, which is written first if asked; addresses are
// in at. 1: they do not. -1: one cannot be read, and a Python exception is set.
extern "C" int64_t gx_glance(void* list, int64_t n, void* (*item)(void*, intptr_t),
                             int32_t (*read)(void*, gx_dltensor*), int64_t* at, int64_t* form,
                             int64_t writes) {
  for (int64_t i = 0; i < n; ++i) {
    gx_dltensor x;
    if (read(item(list, i), &x) != 0) return -1;
    at[i] = reinterpret_cast<int64_t>(x.data) + static_cast<int64_t>(x.offset);
    const int64_t kind[3] = {x.ndim, int64_t{x.device} << 32 | uint32_t(x.index),
                             int64_t{x.code} << 32 | int64_t{x.bits} << 16 | x.lanes};
    for (int64_t value : kind) {
      if (writes) *form = value;
      if (*form++ != value) return 1;
    }
    for (int64_t k = 0; k < x.ndim; ++k, form += 2) {
      if (writes) form[0] = x.shape[k], form[1] = x.strides[k];
      if (form[0] != x.shape[k] || form[1] != x.strides[k]) return 1;
    }
  }
  return 0;
}
"""


class Glance:
    """The form in which tensors lie: shape, strides, dtype and device of each.

    Args:
        tensors: they are not kept.

    Raises:
        CannotFuseError: one has no memory of its own.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self._see = _seer() if self._count > _FEW else None
        if self._see is None:
            self._asked = _ask(tensors)
            self.addresses = np.array(addresses(tensors), dtype=np.int64)
            return
        self._form = np.zeros(sum(3 + 2 * x.ndim for x in tensors), dtype=np.int64)
        self._place = self._form.ctypes.data
        self.addresses = np.empty(self._count, dtype=np.int64)
        self._look(list(tensors), self.addresses, writes=True)

    def at(self, tensors: list[Tensor]) -> np.ndarray | None:
        """Where as many tensors begin, None if one lies in another form.

        Raises:
            CannotFuseError: one has no memory of its own.
        """
        if self._see is None:
            now = np.array(addresses(tensors), dtype=np.int64)
            return now if self._asked == _ask(tensors) else None
        now = np.empty(self._count, dtype=np.int64)
        return now if self._look(tensors, now, writes=False) else None

    def _look(self, tensors: list[Tensor], at: np.ndarray, writes: bool) -> bool:
        assert self._see is not None  # Python asks then
        with contextlib.suppress(RuntimeError, BufferError):
            return not self._see(tensors, self._count, at.ctypes.data, self._place, writes)
        raise CannotFuseError("", _NO_MEMORY)


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Where tensors begin.

    Raises:
        CannotFuseError: one has no memory of its own.
    """
    with contextlib.suppress(RuntimeError):
        return list(map(Tensor.data_ptr, tensors))
    raise CannotFuseError("", _NO_MEMORY)


_NO_MEMORY = "a tensor wraps another one, or has no memory"


def _ask(tensors: Sequence[Tensor]) -> tuple[list[Any], ...]:
    return (list(map(Tensor.stride, tensors)), *(list(map(f, tensors)) for f in _FORM))


@functools.cache
def _seer() -> Callable[..., int] | None:
    """``gx_glance`` of a list, how many, addresses, form and whether to write it."""
    api = ctypes.pythonapi
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    try:
        compiler()  # where there is none it is for others to say so
        code = library(_SOURCE, ("gx_glance",))
        table = pointer(torch.Tensor.__dlpack_c_exchange_api__, _CAPSULE)
    except (CannotFuseError, AttributeError):
        return None
    assert table is not None  # it would have raised
    read = (ctypes.c_void_p * (_READ + 1)).from_address(table)[_READ]
    item = ctypes.cast(api.PyList_GetItem, ctypes.c_void_p)
    if not read:
        return None
    # Exceptions come through, and the interpreter's lock is kept, as for any function of Python's.
    see = ctypes.PYFUNCTYPE(
        ctypes.c_int64, ctypes.py_object, ctypes.c_int64, *4 * [ctypes.c_void_p], ctypes.c_int64
    )(("gx_glance", code))
    return lambda tensors, n, at, form, writes: see(tensors, n, item, read, at, form, writes)
