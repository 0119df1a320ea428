"""Sums along the diagonals of what rows and columns make: the gradient of a filter that stands inside a matrix.

    f̄_d = Σ_t x_{t, t−d}    becomes    e_{L i j} = Σ_I x_{64 I + i, 64 (I − L) + j}
                                       f̄_d = Σ e_{L i j} where 64 L + i − j = d

As it is written, such a sum asks each lag for all rows and columns. Blocks that lie on one diagonal of blocks have
their lags at the same places: a loop over blocks of rows adds them up as tiles, so that the products which x takes
stay products of tiles, and x is never in memory. What is left, 64 numbers for each lag, is summed by addresses alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from lowering import program as p
from lowering.build import Builder
from lowering.fused import fixed, zeros
from lowering.program import Program, Value

SIZE = 64
"""of a block"""
MANY = 1 << 14
"""entries of rows and columns from which on they are taken in blocks"""
PROGRAMS, TURNS = 1 << 10, 8
"""of the loop, about, where rows suffice: they are summed in parts, each of so many turns or more"""

Axes: TypeAlias = tuple[str, ...]


def diagonal(program: Program) -> Program:
    """The program with sums along diagonals taken by blocks."""
    b = Builder()
    sums = {v: s for v in program.order if (s := Along.of(b, v)) is not None}
    if not sums:
        return program
    taken = {a for v in program.order for a in v.axes}
    alike: dict[tuple[Value, frozenset[str]], list[Along]] = {}
    for s in sums.values():
        alike.setdefault((s.summed, s.over), []).append(s)
    done: dict[Value, Value] = {v: v for v in program.inputs}
    made: dict[tuple[Value, frozenset[str]], tuple[Value, int]] = {}
    for v in program.order:
        if (s := sums.get(v)) is None:
            continue
        key = s.summed, s.over
        with b.named(v.label):
            if key not in made:
                low, high = min(x.low for x in alike[key]), max(x.high for x in alike[key])
                blocks = Blocks(b, b.remade(s.summed, done), s.row, s.col, low, high, taken)
                made[key] = blocks.sums(s.over)
            done[v] = s.placed(b, v, *made[key], blocks_axis(taken))
    outputs = tuple(b.remade(v, done) for v in program.outputs)
    return Program(inputs=program.inputs, outputs=outputs, names=program.names)


def blocks_axis(taken: set[str]) -> str:
    """The axis of all lags."""
    return _fresh("lags", taken)


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


@dataclass(frozen=True)
class Along:
    """Σ of `summed` over all rows and columns whose lag, row − column, is one that a place of `axis` stands for.

    over   what else is summed     low, high   the lags; of `low` the place is `first`, then one more (less) for each
    """

    summed: Value
    row: str
    col: str
    axis: str
    over: frozenset[str]
    low: int
    high: int
    first: int
    step: int

    @classmethod
    def of(cls, b: Builder, v: Value) -> Along | None:
        """v as such a sum: Σ where(place = f(row − column), x, 0)."""
        if not (isinstance(v.op, p.Reduce) and v.op.fn == "sum" and v.kind == "real"):
            return None
        x = v.args[0]
        while isinstance(x.op, p.Order):
            x = x.args[0]
        if not (_is(x, "where") and zeros(x.args[2]) and _is(x.args[0], "eq")):
            return None
        index, place = x.args[0].args
        if not isinstance(place.op, p.Iota) or (pair := _pair(index)) is None or not {*pair} <= {*v.op.over}:
            return None
        row, col = pair
        n, m = index.size(row), index.size(col)
        if {*index.axes} != {row, col} or place.axes[0] not in v.axes or n * m < MANY:
            return None
        lags = np.arange(1 - m, n)
        places = _lagged(index, row, col, lags)
        x, over, live = _bare(b, x.args[1], {*v.op.over} - {row, col}, {*v.axes}, row, col, lags)
        if places is None or not live.any() or not {row, col} <= {*x.axes} or not over <= {*x.axes}:
            return None
        live &= (places >= 0) & (places < place.shape[0])
        found = np.flatnonzero(live)
        steps = {*np.diff(places[found]).tolist()} if len(found) > 1 else {1}
        if not len(found) or found[-1] - found[0] >= len(found) or len(steps) > 1 or not steps <= {1, -1}:
            return None
        (step,) = steps
        if not Blocks.serves(x, (row,), (col,)):
            return None
        low, high, first = int(lags[found[0]]), int(lags[found[-1]]), int(places[found[0]])
        return cls(x, row, col, place.axes[0], frozenset(over), low, high, first, step)

    def placed(self, b: Builder, v: Value, sums: Value, start: int, lags: str) -> Value:
        """v, from the sums of all lags from `start` on."""
        x = b.slice(sums, lags, self.low - start, self.high - start + 1)
        n, first = x.size(lags), self.first
        if self.step < 0:
            x, first = b.flip(x, lags), self.first - n + 1
        x = b.rename(b.pad(x, lags, first, v.size(self.axis) - first - n), lags, self.axis)
        return b.order(b.expand(x, v.sizes), v.axes)


def _is(v: Value, fn: str) -> bool:
    return isinstance(v.op, p.Map) and v.op.fn == fn


def _pair(v: Value) -> Axes | None:
    """(rows, columns) of the difference of places that a whole number is made of."""
    if _is(v, "sub") and all(isinstance(a.op, p.Iota) for a in v.args):
        return v.args[0].axes[0], v.args[1].axes[0]
    found = {x for a in v.args if (x := _pair(a)) is not None} if fixed(v) else set()
    return found.pop() if len(found) == 1 else None


NUMBERS = {
    "add": np.add, "sub": np.subtract, "neg": np.negative, "max": np.maximum, "min": np.minimum, "le": np.less_equal,
    "lt": np.less, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and, "or": np.logical_or,
    "not": np.logical_not,
}  # fmt: skip


def _lagged(v: Value, row: str, col: str, lags: np.ndarray) -> np.ndarray | None:
    """A function of the difference of places alone: what it is for each."""
    match v.op:
        case p.Constant(value=value) if not isinstance(value, complex):
            return np.full(lags.shape, value)
        case p.Map(fn="sub") if all(isinstance(a.op, p.Iota) for a in v.args):
            return {(row, col): lags, (col, row): -lags}.get((v.args[0].axes[0], v.args[1].axes[0]))
        case p.Map(fn=fn) if fn in NUMBERS:
            args = [_lagged(a, row, col, lags) for a in v.args]
            return None if any(x is None for x in args) else NUMBERS[fn](*args)
        case p.Order() | p.Expand():
            return _lagged(v.args[0], row, col, lags)
    return None


def _bare(
    b: Builder, x: Value, over: set[str], keep: set[str], row: str, col: str, lags: np.ndarray
) -> tuple[Value, set[str], np.ndarray]:
    """(x before masks of lags and sums, what is summed beside rows and columns, the lags that masks leave)."""
    live = np.full(lags.shape, True)
    while True:
        mask = None
        if _is(x, "where") and any(zeros(a) for a in x.args[1:]):
            mask = _lagged(x.args[0], row, col, lags)
        if mask is not None:
            first = zeros(x.args[2])
            live, x = live & (mask if first else ~mask), x.args[1 if first else 2]
        elif isinstance(x.op, p.Reduce) and x.op.fn == "sum" and keep.isdisjoint(x.op.over):
            over, x = over | {*x.op.over}, x.args[0]
        elif isinstance(x.op, p.Order) or (isinstance(x.op, p.Expand) and {*x.axes} - {*x.args[0].axes} <= keep):
            x = x.args[0]
        elif (sooner := _summed_late(b, x)) is not None:
            x = sooner
        else:
            return x, over, live


def _summed_late(b: Builder, x: Value) -> Value | None:
    """Σ of what is renamed, merged or multiplied with a number, where that is done to a sum."""
    by = [a for a in x.args if not a.axes] if _is(x, "mul") or _is(x, "neg") else []
    if not isinstance(x.op, p.Merge | p.Rename) and not (_is(x, "neg") or len(by) == 1):
        return None
    y = next(a for a in x.args if a not in by)
    while isinstance(y.op, p.Order):
        y = y.args[0]
    y = _summed_late(b, y) or y
    if not (isinstance(y.op, p.Reduce) and y.op.fn == "sum" and {*x.axes}.isdisjoint(y.op.over)):
        return None
    match x.op:
        case p.Merge(outer=outer, inner=inner, axis=axis):
            made = b.merge(y.args[0], outer, inner, axis)
        case p.Rename(old=old, new=new):
            made = b.rename(y.args[0], old, new)
        case p.Map(fn=fn):
            made = b.map(fn, y.args[0], *by)
    return b.reduce("sum", made, y.op.over)


class Blocks:
    """x along rows and columns, as blocks: its axes `parts` and `turns` (blocks of rows), `lag`, `i` and `j`."""

    def __init__(self, b: Builder, x: Value, row: str, col: str, low: int, high: int, taken: set[str]) -> None:
        self.b, self.x, self.taken = b, x, taken
        self.rows, self.cols = x.size(row), x.size(col)
        self.row, self.col = row, col
        self.i, self.j, self.turns = (_fresh(n, taken) for n in (f"_{row}_row", f"_{col}_col", f"_{row}_turn"))
        self.parts, self.lag = _fresh("row_parts", taken), _fresh("lag_blocks", taken)
        count = -(-self.rows // SIZE)
        self.first = max(-(-(low - SIZE + 1) // SIZE), 1 - -(-self.cols // SIZE))
        self.last = min((high + SIZE - 1) // SIZE, count - 1)
        others = prod(n for a, n in x.sizes.items() if a not in (row, col)) * self.lags
        self.count = max(min(-(-PROGRAMS // others), count // TURNS), 1)
        self.length = -(-count // self.count)
        self.known: dict[tuple[Value, Axes, Axes], Value] = {}
        self.given: set[Value] = set()
        """what has rows or columns alone, or neither: it is computed before the loop"""

    @property
    def lags(self) -> int:
        return self.last - self.first + 1

    # ------------------------------------------------------------------ the loop

    def sums(self, over: frozenset[str]) -> tuple[Value, int]:
        """(sums for all lags from some on, along `blocks_axis`; the first)."""
        b = self.b
        rows, cols = self._place(True), self._place(False)
        whole = self._at(self.x, (self.row,), (self.col,))
        sizes = {a: n for a, n in self.x.sizes.items() if a not in (self.row, self.col)}
        sizes |= {self.parts: self.count, self.lag: self.lags, self.i: SIZE, self.j: SIZE}
        given = list(dict.fromkeys((rows, cols, *self._given(whole, {}))))
        given = [x for x in given if x.axes]
        steps = [x for x in given if self.turns in x.axes]
        fixed_ = [x for x in given if x not in steps]

        def step(
            i: Builder, carry: Sequence[Value], steps_: Sequence[Value], constants: Sequence[Value]
        ) -> tuple[list[Value], list[Value]]:
            known = dict(zip((*steps, *fixed_), (*steps_, *constants), strict=True))
            made = _again(i, whole, known, self.turns)
            for place, n in ((known[rows], self.rows), (known[cols], self.cols)):
                made = i.where(i.map("lt", place, n), made, 0.0)
            made = i.where(i.map("le", 0, known[cols]), made, 0.0)
            return [i.add(carry[0], i.order(i.expand(made, sizes), carry[0].axes))], []

        (total,), _ = b.scan(self.turns, step, [b.full(0.0, sizes)], steps, fixed_)
        return self._along(total, over), SIZE * self.first - SIZE + 1

    def _along(self, total: Value, over: frozenset[str]) -> Value:
        """The sums of blocks along their diagonals, for all lags."""
        b, lags = self.b, blocks_axis(self.taken)
        x = b.pad(b.flip(total, self.j), self.j, 0, SIZE)  # i + j is SIZE − 1 more than the lag inside the block
        x = b.slice(b.merge(x, self.i, self.j, self.j), self.j, 0, SIZE * (2 * SIZE - 1))
        x = b.split(x, self.j, self.i, self.j, 2 * SIZE - 1)  # row i begins i places on: entry m is of lag m − SIZE + 1
        x = b.sum(x, (self.i, self.parts, *sorted(over)))
        x = b.flip(b.pad(x, self.j, 0, 1), self.lag)
        x = b.split(x, self.j, self.i, self.j, SIZE)
        low, high = (b.at(x, self.i, n) for n in (0, 1))
        return b.merge(b.add(b.pad(low, self.lag, 0, 1), b.pad(high, self.lag, 1, 0)), self.lag, self.j, lags)

    def _given(self, v: Value, seen: dict[Value, None]) -> dict[Value, None]:
        """What a step of the loop reads: all that is computed without products."""
        if v in self.given or not self._multiplies(v):
            seen[v] = None
        else:
            for a in v.args:
                self._given(a, seen)
        return seen

    def _multiplies(self, v: Value) -> bool:
        return isinstance(v.op, p.Contract) or any(a not in self.given and self._multiplies(a) for a in v.args)

    # ------------------------------------------------------------------ rows and columns in blocks

    def _place(self, row: bool) -> Value:
        """The number of each row, or column."""
        b = self.b
        n = self.count * self.length
        if row:
            x = b.split(b.iota(self.i, n * SIZE), self.i, self.turns, self.i, SIZE)
            return b.split(x, self.turns, self.parts, self.turns, self.length)
        top = b.at(self._place(True), self.i, 0)
        inside = b.split(b.iota(self.j, self.lags * SIZE), self.j, self.lag, self.j, SIZE)
        return b.sub(b.add(top, inside), SIZE * self.last)

    @staticmethod
    def serves(v: Value, rows: Axes, cols: Axes) -> bool:
        """Whether what has rows and columns can be computed in blocks."""
        found, todo = set(), [(v, rows, cols)]
        while todo:
            one = todo.pop()
            x, *sides = one
            if one in found or not all(_has(x, s) for s in sides):
                continue
            found.add(one)
            back = _back(x, rows=one[1], cols=one[2])
            if back is None and not {*x.axes} <= {*one[1], *one[2]}:
                return False  # a matrix of rows and columns alone may be in memory
            todo += [] if back is None else [(a, *back) for a in x.args]
        return True

    def _at(self, v: Value, rows: Axes, cols: Axes) -> Value:
        """v in blocks; its rows and columns are those axes, the outer one first if there are two."""
        key = v, rows, cols
        if key not in self.known:
            has = _has(v, rows), _has(v, cols)
            if not any(has):
                self.known[key] = v
            elif not all(has):
                self.known[key] = self._side(v, rows if has[0] else cols, has[0])
            else:
                self.known[key] = self._both(v, rows, cols)
            if not all(has) or _back(v, rows, cols) is None:
                self.given.add(self.known[key])
        return self.known[key]

    def _both(self, v: Value, rows: Axes, cols: Axes) -> Value:
        if (back := _back(v, rows, cols)) is None:
            return self._skewed(self._cols(self._rows(v, rows), cols))
        args = [self._at(a, *back) for a in v.args]
        if back != (rows, cols) or isinstance(v.op, p.Order):
            return args[0]
        own = {a: n for a, n in v.sizes.items() if a not in (*rows, *cols)}
        with self.b.named(v.label):
            return _on(self.b, v, args, own)

    def _side(self, v: Value, axes: Axes, row: bool) -> Value:
        """What has rows alone, or columns alone."""
        b = self.b
        if isinstance(v.op, p.Rename | p.Split | p.Order | p.Merge | p.Iota) or (isinstance(v.op, p.Map) and fixed(v)):
            if isinstance(v.op, p.Iota) and len(axes) == 1:
                return self._place(row)
            back = _back(v, axes, ()) if not isinstance(v.op, p.Iota) else None
            if back is not None and back[0] != axes:
                return self._at(v.args[0], *((back[0], ()) if row else ((), back[0])))
            if back is not None and isinstance(v.op, p.Map):
                return b.map(v.op.fn, *(self._at(a, *((axes, ()) if row else ((), axes))) for a in v.args))
        return self._cut(self._rows(v, axes)) if row else self._skewed(self._cols(v, axes))

    def _rows(self, v: Value, axes: Axes) -> Value:
        """Rows in blocks."""
        return self._blocked(v, axes, self.rows, self.turns, self.i, self.count * self.length)

    def _cols(self, v: Value, axes: Axes) -> Value:
        """Columns in blocks."""
        return self._blocked(v, axes, self.cols, self.lag, self.j, -(-self.cols // SIZE))

    def _blocked(self, v: Value, axes: Axes, n: int, outer: str, inner: str, count: int) -> Value:
        b = self.b
        if len(axes) > 1:
            size = next((n // v.size(a) for a in axes[1:] if a in v.axes), 0) or v.size(axes[0])
            v = b.merge(b.expand(v, {axes[0]: size, axes[1]: n // size}), axes[0], axes[1], outer)
        else:
            v = b.rename(v, axes[0], outer)
        return b.split(b.longer(v, outer, count * SIZE - n), outer, outer, inner, SIZE)

    def _cut(self, x: Value) -> Value:
        """Blocks of rows in parts."""
        return self.b.split(x, self.turns, self.parts, self.turns, self.length)

    def _skewed(self, x: Value) -> Value:
        """From blocks of columns, for each block of rows those beside it: that of number I − lag."""
        b, n = self.b, self.count * self.length
        most = n + self.lags - 1
        x = _window(b, x, self.lag, -self.last, most)
        x = b.expand(x, {self.turns: n + 1}) if self.turns not in x.axes else b.pad(x, self.turns, 0, 1, _nothing(x))
        x = b.merge(x, self.turns, self.lag, self.lag)
        x = b.split(b.slice(x, self.lag, 0, n * (most + 1)), self.lag, self.turns, self.lag, most + 1)
        return self._cut(b.slice(x, self.lag, 0, self.lags))


def _window(b: Builder, x: Value, axis: str, start: int, n: int) -> Value:
    """n entries from `start` on, 0 beyond the ends of the axis."""
    low, high = max(start, 0), min(start + n, x.size(axis))
    x = b.slice(x, axis, low, high)
    return b.pad(x, axis, low - start, start + n - high, _nothing(x))


def _nothing(x: Value) -> int:
    return False if x.kind == "bool" else 0


def _has(v: Value, axes: Axes) -> bool:
    return not {*axes}.isdisjoint(v.axes)


def _back(v: Value, rows: Axes, cols: Axes) -> tuple[Axes, Axes] | None:
    """The axes of the rows and columns of v's arguments; None where it does not work on blocks as it does on all."""
    both = rows, cols
    here = {*rows, *cols}
    match v.op:
        case p.Map() | p.Expand() | p.Order() | p.Cast() | p.Detach():
            return both
        case p.Contract(over=over) | p.Reduce(over=over) if here.isdisjoint(over):
            return both
        case p.Rename(old=old, new=new) if new in here:
            return tuple(old if a == new else a for a in rows), tuple(old if a == new else a for a in cols)
        case p.Merge(outer=outer, inner=inner, axis=axis) if (axis,) in both:
            return (outer, inner) if rows == (axis,) else rows, (outer, inner) if cols == (axis,) else cols
        case p.Split(axis=axis, outer=outer, inner=inner) if (outer, inner) in both:
            return (axis,) if rows == (outer, inner) else rows, (axis,) if cols == (outer, inner) else cols
        case p.Take(axis=axis) if here.isdisjoint(v.args[0].axes):
            return both
    return None


def _again(i: Builder, v: Value, known: dict[Value, Value], turns: str) -> Value:
    """v in a step of the loop."""
    if v not in known:
        if not v.axes and not v.args:
            known[v] = i.again(v, [])
        else:
            args = [_again(i, a, known, turns) for a in v.args]
            with i.named(v.label):
                known[v] = _on(i, v, args, {a: n for a, n in v.sizes.items() if a != turns})
    return known[v]


def _on(b: Builder, v: Value, args: list[Value], sizes: dict[str, int]) -> Value:
    """v's operation on arguments in blocks; axes that it repeats them along."""
    match v.op:
        case p.Map(fn=fn):
            return b.map(fn, *args)
        case p.Expand():
            return b.expand(args[0], sizes)
        case p.Order():
            return args[0]
        case p.Cast(kind=kind):
            return b.cast(args[0], kind)
        case p.Detach():
            return b.detach(args[0])
        case p.Contract(over=over):
            return b.contract(args[0], args[1], over)
        case p.Reduce(fn=fn, over=over):
            return b.reduce(fn, args[0], over)
        case p.Take(axis=axis):
            return b.take(args[0], axis, args[1])
    raise AssertionError(v)
