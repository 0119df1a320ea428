"""The steps that run a program: what a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from backends.triton.evaluate import Buffer
from backends.triton.kernel import Kernel
from lowering.program import Program, Value


@dataclass(frozen=True)
class Launch:
    """One kernel."""

    kernel: Kernel


@dataclass(frozen=True)
class Call:
    """A library's operation: a Fourier transform, or a triangular system larger than a tile."""

    buffer: Buffer


@dataclass(frozen=True)
class Repeat:
    """A loop whose body takes kernels of its own, or does not fit into one: run from outside, step by step."""

    scan: Value
    body: Plan
    results: tuple[Buffer, ...]


Step: TypeAlias = Launch | Call | Repeat


@dataclass(frozen=True)
class Plan:
    """The steps in order; `inputs` and `outputs` are the buffers of the program's own (an output may be an input)."""

    program: Program
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    steps: tuple[Step, ...]

    def kernels(self) -> list[Kernel]:
        """All kernels, those of loops' bodies included."""
        found: list[Kernel] = []
        for s in self.steps:
            found += [s.kernel] if isinstance(s, Launch) else s.body.kernels() if isinstance(s, Repeat) else []
        return found


def reads(step: Step) -> tuple[Value, ...]:
    match step:
        case Launch(kernel=kernel):
            return tuple(b.value for b in kernel.reads)
        case Call(buffer=buffer):
            return buffer.value.args
        case Repeat(scan=scan):
            return scan.args


def writes(step: Step) -> tuple[Buffer, ...]:
    match step:
        case Launch(kernel=kernel):
            return kernel.writes
        case Call(buffer=buffer):
            return (buffer,)
        case Repeat(results=results):
            return results
