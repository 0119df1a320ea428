"""The grid on which a matrix is looked at: which rows and columns, and what each part of the matrix is there.

Positions are counted from the first step computed here: a stream's earlier columns have negative ones. A part that
plays the row's role is read at t, one that plays the column's at s, whichever axis it was declared over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lowering.build import Builder
from lowering.context import Context
from lowering.program import Value
from mixer_ir.errors import AxisError
from mixer_ir.nodes import expr as x
from mixer_ir.nodes.expr import SOURCE, TIME, Expr


@dataclass(frozen=True, slots=True)
class Span:
    """Positions low … high − 1. `axis` is s for the keys of cross mixing, whose values are read as they are.

    earlier   steps before those computed here belong to it, so that the parts read there go into a stream's state
    """

    low: int
    high: int
    axis: str = TIME
    earlier: bool = False

    @property
    def size(self) -> int:
        return self.high - self.low


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows and columns of a matrix.

    reach    how many earlier columns matter (None: all)
    pieces   for each reset that the matrix lies under, the number of the packed piece at every step, along t
    """

    ctx: Context
    rows: Span
    cols: Span
    reach: int | None
    filters: Context
    pieces: tuple[Value, ...] = ()
    memo: dict[Expr, Value] = field(default_factory=dict)

    @classmethod
    def of(cls, ctx: Context, *, cross: bool, reach: int | None) -> Grid:
        """All rows computed here; all columns of s, or of t with those before that matter."""
        rows = Span(0, ctx.length)
        if cross:
            return cls(ctx, rows, Span(0, ctx.size(SOURCE, "cross mixing"), SOURCE), None, ctx)
        earlier = reach is None or reach > 0
        if earlier and ctx.stream.active:
            ctx.stream.time(ctx.length)  # what is cached is told by it from what never was
        return cls(ctx, rows, Span(-ctx.stream.before(reach), ctx.length, TIME, earlier), reach, ctx)

    @property
    def b(self) -> Builder:
        return self.ctx.b

    @property
    def cross(self) -> bool:
        return SOURCE in (self.rows.axis, self.cols.axis)

    @property
    def square(self) -> bool:
        """The rows are the columns: a whole sequence that mixes with itself."""
        return self.rows.size == self.cols.size and not self.ctx.stream.active

    def swapped(self) -> Grid:
        """Rows for columns."""
        return replace(self, rows=self.cols, cols=self.rows, memo={})

    def backward(self) -> Grid:
        """The grid of the same matrix on signals reversed in time."""
        pieces = tuple(self.b.flip(p, TIME) for p in self.pieces)
        return replace(self, ctx=self.ctx.backward(), pieces=pieces, memo={})

    def over(self, rows: Span, cols: Span) -> Grid:
        """The same matrix on other rows and columns."""
        return replace(self, rows=rows, cols=cols, memo={})

    # ------------------------------------------------------------------ parts

    def row(self, e: Expr) -> Value:
        """A part read at t."""
        return self._read(e, self.rows, TIME)

    def col(self, e: Expr) -> Value:
        """A part read at s."""
        return self._read(e, self.cols, SOURCE)

    def _read(self, e: Expr, span: Span, axis: str) -> Value:
        b = self.b
        if SOURCE in e.axes:
            if TIME in e.axes:
                raise AxisError(f"a part with axes ({' '.join(e.axes)}) cannot be read at {axis} alone")
            if isinstance(e, x.Rename) and e.old == TIME and span.axis == TIME:
                return self._read(e.of, span, axis)
            value = b.rename(self.ctx.of(e), SOURCE, axis)
            return self._sized(value, axis, span, e)
        if TIME not in e.axes:
            return self.ctx.of(e)
        if span.axis == SOURCE:
            return self._sized(b.rename(self.ctx.of(e), TIME, axis), axis, span, e)
        return b.rename(self.timeline(e, span), TIME, axis)

    def _sized(self, value: Value, axis: str, span: Span, e: Expr) -> Value:
        if axis in value.axes and value.size(axis) != span.size:
            raise AxisError(
                f"a part with axes ({' '.join(e.axes)}) has {value.size(axis)} entries, but the matrix has "
                f"{span.size} {'rows' if axis == TIME else 'columns'}"
            )
        return value

    def timeline(self, e: Expr, span: Span) -> Value:
        """A part over t, at the positions of a span; those before the first column that is kept are zero."""
        value = self.ctx.history(e, self.reach) if span.earlier else self.ctx.of(e)
        return self._cut(value, span) if TIME in value.axes else value

    def _cut(self, value: Value, span: Span, outside: int = 0) -> Value:
        """The positions of a span out of a value that ends with the last step."""
        first = self.ctx.length - value.size(TIME)
        low = max(span.low, first)
        inside = self.b.slice(value, TIME, low - first, max(span.high, low) - first)
        return self.b.slice(self.b.pad(inside, TIME, low - span.low, 0, outside), TIME, 0, span.size)

    def steps(self) -> Span:
        """All positions from the first row or column to the last row; in cross mixing, the rows."""
        if self.cross:
            return self.rows
        low, high = min(self.rows.low, self.cols.low), max(self.rows.high, self.cols.high)
        return Span(low, high, TIME, self.rows.earlier or self.cols.earlier)

    def both(self, e: Expr) -> Value:
        """An expression with t and s, read at every row and column."""
        if e not in self.memo:
            self.memo[e] = self._both(e)
        return self.memo[e]

    def _both(self, e: Expr) -> Value:
        if SOURCE not in e.axes:
            return self.row(e)
        if TIME not in e.axes and (self.cols.axis == SOURCE or (isinstance(e, x.Rename) and e.old == TIME)):
            return self.col(e)
        if self.square or self.cross:
            return self.ctx.of(e)
        if TIME in e.axes and (self.rows.low, self.rows.high) != (0, self.ctx.length) and isinstance(e, x.Signal):
            self.ctx.stream.refuse(f"earlier rows of {e.name}, with axes ({' '.join(e.axes)}), would have to be kept")
        match e:
            case x.Signal():
                return self._aligned(self.ctx.of(e))
            case x.Index():
                return self.position_of(self.cols, SOURCE)
            case x.Call() | x.Contract() | x.Take() | x.Detach():
                return self.ctx.rule(replace(self.ctx, memo=_Reader(self)), e)
            case x.Reduce(over=over) if SOURCE not in over and TIME not in over:
                return self.ctx.rule(replace(self.ctx, memo=_Reader(self)), e)
            case x.Rename(old=old) if old not in (TIME, SOURCE):
                return self.ctx.rule(replace(self.ctx, memo=_Reader(self)), e)
        self.ctx.stream.refuse(f"a part with axes ({' '.join(e.axes)}) mixes all times: {type(e).__name__}")
        return self.ctx.of(e)

    def _aligned(self, value: Value) -> Value:
        """A signal given over t and s, or s: its last column is the last step's."""
        if SOURCE not in value.axes:
            return value
        n, size = value.size(SOURCE), self.cols.size
        value = self.b.pad(value, SOURCE, max(size - n, 0), 0)
        return self.b.slice(value, SOURCE, value.size(SOURCE) - size, value.size(SOURCE))

    # ------------------------------------------------------------------ positions

    def t(self) -> Value:
        """The position of every row; beside the keys of cross mixing, all of which are there, from the beginning."""
        here = self.b.add(self.b.iota(TIME, self.rows.size), self.rows.low)
        return self.b.add(here, self.start()) if self.cross and self.rows.axis == TIME else here

    def s(self) -> Value:
        """The position of every column."""
        return self.b.add(self.b.iota(SOURCE, self.cols.size), self.cols.low)

    def lag(self) -> Value:
        """t − s"""
        return self.b.sub(self.t(), self.s())

    def position_of(self, span: Span, axis: str) -> Value:
        """Positions counted from the beginning of the sequence."""
        here = self.b.add(self.b.iota(axis, span.size), span.low)
        return self.b.add(here, self.start()) if span.axis == TIME else here

    def start(self) -> Value:
        """The position of the first step computed here, counted from the beginning of the sequence."""
        return self.ctx.stream.time(self.ctx.length) if self.ctx.stream.active else self.b.const(0)

    # ------------------------------------------------------------------ which entries are there at all

    def there(self) -> Value | None:
        """Rows and columns of the same packed piece that are not before the beginning; None: all."""
        return every(self.b, [*(self.b.map("eq", r, c) for r, c in self.piece_pairs()), *self.begun()])

    def piece_pairs(self) -> list[tuple[Value, Value]]:
        """The numbers of the packed pieces at every row and at every column."""
        b = self.b
        return [(self._cut(p, self.rows, -1), b.rename(self._cut(p, self.cols, -1), TIME, SOURCE)) for p in self.pieces]

    def begun(self) -> list[Value]:
        """Of rows and columns that may lie before the beginning, whether they do not."""
        spans = ((self.rows, TIME), (self.cols, SOURCE))
        early = [(span, axis) for span, axis in spans if span.low < 0 and span.axis == TIME]
        return [self.b.map("le", 0, self.position_of(span, axis)) for span, axis in early]

    def within(self, reset: Expr) -> Grid:
        """The grid under one more reset."""
        if self.cross:
            raise AxisError("packed pieces need a matrix that mixes a sequence with itself, but its columns are s")
        history = self.ctx.history(reset, self.reach) if self.cols.earlier or self.rows.earlier else self.ctx.of(reset)
        piece = self.b.cumulate("sum", self.ctx.filled(history, (TIME,)), TIME)
        return replace(self, pieces=(*self.pieces, piece), memo={})

    def full(self, value: Value) -> Value:
        """The value with the axes t and s."""
        return self.b.expand(value, {TIME: self.rows.size, SOURCE: self.cols.size})


class _Reader(dict[Expr, Value]):
    """A memo that reads what it lacks on a grid."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def __contains__(self, e: object) -> bool:
        return isinstance(e, Expr)

    def __getitem__(self, e: Expr) -> Value:
        return self.grid.both(e)


def every(b: Builder, conditions: list[Value]) -> Value | None:
    """All conditions at once; None is no condition."""
    total: Value | None = None
    for c in conditions:
        total = c if total is None else b.map("and", total, c)
    return total
