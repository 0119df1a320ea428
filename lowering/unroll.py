"""A recurrence step by step: the traced update as the body of a scan, whatever the update is.

What does not read a state is computed before, for all steps at once. Where the states of all steps may not be kept for
a backward pass, a sequence is a scan of scans, √T steps each: √T states are kept and the others computed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowering.build import Builder
from lowering.context import Context
from lowering.program import Value
from lowering.stream import StateType, Stream
from lowering.stretch import of_steps
from mixer_ir.errors import DeclarationError
from mixer_ir.nodes import expr as x
from mixer_ir.nodes.expr import BATCH, TIME, Axes, Expr, without
from mixer_ir.nodes.functions import Kind
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Recurrence, Run, State

OUTER = "_o"


def run(ctx: Context, e: Run) -> Value:
    """The output of the recurrence at every t."""
    b, stream, r = ctx.b, ctx.stream, e.recurrence
    loop = _Loop.of(ctx, r)
    names = [ctx.state_names.setdefault(s, stream.unique(s.name)) if stream.active else s.name for s in r.states]
    likes = loop.types()
    carries = []
    for name, like in zip(names, likes, strict=True):
        sizes = dict(zip(like.axes, like.shape, strict=True))
        before = stream.take(name, like)
        zero = b.full(0.0 if like.kind == "real" else 0j, sizes)
        carries.append(zero if before is None else before)
    choice = ctx.forms.get(e)
    carries, y = loop.lower(b, carries, ctx.length, None if choice is None else choice.held)
    for name, like, after in zip(names, likes, carries, strict=True):
        stream.leave(name, after, like)
    return y


@dataclass(frozen=True)
class _Loop:
    """The update of a recurrence and the values of all that it reads but its states."""

    ctx: Context
    recurrence: Recurrence
    steps: dict[Expr, Value]
    constants: dict[Expr, Value]

    @classmethod
    def of(cls, ctx: Context, r: Recurrence) -> _Loop:
        steps: dict[Expr, Value] = {}
        constants: dict[Expr, Value] = {}
        for part in _outside((*r.updates, r.output)):
            value = ctx.of(part)
            (steps if TIME in value.axes else constants)[part] = value
        if r.reset is not None:
            steps[r.reset] = ctx.filled(ctx.of(r.reset), (TIME,))
        return cls(ctx, r, steps, constants)

    def axes(self, state: State) -> Axes:
        batch = without(self.recurrence.batch, (TIME, *state.axes))
        return (*((BATCH,) if BATCH in batch else ()), *without(batch, (BATCH,)), *state.axes)

    def types(self) -> list[StateType]:
        """The states: complex if any update is."""
        kinds: list[Kind] = ["real"] * len(self.recurrence.states)
        for _ in kinds:  # a state may turn complex by another that does
            b = Builder()
            states = [b.input(s.name, self.axes(s), self._shape(s), k) for s, k in self._zip(kinds)]
            new, _out = self.update(b, states, self._inputs(b, self.steps), self._inputs(b, self.constants))
            kinds = ["complex" if "complex" in (v.kind, k) else "real" for v, k in zip(new, kinds, strict=True)]
        return [StateType(self.axes(s), self._shape(s), k) for s, k in self._zip(kinds)]

    def _zip(self, kinds: Sequence[Kind]) -> list[tuple[State, Kind]]:
        return list(zip(self.recurrence.states, kinds, strict=True))

    def _shape(self, state: State) -> tuple[int, ...]:
        return tuple(self.ctx.size(a, f"the state {state.name}") for a in self.axes(state))

    def _inputs(self, b: Builder, values: dict[Expr, Value]) -> list[Value]:
        made = []
        for i, v in enumerate(values.values()):
            sizes = {a: n for a, n in v.sizes.items() if a != TIME}
            made.append(b.input(f"{i}", tuple(sizes), tuple(sizes.values()), v.kind))
        return made

    def update(
        self, b: Builder, states: Sequence[Value], steps: Sequence[Value], constants: Sequence[Value]
    ) -> tuple[list[Value], list[Value]]:
        """One step: the new states, and the output."""
        r = self.recurrence
        memo = {**dict(zip(self.steps, steps, strict=True)), **dict(zip(self.constants, constants, strict=True))}
        if r.reset is not None:
            states = [b.where(memo[r.reset], b.cast(b.const(0.0), s.kind), s) for s in states]
        inner = Context(
            rule=self.ctx.rule,
            b=b,
            signals={},
            sizes=self.ctx.sizes,
            forms={},
            stream=Stream(b),
            states=dict(zip(r.states, states, strict=True)),
            memo=memo,
        )
        return [inner.of(u) for u in r.updates], [inner.of(r.output)]

    def lower(self, b: Builder, carries: Sequence[Value], length: int, held: int | None) -> tuple[list[Value], Value]:
        """The scan over all steps: pieces of as many as may be held, then the rest."""
        short = of_steps(length, sum(math.prod(x.shape) for x in carries), held)
        whole = length - length % short
        steps, constants = list(self.steps.values()), list(self.constants.values())
        if whole == short:
            last, (y,) = b.scan(TIME, self.update, carries, steps, constants, length=length)
            return last, y

        def piece(
            inner: Builder, states: Sequence[Value], inside: Sequence[Value], fixed: Sequence[Value]
        ) -> tuple[list[Value], list[Value]]:
            return inner.scan(TIME, self.update, states, inside, fixed, length=short)

        cut = [b.split(b.slice(v, TIME, 0, whole), TIME, OUTER, TIME, short) for v in steps]
        last, (y,) = b.scan(OUTER, piece, carries, cut, constants, length=whole // short)
        y = b.merge(y, OUTER, TIME, TIME)
        if whole < length:
            rest = [b.slice(v, TIME, whole, length) for v in steps]
            last, (tail,) = b.scan(TIME, self.update, last, rest, constants, length=length - whole)
            y = b.concat((y, tail), TIME)
        return last, y


def _outside(roots: Sequence[Expr]) -> list[Expr]:
    """The largest parts that read no state, but numbers."""
    reads: set[Node] = set()
    for n in (n for root in roots for n in walk(root, closed=(Run,))):
        if isinstance(n, State) or (not isinstance(n, Run) and not reads.isdisjoint(n.children())):
            reads.add(n)
    found: dict[Expr, None] = {}
    seen: set[Expr] = set()
    due = list(reversed(roots))
    while due:
        e = due.pop()
        if e in seen:
            continue
        seen.add(e)
        if e not in reads:
            if not isinstance(e, x.Literal):
                found[e] = None
            continue
        if not isinstance(e, State | x.Call | x.Contract | x.Reduce | x.Rename | x.Take | x.Detach):
            raise DeclarationError(f"a recurrence's update cannot use {type(e).__name__} of a state")
        due.extend(c for c in reversed(list(e.children())) if isinstance(c, Expr))
    return list(found)
