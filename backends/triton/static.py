"""Kernels compiled ahead of time for a device that need not be here, with what the compiled code tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from typing import Any, TypeAlias

import torch

from backends.triton.compilers import LIMIT, figures
from backends.triton.devices import DEVICES, seconds
from backends.triton.evaluate import Buffer
from backends.triton.kernel import Kernel
from backends.triton.known import installed, sound
from backends.triton.launch import Ready, factors, readied
from backends.triton.levels import levels
from backends.triton.real import real
from backends.triton.settle import launched, task
from backends.triton.steps import Call
from backends.triton.work import Work, work
from lowering import program as p
from lowering.program import Program
from mixer_ir.errors import BackendError

BEST = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "MFMA"}
"""target -> its fastest instruction for products"""
HEAD = [
    "kernel",
    "programs",
    "warps",
    "registers",
    "spilled B",
    "stack B",
    "shared KB",
    "tensor cores",
    "occupancy",
    "MB",
    "µs",
]


@dataclass(frozen=True)
class Compiled:
    """One kernel on one device.

    times              how often a call launches it (more than once in a loop from outside)
    registers, stack   of a thread (bytes of stack: what was spilled)     shared   bytes of a block
    spills             bytes written to and read from the stack, each instruction counted once
    tensor             instructions of tensor cores, by name              occupancy   of a multiprocessor's warps
    work               of all programs       moved   bytes of the arrays that it is passed, each once
    seconds            of one launch, predicted
    """

    kernel: Kernel
    target: str
    times: int
    registers: int | None
    stack: int | None
    spills: int | None
    shared: int
    tensor: Mapping[str, int]
    occupancy: float
    work: Work
    moved: int
    seconds: float

    def row(self) -> list[str]:
        """The cells of a table."""
        return [
            self.kernel.name + (f" × {self.times}" if self.times > 1 else ""),
            str(self.kernel.programs),
            str(self.kernel.warps),
            _shown(self.registers),
            _shown(self.spills),
            _shown(self.stack),
            f"{self.shared / 1024:.1f}",
            " ".join(f"{n} {name}" for name, n in self.tensor.items()) or "-",
            f"{self.occupancy:.0%}",
            f"{self.moved / 1e6:.1f}",
            f"{self.seconds * 1e6:.0f}" + ("" if self.work.known else "+"),
        ]

    @property
    def comment(self) -> str:
        """The figures above the kernel's text."""
        k, w = self.kernel, self.work
        flops = " ".join(f"{n / 1e9:.3g} Gflop {how}" for how, n in w.products.items()) or "no products"
        tensor = " ".join(f"{n} {i}" for i, n in self.tensor.items()) or "no tensor cores"
        return (
            f"# {k.name}: {k.programs} programs of {k.warps} warps; {_shown(self.registers)} registers, "
            f"{_shown(self.spills)} B spilled, {self.shared / 1024:.1f} KB shared, {tensor}, "
            f"occupancy {self.occupancy:.0%}\n"
            f"# all programs: {_size(w.loaded)} loaded, {_size(w.stored)} stored, {flops}, {w.special / 1e6:.3g} M "
            f"exponentials and the like; predicted {self.seconds * 1e6:.0f} µs a launch\n"
        )


def _size(n: float) -> str:
    return f"{n / 1e6:.3g} MB"


def _shown(x: int | None) -> str:
    return "-" if x is None else str(x)


@dataclass(frozen=True)
class Kernels:
    """The kernels of a program, forward and backward: `str` gives their text and a table.

    calls   operations of a library, forward and backward, as often as they run
    """

    title: str
    target: str
    forward: tuple[Compiled, ...]
    backward: tuple[Compiled, ...]
    failed: tuple[str, ...] = ()
    calls: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def source(self) -> str:
        """All kernels' text."""
        return "\n\n".join(text for _, text in self._shown())

    def _shown(self) -> Iterator[tuple[Compiled, str]]:
        """Each kernel with its text, headed by the equation, the form and the pass."""
        lines = self.title.splitlines()
        about = [*lines[:1], *(x for x in lines[1:] if x and not x.startswith(" " * 4)), ""]
        for name, made in (("forward", self.forward), ("backward", self.backward)):
            for c in made:
                yield c, c.kernel.shown("\n".join([*about[:-2], f"{about[-2]}; {name} pass"]))

    @property
    def table(self) -> str:
        """A line for each kernel, and what all launches should take."""
        rows = [["pass", *HEAD], *(["forward", *c.row()] for c in self.forward)]
        rows += [["backward", *c.row()] for c in self.backward]
        wide = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(x.ljust(n) for x, n in zip(r, wide, strict=True)).rstrip() for r in rows]
        return "\n".join([*lines, *self.totals()])

    def totals(self) -> list[str]:
        """A sentence for each pass."""
        made = []
        for name, kernels, calls in zip(
            ("forward", "backward"), (self.forward, self.backward), self.calls, strict=True
        ):
            if kernels or calls:
                launches, time = sum(c.times for c in kernels), sum(c.times * c.seconds for c in kernels)
                also = f" and {len(calls)} calls of a library ({', '.join(dict.fromkeys(calls))})" if calls else ""
                made.append(
                    f"{name}: {launches} launches{also}, {time * 1e6:.0f} µs of kernels predicted on {self.device}"
                )
        return made

    @property
    def device(self) -> str:
        return f"{DEVICES[self.target].name} ({self.target})"

    def __str__(self) -> str:
        head = "\n".join(f"# {line}".rstrip() for line in self.title.splitlines())
        text = "\n\n".join(c.comment + source for c, source in self._shown())
        table = "\n".join(f"# {line}" for line in self.table.splitlines())
        return f"{head}\n#\n{table}\n\n{text}"


