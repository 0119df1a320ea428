"""What a lowering carries with it: the builder, the signals' values, the sizes, the chosen forms, and the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lowering.build import Builder
from lowering.program import Program, Shape, Value
from lowering.stream import StateType, Stream
from mixer_ir.errors import AxisError
from mixer_ir.nodes.expr import (
    SOURCE,
    TIME,
    Axes,
    Call,
    Contract,
    Cumulate,
    Delay,
    Detach,
    Expr,
    Join,
    Reduce,
    Rename,
    Reverse,
    Signal,
    Take,
)
from mixer_ir.nodes.functions import Kind
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Process, Read, State

BY_PARTS = (Call, Contract, Reduce, Cumulate, Delay, Reverse, Rename, Take, Join, Detach)
"""what has its value from those of its parts, all at the steps computed here"""


@dataclass(frozen=True, slots=True)
class SignalType:
    """A signal's axes, their sizes, and the kind of its numbers."""

    axes: Axes
    shape: Shape
    kind: Kind = "real"


@dataclass(frozen=True, slots=True)
class Choice:
    """The form of one piece: its name, and the length of a chunk (or key block) where the form has one.

    held    entries of one array that are held at once (chunked, scan), or of the states that are kept for the way back
            (recurrent); None: what stays in a CPU's cache, and the states of √T steps
    groups  of rows, each over the keys alone that its masks can leave (flash); None: a few; 0: loops leave it out
    filled  the last chunk is filled up with steps that write nothing (chunked), else it may be shorter
    """

    form: str
    chunk: int | None = None
    held: int | None = None
    groups: int | None = None
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Lowered:
    """A program with the states that it takes (`state:<name>` among its inputs) and leaves (among its outputs)."""

    program: Program
    entering: Mapping[str, StateType]
    states: Mapping[str, StateType]


@dataclass(slots=True)
class Context:
    """One lowering under way.

    rule     gives the value of an expression in a context (lowering/expressions.py)
    memo     the value of every expression met so far
    columns  of every expression whose earlier values matter, the value over these and the steps computed here
    """

    rule: Callable[[Context, Expr], Value]
    b: Builder
    signals: Mapping[str, Value]
    sizes: Mapping[str, int]
    forms: Mapping[Node, Choice]
    stream: Stream
    reads: Mapping[Process, tuple[Read, ...]] = field(default_factory=dict)
    states: Mapping[State, Value] = field(default_factory=dict)
    state_names: dict[Node, str] = field(default_factory=dict)
    memo: dict[Expr, Value] = field(default_factory=dict)
    columns: dict[tuple[Expr, int | None], Value] = field(default_factory=dict)

    def of(self, e: Expr) -> Value:
        """The value of an expression at the steps computed here; what it is made of first, however deep that is."""
        due: list[Expr] = [] if e in self.memo else [e]
        while due:
            here = due[-1]
            parts = here.children() if isinstance(here, BY_PARTS) else ()
            if missing := [p for p in parts if isinstance(p, Expr) and p not in self.memo]:
                due.extend(reversed(missing))
                continue
            due.pop()
            if here not in self.memo:
                self.memo[here] = self.rule(self, here)
        return self.memo[e]

    def size(self, axis: str, where: str) -> int:
        """The size of an axis; an axis that no signal has cannot be sized."""
        if axis not in self.sizes:
            raise AxisError(
                f"{where} needs the size of axis {axis!r}, but no signal has it; known: {', '.join(self.sizes)}"
            )
        return self.sizes[axis]

    @property
    def length(self) -> int:
        """How many steps are computed."""
        return self.size(TIME, "a mixer")

    def filled(self, x: Value, axes: Axes) -> Value:
        """x repeated along those of `axes` that it lacks."""
        return self.b.expand(x, {a: self.size(a, "an expression") for a in axes if a not in x.axes})

    def backward(self) -> Context:
        """The same with every signal reversed in time."""
        self.stream.refuse("a matrix runs backward in time")
        flipped = {name: self.b.flip(self.b.flip(v, TIME), SOURCE) for name, v in self.signals.items()}
        return replace(self, signals=flipped, memo={}, columns={})

    def history(self, e: Expr, span: int | None) -> Value:
        """The value of `e` over the `span` steps before (None: all) and the steps computed here, along t."""
        key = (e, span)
        if key not in self.columns:
            value = self.of(e)
            if TIME in value.axes and self.stream.active:
                label = f"cache_{e.name}" if isinstance(e, Signal) else "cache"
                value = self.stream.latest(self.stream.name(label), value, span)
            self.columns[key] = value
        return self.columns[key]


def sizes_of(root: Node, signals: Mapping[str, SignalType]) -> dict[str, int]:
    """The size of every axis: those of the signals, then those that renaming and joining make."""
    sizes = {axis: n for s in signals.values() for axis, n in zip(s.axes, s.shape, strict=True)}
    for here in walk(root):
        if isinstance(here, Rename) and here.old in sizes:
            sizes.setdefault(here.new, sizes[here.old])
        if isinstance(here, Join):
            sizes.setdefault(here.axis, sum(sizes[a] if a else 1 for a in here.along))
    if TIME in sizes:
        sizes.setdefault(SOURCE, sizes[TIME])
    return sizes


def reads_of(root: Node) -> dict[Process, tuple[Read, ...]]:
    """All reads of each process, in the order of the expression."""
    found: dict[Process, tuple[Read, ...]] = {}
    for here in walk(root):
        if isinstance(here, Read):
            found[here.process] = (*found.get(here.process, ()), here)
    return found
