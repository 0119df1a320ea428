"""What the convolutional forms start from: a signal, the filter, and where the rows lie in the result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowering.build import Builder
from lowering.grid import Grid
from lowering.program import Value
from mixer_ir.errors import FormError
from mixer_ir.nodes.expr import SOURCE, TIME, Expr
from mixer_ir.nodes.matrix import Apply, Circulant, Resets, Toeplitz

LAG = "_lag"


@dataclass(frozen=True, slots=True)
class Filter:
    """y_t = Σ_l h_l v_{t−l} + Σ_{l ≥ 1} g_l v_{t+l}, of which `length` rows from `first` on are wanted.

    v        the signal along t        h, anti   the filter's lags along `_lag`
    circular v and h wrap around       first     a position, or a value where a stream says where it is
    pieces   the number of the packed piece at each of v's positions: nothing passes from one to another
    """

    v: Value
    h: Value
    anti: Value | None
    circular: bool
    first: int | Value
    length: int
    pieces: Value | None = None

    @property
    def reaches(self) -> int:
        """How many rows, from v's first position on, hold all that are wanted."""
        if isinstance(self.first, int):
            return self.first + self.length
        return self.v.size(TIME) + self.h.size(LAG)

    @property
    def mixed(self) -> bool:
        """Whether one of filter and signal is complex, and the other real."""
        return ("complex" in (self.h.kind, self.anti.kind if self.anti else "")) != (self.v.kind == "complex")

    def half(self, b: Builder, which: str) -> Filter:
        """The same with the real or the imaginary part of what is complex."""
        if self.v.kind == "complex":
            return replace(self, v=b.map(which, self.v))
        anti = None if self.anti is None else b.map(which, self.anti)
        return replace(self, h=b.map(which, self.h), anti=anti)

    def rows(self, b: Builder, y: Value) -> Value:
        """The rows that are wanted of a convolution whose row 0 is v's first position."""
        if isinstance(self.first, int):
            return b.slice(y, TIME, self.first, self.first + self.length)
        index = b.add(b.iota(TIME, self.length), self.first)
        return b.take(b.rename(y, TIME, "_row"), "_row", index)


def filter_of(e: Apply, on: Grid, form: str) -> Filter:
    """The filter of an application of a Toeplitz or circulant matrix; FormError for any other."""
    b = on.b
    v = b.rename(b.expand(on.col(e.of), {SOURCE: on.cols.size}), SOURCE, TIME)
    match e.matrix:
        case Resets(of=of, reset=reset) if form == "direct":
            inner = on.within(reset)
            found = filter_of(Apply(matrix=of, of=e.of), inner, form)
            pieces = [b.rename(columns, SOURCE, TIME) for _, columns in inner.piece_pairs()]
            return replace(found, pieces=pieces[-1])
        case Circulant(h=h):
            n = on.rows.size
            return Filter(folded(b, v, n), b.slice(_taps(on, h, TIME), LAG, 0, n), None, True, 0, n)
        case Toeplitz(h=h, anti=anti, lags=lags):
            n = on.rows.size
            if on.ctx.stream.active and lags == TIME and TIME in h.axes:
                taps = b.rename(on.ctx.history(h, None), TIME, LAG)
                held = on.ctx.stream.before(None)
                return Filter(v, taps, None, False, _row(on, held) if held else 0, n)
            back = None if anti is None else _taps(on, anti, lags)
            return Filter(v, _taps(on, h, lags), back, False, on.cols.size - n if not on.cross else 0, n)
    raise FormError(f"{type(e.matrix).__name__} has no form {form!r}: it is not a convolution")


def folded(b: Builder, v: Value, n: int) -> Value:
    """v as a signal of n entries where all that lies n apart counts the same: Σ_i v_{t + i n}."""
    v = b.pad(v, TIME, 0, -v.size(TIME) % n)
    return v if v.size(TIME) == n else b.sum(b.split(v, TIME, "_fold", TIME, n), ("_fold",))


def _row(on: Grid, held: int) -> Value:
    """Signal and filter both end with the latest entry; before their first one, `held − time` places are empty."""
    return on.b.sub(2 * held, on.start())


def _taps(on: Grid, h: Expr, lags: str) -> Value:
    value = on.filters.of(h)
    length = max(on.rows.size, on.cols.size)
    return on.b.rename(on.b.expand(value, {lags: length}), lags, LAG)