# ---------------------------------------------------------------------------------------------------- compiling

Steps: TypeAlias = list[tuple[Kernel | Call, int, dict[Buffer, torch.dtype]]]


def _compiled(
    kernel: Kernel, times: int, target: str, of: Mapping[Buffer, torch.dtype], found: Mapping[str, Any]
) -> Compiled:
    device = DEVICES[target]
    held = device.resident(found["registers"], found["shared"], kernel.warps)
    counted = work(found["ttir"], kernel.programs)
    moved = sum(prod(b.value.shape) * dtype.itemsize for b, dtype in of.items())
    own = not found["tensor"] or BEST[target] in found["tensor"]
    return Compiled(
        kernel,
        target,
        times,
        found["registers"],
        found["stack"],
        found["spills"],
        found["shared"],
        found["tensor"],
        held * kernel.warps / device.warps,
        counted,
        moved,
        seconds(device, counted, moved, held, kernel.warps, own),
    )


class Planned:
    """A program and its adjoint, to be cut into kernels and compiled for devices as they would be launched there.

    signals   the dtype of the real numbers that a program is given
    """

    def __init__(self, forward: Program, backward: Program | None, signals: torch.dtype = torch.bfloat16) -> None:
        if find_spec("triton") is None:
            raise BackendError("kernels are compiled by the package triton, which is not installed: pip install triton")
        self.programs = [x for x in (forward, backward) if x is not None]
        self.signals = signals
        self.known: dict[str, list[Steps]] = {}

    def dtype(self, kind: str) -> torch.dtype:
        return {"real": self.signals, "complex": torch.complex64, "int": torch.int64, "bool": torch.bool}[kind]

    def passes(self, target: str, limit: float = LIMIT) -> list[Steps]:
        """For each program: what it launches or calls, how often, and the dtypes of a kernel's arrays."""
        if target not in self.known:
            self.known[target] = [*self._passes(target, limit)]
        return self.known[target]

    def _passes(self, target: str, limit: float) -> Iterator[Steps]:
        for x in self.programs:
            dtypes = tuple(self.dtype(v.kind) for v in x.inputs)
            how = factors(x, dtypes, torch.float32)
            ready = readied(x, real(levels(x)), dtypes, torch.float32, how, target, limit=limit)
            steps = [(_sound(step, target), n) for step, n in launched(ready.plan)]
            yield [(step, n, _dtypes(step, ready)) for step, n in steps]

    def tasks(self, target: str, limit: float = LIMIT) -> list[dict[str, Any]]:
        """The kernels of both passes, in order."""
        return [
            task(step, target, of) for x in self.passes(target, limit) for step, _, of in x if isinstance(step, Kernel)
        ]

    def least(self) -> list[int]:
        """Bytes that the kernels of each program have to be passed: its inputs and results, once."""
        ends = [(*x.inputs, *x.outputs) for x in self.programs]
        return [sum(prod(v.shape) * self.dtype(v.kind).itemsize for v in values) for values in ends]

    def compiled(self, title: str, target: str, *, strict: bool = True, limit: float = LIMIT) -> Kernels:
        """The kernels on a device; without `strict`, those that fail are named.

        limit   seconds that one kernel may be compiled for
        """
        passes = self.passes(target, limit)
        found = iter(
            figures([task(k, target, of) for x in passes for k, _, of in x if isinstance(k, Kernel)], limit=limit)
        )
        made: list[list[Compiled]] = []
        failed = []
        for x in passes:
            made.append([])
            for kernel, times, of in x:
                if not isinstance(kernel, Kernel):
                    continue
                if "error" in (told := next(found)):
                    failed.append(f"Triton does not compile {kernel.name} for {target}: {told['error']}")
                else:
                    made[-1].append(_compiled(kernel, times, target, of, told))
        if failed and strict:
            raise BackendError(failed[0])
        calls = [tuple(_calls(x)) for x in passes] + [()]
        return Kernels(title, target, tuple(made[0]), tuple((*made, [])[1]), tuple(failed), (calls[0], calls[1]))


def _sound(step: Kernel | Call, target: str) -> Kernel | Call:
    """A kernel as it is launched, with as many warps as nothing is known against."""
    return sound(step, target, installed()) if isinstance(step, Kernel) else step


def _dtypes(step: Kernel | Call, ready: Ready) -> dict[Buffer, torch.dtype]:
    return {} if isinstance(step, Call) else {b: ready.type(b) for b in (*step.reads, *step.writes)}


def _calls(steps: Steps) -> Iterator[str]:
    for step, n, _ in steps:
        if isinstance(step, Call):
            op = step.buffer.value.op
            yield from [op.which if isinstance(op, p.Transform) else type(op).__name__.lower()] * n
