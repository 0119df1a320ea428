"""The steps that run a program: what a plan is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

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


@dataclass
class Learnt:
    """What earlier plans of a program have shown, by values of the plan's own program.

    limits    registers of a thread for the kernels that store some values
    short     values whose kernels may sum in the shortest blocks
    single    values whose kernels store nothing else
    alone     values whose kernels are not put side by side with others
    stored    whether states are in memory, and read by kernels of their own, not by the loops that carry them
    sharing   whether products are in memory that half of `OFTEN` programs of narrow tiles would compute again
    halved    how often sums that take half of the products of what one kernel stores are put in memory
    most      products with which a kernel of the narrowest tiles spilled: kernels are not joined to take as many
    written   kernels, or why there are none, by what they store, their setting and the arrays that they read
    """

    limits: dict[Value, int] = field(default_factory=dict)
    short: set[Value] = field(default_factory=set)
    single: set[Value] = field(default_factory=set)
    alone: set[Value] = field(default_factory=set)
    stored: bool = False
    sharing: bool = False
    halved: Counter[frozenset[Value]] = field(default_factory=Counter)
    most: int = 1 << 30
    written: dict[tuple[Any, ...], Kernel | Exception] = field(default_factory=dict, compare=False)

    def copy(self) -> Learnt:
        return replace(
            self,
            limits=dict(self.limits),
            short=set(self.short),
            single=set(self.single),
            alone=set(self.alone),
            halved=self.halved.copy(),
        )


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


def made_with(steps: Iterable[Step]) -> dict[Value, set[Value]]:
    """What kernels that store several values of one grid store, by each of them: they compute one of another's tile."""
    kernels = (part for s in steps if isinstance(s, Launch) for part in s.kernel.parts or (s.kernel,))
    stored = ({b.value for b in k.writes if b.of is None} for k in kernels)
    return {v: own - {v} for own in stored for v in own}
