"""Lowering: an expression at concrete sizes, with a form for each of its pieces, as an array program."""

from __future__ import annotations

from collections.abc import Mapping

from lowering.build import Builder, program
from lowering.context import Choice, Context, Lowered, SignalType, reads_of, sizes_of
from lowering.entries import entries
from lowering.expressions import evaluate
from lowering.grid import Grid
from lowering.halves import halved
from lowering.program import Input, Value
from lowering.stream import Stream
from lowering.support import has_source
from mixer_ir.errors import SignalError, one_of
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Expr, Signal
from mixer_ir.nodes.matrix import Matrix
from mixer_ir.nodes.node import Node, walk

NO_FORMS: Mapping[Node, Choice] = {}


def lower(
    expr: Expr,
    *,
    returns: Axes,
    signals: Mapping[str, SignalType],
    forms: Mapping[Node, Choice] = NO_FORMS,
    initial: bool = False,
    final: bool = False,
    past: int = 0,
    room: int | None = None,
) -> Lowered:
    """A program with the result `y` (axes `returns`) from the signals that `expr` reads.

    forms     the form of each piece: of a Process, and of an Apply that stands by itself
    initial   the program takes the states `state:<name>`; what they are is in `entering`
    final     it leaves them too: `states`
    past      how many columns those states hold that grow with the sequence (the newest last; columns that never were
              are filled with the state's `start`)
    room      how many they hold afterwards; by default past + new. At least as many as there are steps in all

    A decoding step is T = 1 with both. StreamError, naming the node, if states are asked of what is not causal.
    """
    ctx = _context(expr, signals, forms)
    ctx.stream.initial, ctx.stream.final, ctx.stream.past, ctx.stream.room = (
        initial,
        final,
        past if initial else 0,
        room,
    )
    b = ctx.b
    y = b.expand(ctx.of(expr), {a: ctx.size(a, "the result") for a in returns})
    outputs = {"y": b.order(y, returns)}
    outputs.update({f"state:{name}": value for name, value in ctx.stream.left.items()})
    taken = list(ctx.stream.taken.values())
    made = halved(program(outputs, [*_used(ctx), *taken]))
    return Lowered(made, dict(ctx.stream.entering), dict(ctx.stream.leaving))


def lower_matrix(matrix: Matrix, *, signals: Mapping[str, SignalType]) -> Lowered:
    """A program with the result `M`: the entries, with the matrix' axes, then t and s."""
    ctx = _context(matrix, signals, NO_FORMS)
    on = Grid.of(ctx, cross=has_source(matrix), reach=None)
    sizes = {a: ctx.size(a, "the matrix") for a in matrix.axes}
    value = ctx.b.expand(on.full(entries(matrix, on)), sizes)
    result = ctx.b.order(value, (*matrix.axes, TIME, SOURCE))
    return Lowered(program({"M": result}, _used(ctx)), {}, {})


def _context(root: Node, signals: Mapping[str, SignalType], forms: Mapping[Node, Choice]) -> Context:
    b = Builder()
    used = {n.name for n in walk(root) if isinstance(n, Signal)}
    if missing := [name for name in sorted(used) if name not in signals]:
        raise SignalError(f"the signal {one_of(missing)} is not given; given: {one_of(list(signals))}")
    values = {name: b.input(name, s.axes, s.shape, s.kind) for name, s in signals.items() if name in used}
    return Context(
        rule=evaluate,
        b=b,
        signals=values,
        sizes=sizes_of(root, signals),
        forms=forms,
        stream=Stream(b),
        reads=reads_of(root),
    )


def _used(ctx: Context) -> list[Value]:
    return [v for v in ctx.signals.values() if isinstance(v.op, Input)]
