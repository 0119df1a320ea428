"""The native backend: programs as C, compiled by the machine's own compiler, for processors.

A program becomes a few loop nests, with what works entry by entry computed inside the loops that read it. The first
call compiles, or finds the library on disk; later calls are one call of it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from backends.native.compiler import HERE, installed
from backends.native.emission import emit
from backends.native.reader import INDEXED
from backends.native.sums import LOOPS
from backends.plan import check_shape, given
from lowering import program as p
from lowering.program import Program
from mixer_ir.errors import BackendError
from mixer_ir.functions import Kind

DTYPES: dict[torch.dtype, dict[Kind, torch.dtype]] = {
    torch.float32: {"bool": torch.bool, "int": torch.int64, "real": torch.float32, "complex": torch.complex64},
    torch.float64: {"bool": torch.bool, "int": torch.int64, "real": torch.float64, "complex": torch.complex128},
}
OPERATIONS = frozenset((*LOOPS, *INDEXED, p.Scan, p.Region, p.Pick))
"""the operations that have a spelling"""
KEPT = 1 << 28
"""bytes: an arena up to this size is kept for the next call"""

Run = Callable[[Sequence[Tensor]], list[Tensor]]


def missing() -> str | None:
    """None if this backend runs on this machine, or what it lacks."""
    try:
        installed()
    except BackendError as error:
        return str(error)
    return None


def prepare(program: Program, alone: torch.dtype | None = None) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """A function from tensors by input name to tensors by output name, on the processor.

    It computes in the widest floating precision among its inputs, at least float32; in
    `alone` where it has no floating inputs. Errors: BackendError without a
    compiler, or for tensors on another device.
    """
    installed()
    runs: dict[torch.dtype, Run] = {}

    def call(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = given(program, arrays)
        for v, x in zip(program.inputs, inputs, strict=True):
            check_shape(v, x.shape)
            if x.device.type != "cpu":
                raise BackendError(f"the native backend runs on the processor, but a tensor is on {x.device}")
        real = _precision(inputs, alone)
        if real not in runs:
            runs[real] = _loaded(program, real)
        return dict(zip(program.names, runs[real](inputs), strict=True))

    return call


def _precision(inputs: Sequence[Tensor], alone: torch.dtype | None) -> torch.dtype:
    floating = [x.dtype for x in inputs if x.is_floating_point() or x.is_complex()]
    floating = floating or [alone or torch.get_default_dtype()]
    return torch.float64 if any(d in (torch.float64, torch.complex128) for d in floating) else torch.float32


def _loaded(program: Program, real: torch.dtype) -> Run:
    """The program compiled for one precision."""
    made = emit(program, real.itemsize)
    extra = ("-DDOUBLE",) if real == torch.float64 else ()
    _runtime(extra)
    function = ctypes.CDLL(str(installed().make(made.text, extra))).run
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    dtypes = DTYPES[real]
    wanted = [dtypes[v.kind] for v in program.inputs]
    results = [(v.shape, dtypes[v.kind]) for v in program.outputs]
    addresses = ctypes.c_void_p * (len(wanted) + len(results))

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        held = [x.to(dtype).contiguous().resolve_conj() for x, dtype in zip(inputs, wanted, strict=True)]
        out = [torch.empty(shape, dtype=dtype) for shape, dtype in results]
        threads = torch.get_num_threads()
        arena = ARENAS.of(made.arena + threads * made.apart)
        function(addresses(*(x.data_ptr() for x in (*held, *out))), arena.data_ptr(), threads)
        return out

    return run


class Arenas(threading.local):
    """One arena a thread, kept between calls, as fresh memory costs a visit to each of its pages."""

    def __init__(self) -> None:
        self._kept = torch.empty(0, dtype=torch.uint8)

    def of(self, size: int) -> Tensor:
        if size > KEPT:
            return torch.empty(size + 64, dtype=torch.uint8)
        if self._kept.numel() < size:
            self._kept = torch.empty(size + 64, dtype=torch.uint8)
        return self._kept


ARENAS = Arenas()
_RUNTIMES: dict[tuple[str, ...], ctypes.CDLL] = {}
_LOCK = threading.Lock()


def _runtime(extra: tuple[str, ...]) -> None:
    """The routines that programs of one precision call, made known to them."""
    with _LOCK:
        if extra not in _RUNTIMES:
            path = installed().make((HERE / "runtime.c").read_text(encoding="utf-8"), extra)
            _RUNTIMES[extra] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
