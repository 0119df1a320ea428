"""The native backend: programs as C, compiled by the machine's own compiler, for processors.

A program becomes a few loop nests, with what works entry by entry computed inside the loops that read it. The first
call compiles, or finds the library on disk; later calls are one call of it.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from backends import pages
from backends.native.compiler import HERE, installed
from backends.native.emission import Emitted, emit
from backends.native.kept import Record
from backends.native.reader import INDEXED
from backends.native.sums import LOOPS
from backends.plan import check_shape, given
from backends.results import precision_of, results
from lowering import program as p
from lowering.program import Program, Value
from mixer_ir.errors import BackendError
from mixer_ir.nodes.functions import Kind

DTYPES: dict[torch.dtype, dict[Kind, torch.dtype]] = {
    torch.float32: {"bool": torch.bool, "int": torch.int64, "real": torch.float32, "complex": torch.complex64},
    torch.float64: {"bool": torch.bool, "int": torch.int64, "real": torch.float64, "complex": torch.complex128},
}
NARROW = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
OPERATIONS = frozenset((*LOOPS, *INDEXED, p.Scan, p.Region, p.Pick))
"""the operations that have a spelling"""
ROUTINE, DEFINED = re.compile(r"\b(mixer_\w+)\("), re.compile(r"^void (mixer_\w+)\(", re.MULTILINE)
"""where a routine is called, and where it is defined"""
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


def prepare(program: Program, alone: torch.dtype | None = None) -> Prepared:
    """A function from tensors by input name to tensors by output name, on the processor.

    It computes in the widest floating precision among its inputs, at least float32; in
    `alone` where it has no floating inputs. Errors: BackendError without a
    compiler, or for tensors on another device.
    """
    installed()
    return Prepared(program, alone)


class Prepared:
    """A program with its libraries, one for each combination of dtypes that it was called with."""

    def __init__(self, program: Program, alone: torch.dtype | None) -> None:
        self._program, self._alone = program, alone
        self._runs: dict[Types, Run] = {}

    def __call__(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = given(self._program, arrays)
        for v, x in zip(self._program.inputs, inputs, strict=True):
            check_shape(v, x.shape)
            if x.device.type != "cpu":
                raise BackendError(f"the native backend runs on the processor, but a tensor is on {x.device}")
        run = self.straight(tuple(x.dtype for x in inputs))
        return dict(zip(self._program.names, run(inputs), strict=True))

    def straight(self, dtypes: tuple[torch.dtype, ...]) -> Run:
        """The library for inputs of these dtypes; it checks nothing."""
        types = Types.of(self._program, dtypes, self._alone)
        if types not in self._runs:
            self._runs[types] = self._loaded(types)
        return self._runs[types]

    def _loaded(self, types: Types) -> Run:
        record = build(self._program, types)
        try:
            return load(record, self._program, types)
        except OSError:  # the disk lost a part of it: once more
            record.forget()
        try:
            return load(build(self._program, types), self._program, types)
        except OSError as error:
            raise BackendError(f"a library that was just compiled cannot be loaded: {error}") from error


@dataclass(frozen=True)
class Types:
    """In which dtypes a library takes its inputs and gives its outputs, and in which real one it computes."""

    real: torch.dtype
    inputs: tuple[torch.dtype, ...]
    outputs: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, program: Program, given: Sequence[torch.dtype], alone: torch.dtype | None = None) -> Types:
        """For inputs of these dtypes: bfloat16 and float16 are read and written as such, and computed in float32."""
        real = precision_of(given, alone or torch.get_default_dtype())
        made = results(program, given, alone or torch.get_default_dtype())
        return cls(
            real,
            tuple(_as(v, dtype, real) for v, dtype in zip(program.inputs, given, strict=True)),
            tuple(_as(v, dtype, real) for v, dtype in zip(program.outputs, made, strict=True)),
        )

    @property
    def narrow(self) -> tuple[str, ...]:
        return tuple(NARROW.get(x, "") for x in (*self.inputs, *self.outputs))


def _as(v: Value, dtype: torch.dtype, real: torch.dtype) -> torch.dtype:
    return dtype if dtype in NARROW and v.kind == "real" and real == torch.float32 else DTYPES[real][v.kind]


def build(program: Program, types: Types) -> Record:
    """The library of a program, from the disk or made now."""
    return make(emit(program, types.real.itemsize, types.narrow), types.real)


def make(text: Emitted, real: torch.dtype) -> Record:
    """The library of a text, and those of the routines that it calls."""
    extra = ("-DDOUBLE",) if real == torch.float64 else ()
    library, *routines = installed().make(text.text, *routines_of(text.text), extra=extra)
    return Record(library.name, tuple(path.name for path in routines), text.arena, text.apart)


def routines_of(text: str) -> list[str]:
    """The texts of the routines that a text calls, and of those that these call."""
    found: dict[str, None] = {}
    called = set(ROUTINE.findall(text))
    while more := {file: source for file, source in _routines().items() if called & file and source not in found}:
        for source in more.values():
            found[source] = None
            called |= set(ROUTINE.findall(source))
    return list(found)


@cache
def _routines() -> dict[frozenset[str], str]:
    """The texts of all routines by their names."""
    sources = [file.read_text(encoding="utf-8") for file in sorted(HERE.glob("*.c"))]
    return {frozenset(DEFINED.findall(source)): source for source in sources}


def load(record: Record, program: Program, types: Types) -> Run:
    """The program as its library runs it. OSError for a library that this machine does not take."""
    with _LOCK:
        for name in reversed(record.routines):  # known to the libraries that are loaded after them
            if name not in _ROUTINES:
                _ROUTINES[name] = ctypes.CDLL(str(record.beside(name)), mode=ctypes.RTLD_GLOBAL)
    function = ctypes.CDLL(str(record.beside(record.library))).run
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    shapes = [v.shape for v in program.outputs]
    addresses = ctypes.c_void_p * (len(types.inputs) + len(shapes))

    made = list(zip(shapes, types.outputs, strict=True))
    needed, each = record.arena, record.apart

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        held = [
            x if x.dtype is dtype and x.is_contiguous() and not x.is_neg() and not x.is_conj() else _plain(x, dtype)
            for x, dtype in zip(inputs, types.inputs, strict=True)
        ]
        out = [pages.empty(shape, dtype) for shape, dtype in made]
        threads = 1 if FORKED else torch.get_num_threads()
        arena = ARENAS.of(needed + threads * each)
        function(addresses(*[x.data_ptr() for x in (*held, *out)]), arena.data_ptr(), threads)
        return out

    return run


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x as numbers of this dtype side by side."""
    return x.to(dtype).contiguous().resolve_conj().resolve_neg()


class Arenas(threading.local):
    """One arena a thread, kept between calls, as fresh memory costs a visit to each of its pages."""

    def __init__(self) -> None:
        self._kept = torch.empty(0, dtype=torch.uint8)

    def of(self, size: int) -> Tensor:
        if size > KEPT:
            return pages.empty((size + 64,), torch.uint8)
        if self._kept.numel() < size:
            self._kept = pages.empty((size + 64,), torch.uint8)
        return self._kept


ARENAS = Arenas()
FORKED: list[int] = []
"""not empty in a process that was forked, where the threads of OpenMP are gone and cannot be started again"""
_ROUTINES: dict[str, ctypes.CDLL] = {}
_LOCK = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: FORKED.append(os.getpid()))
