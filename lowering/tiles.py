"""A matrix cut free of the grid: the same entries from arrays over rows, over columns and over both alone.

Positions become arrays like any other, and what is masked by position becomes a mask. So any block of rows and columns
is computed from the matching blocks of the arrays, wherever it lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lowering import entries, support
from lowering.build import Builder, program
from lowering.context import Context
from lowering.grid import Grid, Span
from lowering.program import Program, Value
from lowering.stream import Stream
from mixer_ir.nodes import expr as x
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import SOURCE, TIME, Expr, Signal, call
from mixer_ir.nodes.matrix import Matrix


@dataclass(slots=True)
class Tiling:
    """`matrix` is over signals named as in `parts`: those with the axis t are cut by rows, those with s by columns."""

    on: Grid
    parts: dict[str, Value] = field(default_factory=dict)
    matrix: Matrix = field(init=False)

    @classmethod
    def of(cls, M: Matrix, on: Grid) -> Tiling:
        tiling = cls(on)
        tiling.matrix = tiling._matrix(M)
        if (there := tiling._there()) is not None:
            tiling.matrix = m.Mask(of=tiling.matrix, mask=there)
        return tiling

    def _part(self, value: Value) -> Signal:
        for name, known in self.parts.items():
            if known is value:
                return Signal(name=name, axes=value.axes)
        name = f"part{len(self.parts)}"
        self.parts[name] = value
        return Signal(name=name, axes=value.axes)

    def _lag(self) -> Expr:
        return call("sub", self._part(self.on.t()), self._part(self.on.s()))

    def _matrix(self, M: Matrix) -> Matrix:
        on = self.on
        match M:
            case m.LowRank(q=q, k=k, over=over):
                return m.LowRank(q=self._part(on.row(q)), k=self._part(on.col(k)), over=over)
            case m.Dense(m=e):
                return m.Dense(m=self._both(e))
            case m.Causal(of=of):
                return m.Mask(of=self._matrix(of), mask=call("le", self._part(on.s()), self._part(on.t())))
            case m.Band(of=of, before=before, after=after):
                made = self._matrix(of)
                if before is not None:
                    made = m.Mask(of=made, mask=call("lt", self._lag(), before))
                return made if after is None else m.Mask(of=made, mask=call("le", -after, self._lag()))
            case m.Mask(of=of, mask=e):
                return m.Mask(of=self._matrix(of), mask=self._both(e))
            case m.Scale(factor=factor, of=of):
                return m.Scale(factor=self._part(on.ctx.of(factor)), of=self._matrix(of))
            case m.Sum(terms=terms):
                return m.Sum(terms=tuple(map(self._matrix, terms)))
            case m.Entrywise(fn=fn, args=args):
                return m.Entrywise(fn=fn, args=tuple(map(self._matrix, args)))
        made = m.Dense(m=self._part(on.full(entries.entries(M, on))))
        kept = support.left(M, on)
        return made if kept is None else m.Mask(of=made, mask=self._part(kept))

    def _both(self, e: Expr) -> Expr:
        """An expression over t and s from parts over one of them, where it is such."""
        on = self.on
        if SOURCE not in e.axes:
            return e if isinstance(e, x.Literal) else self._part(on.row(e))
        match e:
            case x.Call() | x.Contract() | x.Take() | x.Detach():
                return e.with_children(lambda c: self._both(c) if isinstance(c, Expr) else c)
            case x.Reduce(over=over) if SOURCE not in over and TIME not in over:
                return e.with_children(lambda c: self._both(c) if isinstance(c, Expr) else c)
            case x.Index():
                return self._part(on.position_of(on.cols, SOURCE))
        return self._part(on.both(e))

    def _there(self) -> Expr | None:
        """Packed pieces and the beginning of the sequence."""
        conditions: list[Expr] = [call("eq", self._part(r), self._part(c)) for r, c in self.on.piece_pairs()]
        conditions += [self._part(v) for v in self.on.begun()]
        total: Expr | None = None
        for c in conditions:
            total = c if total is None else call("and", total, c)
        return total


def scores(M: Matrix, b: Builder, parts: Mapping[str, Value], sizes: Mapping[str, int]) -> tuple[Value, Value | None]:
    """The entries of a tiled matrix on one block, with every axis of what says which of them are left."""
    ctx = Context(rule=_plain, b=b, signals=parts, sizes=sizes, forms={}, stream=Stream(b))
    on = Grid(ctx, Span(0, sizes[TIME]), Span(0, sizes[SOURCE], SOURCE), None, ctx)
    value, kept = entries.bare(support.opened(M), on), support.left(M, on)
    value = on.full(value if value.differentiable else b.cast(value, "real"))
    return value if kept is None else b.expand(value, kept.sizes), kept


def _plain(ctx: Context, e: Expr) -> Value:
    """The expressions that are left in a tiled matrix."""
    b, of = ctx.b, ctx.of
    match e:
        case x.Literal(value=v):
            return b.const(v)
        case x.Signal(name=name):
            return ctx.signals[name]
        case x.Call(fn=fn, args=args):
            return b.map(fn, *(of(a) for a in args))
        case x.Contract(left=left, right=right, over=over):
            return b.contract(ctx.filled(of(left), over), ctx.filled(of(right), over), over)
        case x.Reduce(fn=fn, of=part, over=over):
            return b.reduce(fn, ctx.filled(of(part), over), over)
        case x.Take(table=table, axis=axis, index=index):
            return b.take(of(table), axis, of(index))
        case x.Detach(of=part):
            return b.detach(of(part))
    raise AssertionError(f"{type(e).__name__} was not cut off")


def score_program(M: Matrix, parts: Mapping[str, Value], sizes: Mapping[str, int]) -> Program:
    """`scores` as a program with the result `x`; `parts` say what its inputs are like."""
    b = Builder()
    inputs = {name: b.input(name, v.axes, v.shape, v.kind) for name, v in parts.items()}
    value, _ = scores(M, b, inputs, sizes)
    return program({"x": value}, list(inputs.values()))


def masked(b: Builder, value: Value, kept: Value | None) -> Value:
    """−∞ where an entry is not left."""
    return value if kept is None else b.where(kept, value, -math.inf)
