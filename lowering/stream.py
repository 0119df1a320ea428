"""A stream: what a program takes over from the steps before it, and what it hands on to the steps after it.

Every state either has a fixed shape or grows along one axis: then it holds the latest columns, the newest last, and
room for columns that never were is filled with `start`. The state `time` counts the steps so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NoReturn

from lowering.build import Builder
from lowering.program import Shape, Value
from mixer_ir.errors import StreamError
from mixer_ir.nodes.expr import TIME, Axes, Number
from mixer_ir.nodes.functions import Kind


@dataclass(frozen=True, slots=True)
class StateType:
    """A state's axes, their sizes, the kind of its numbers, and the number that fills it before the first step.

    grows   the axis along which it holds the latest columns of all, or None where its shape is fixed
    """

    axes: Axes
    shape: Shape
    kind: Kind = "real"
    start: Number = 0
    grows: str | None = None


@dataclass(slots=True)
class Stream:
    """The states of one program.

    initial   the program takes states    final   it leaves them
    past      how many columns the growing states that it takes hold
    room      how many those that it leaves hold; by default all, past and new
    """

    b: Builder
    initial: bool = False
    final: bool = False
    past: int = 0
    room: int | None = None
    entering: dict[str, StateType] = field(default_factory=dict)
    leaving: dict[str, StateType] = field(default_factory=dict)
    taken: dict[str, Value] = field(default_factory=dict)
    left: dict[str, Value] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.initial or self.final

    def refuse(self, what: str) -> None:
        """Raise if states are taken or left: `what` says which node needs steps that are still to come."""
        if self.active:
            _refuse(what)

    def unique(self, name: str) -> str:
        """`name`, numbered if a state is called so already."""
        return self.name(name) if name in self.entering.keys() | self.leaving.keys() else name

    def name(self, stem: str) -> str:
        """`stem` with the first number that no state has yet."""
        names, i = self.entering.keys() | self.leaving.keys(), 0
        while (name := f"{stem}_{i}") in names:
            i += 1
        return name

    def take(self, name: str, like: StateType) -> Value | None:
        """The state as it comes in; None at the beginning."""
        if not self.initial:
            return None
        if name not in self.taken:
            self.entering[name] = like
            self.taken[name] = self.b.input(f"state:{name}", like.axes, like.shape, like.kind)
        return self.taken[name]

    def leave(self, name: str, value: Value, like: StateType) -> None:
        """Hand the state on."""
        if self.final:
            self.leaving[name] = replace(like, shape=tuple(value.size(a) for a in like.axes))
            self.left[name] = self.b.order(self.b.cast(value, like.kind), like.axes)

    def time(self, length: int) -> Value:
        """The position of the first step computed here."""
        like = StateType(axes=(), shape=(), kind="int")
        now = self.take("time", like)
        start = self.b.const(0) if now is None else now
        if "time" not in self.leaving:
            self.leave("time", self.b.add(start, length), like)
        return start

    def latest(self, name: str, value: Value, span: int | None, start: Number = 0) -> Value:
        """`value` over the columns before and the steps computed here, along t.

        span   how many columns before matter; None: all, in a state that grows
        """
        b = self.b
        if not self.active:
            return value
        held = self.past if span is None else span
        axes = (*sorted(a for a in value.axes if a != TIME), TIME)  # the same layout in every program
        shape = tuple(held if a == TIME else value.size(a) for a in axes)
        like = StateType(axes, shape, value.kind, start, TIME if span is None else None)
        before = self.take(name, like)
        whole = value if before is None else b.concat((before, value), TIME)
        keep = whole.size(TIME) if span is None and self.room is None else (self.room if span is None else span)
        self.leave(name, newest(b, whole, keep or 0, start), like)
        return whole

    def before(self, span: int | None) -> int:
        """How many columns `latest` puts before the steps computed here."""
        if not self.initial:
            return 0
        return self.past if span is None else span


def _refuse(what: str) -> NoReturn:
    raise StreamError(
        f"this mixer cannot be streamed: {what}; call it on the whole sequence, without initial or final state"
    )


def newest(b: Builder, x: Value, n: int, start: Number) -> Value:
    """The last n entries of x along t, with `start` in front where there are fewer."""
    missing = max(n - x.size(TIME), 0)
    x = b.pad(x, TIME, missing, 0, start)
    return b.slice(x, TIME, x.size(TIME) - n, x.size(TIME))
