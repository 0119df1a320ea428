"""What the machine could do at best: its measured copy bandwidth and matmul rate, and how long work takes at those.

    time at the limit = max(bytes / copy bandwidth, operations / matmul rate)

bytes        every signal read and every result written once, however often a program comes back to them. Forward and
             backward: the signals are read in both, the output and its cotangent once each, every gradient written once
operations   multiplications and additions of the products and triangular solves in the program that runs; functions
             and other entry-wise work count nothing, so a scan that is bound by its exponentials stays below 1
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

import mixer_ir as mx
from lowering import program as p
from lowering.adjoint import adjoint
from lowering.lower import lower
from lowering.planner import plan
from lowering.profile import NATIVE
from lowering.program import Program, Value
from mixer_ir.driver.binding import bind
from mixer_ir.driver.compiled import types_of
from mixer_ir.driver.streaming import StreamState
from mixer_ir.driver.timing import timed


@dataclass(frozen=True)
class Rates:
    """Bytes a second (read and written, both counted) and float32 operations a second, with all threads."""

    copy: float
    matmul: float


@dataclass(frozen=True)
class Work:
    """What a run cannot do without."""

    bytes: float
    operations: float

    def limit(self, rates: Rates) -> tuple[float, str]:
        """(seconds at the limit, what bounds them)."""
        times = {"copy": self.bytes / rates.copy, "matmul": self.operations / rates.matmul}
        bound = max(times, key=times.__getitem__)
        return times[bound], bound


def measured(rounds: int = 9, entries: int = 1 << 26, side: int = 2048) -> Rates:
    """The rates of this machine: copying 256 MiB, multiplying matrices of 2048 × 2048. Medians."""
    source, target = torch.ones(entries), torch.empty(entries)
    x, y, z = torch.randn(side, side), torch.randn(side, side), torch.empty(side, side)
    target.copy_(source)
    torch.mm(x, y, out=z)
    copies, products = [], []
    for _ in range(rounds):
        copies.append(timed(lambda: target.copy_(source))[0])
        products.append(timed(lambda: torch.mm(x, y, out=z))[0])
    return Rates(2 * 4 * entries / statistics.median(copies), 2.0 * side**3 / statistics.median(products))


def best(rates: Sequence[Rates]) -> Rates:
    """The highest rates of several measurements: of a machine that others disturb, what it can do."""
    return Rates(max(r.copy for r in rates), max(r.matmul for r in rates))


def work(mixer: mx.Mixer, signals: Mapping[str, Tensor], trained: Sequence[str] = ()) -> Work:
    """The work of a forward pass; with `trained` signals, of forward and backward."""
    program = planned(mixer, signals)
    moved = sum(size(x) for x in signals.values()) + 4.0 * prod(program.outputs[0].shape)
    if not trained:
        return Work(moved, operations(program))
    found = sum(size(signals[n]) for n in trained)
    return Work(2 * moved + found, operations(program) + operations(adjoint(program, tuple(trained))))


def step_work(state: StreamState, now: Mapping[str, Tensor], output: Tensor) -> Work:
    """The work of a step, which is bytes: the state read, and written unless it grows by a column."""
    kept = sum(size(x) for x in state.values())
    moved = sum(size(x) for x in now.values()) + size(output)
    return Work(moved + (kept if state.columns else 2 * kept), 0.0)


def planned(mixer: mx.Mixer, signals: Mapping[str, Tensor]) -> Program:
    """The program of a forward pass in the form that the planner takes for compiled C."""
    bound = bind(mixer.name, mixer.signals, signals)
    types = types_of(bound, mixer.signals)
    forms = plan(mixer.expr, types, NATIVE).choices
    return lower(mixer.expr, returns=mixer.returns, signals=types, forms=forms, initial=False, final=False).program


def size(x: Tensor) -> float:
    """Bytes."""
    return float(x.numel() * x.element_size())


def operations(program: Program) -> float:
    """Multiplications and additions in the products and solves of a program; loops count as often as they turn."""
    return sum(_operations(value) for value in program.order)


def _operations(value: Value) -> float:
    wide = 4.0 if value.kind == "complex" else 1.0
    match value.op:
        case p.Contract(over=over):
            return 2.0 * wide * prod(value.shape) * prod(value.args[0].size(a) for a in over)
        case p.Solve(row=row):
            return wide * prod(value.shape) * value.size(row)
        case p.Scan(body=body, length=length):
            return length * operations(body)
        case p.Region(body=body):
            return operations(body)
    return 0.0
