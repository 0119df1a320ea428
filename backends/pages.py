"""Large arrays in large pages, where the system gives them for the asking.

Fresh memory is cleared page by page when it is first written. Pages of 4 KiB take longer for that than most programs do
to compute what is written there; those of 2 MiB are 512 times fewer. Linux has them for what is advised (madvise(2),
MADV_HUGEPAGE) unless it was told otherwise; elsewhere nothing is said. It is advice: whether it is taken or not
changes no result.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 22
"""bytes from which an array is worth a call of the system"""


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """An array that nobody has written to, as torch.empty gives it."""
    x = torch.empty(shape, dtype=dtype, device=device)
    if x.nbytes >= LARGE and x.device.type == "cpu" and type(x) is Tensor:
        _advise(x.data_ptr(), x.nbytes)
    return x


def _advise(address: int, size: int) -> None:
    """Asks for large pages in all that lies within an array."""
    if (madvise := _madvise()) is not None:
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (address + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
        madvise(start, whole, mmap.MADV_HUGEPAGE)


@cache
def _madvise() -> Any:
    """The system's call, where there is one."""
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    call = getattr(ctypes.CDLL(None), "madvise", None)
    if call is not None:
        call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return call
