"""The blocks of the segment formula as arrays: rows and columns of a process, with its decays between them."""

from __future__ import annotations

from lowering.build import Builder
from lowering.decay import EVERY, SOURCE, SOURCE_RANK, STEP, Span, Tree, read_at, tree
from lowering.decay_numbers import numbers
from lowering.decay_region import products
from lowering.parts import KEY, RANK, Parts
from lowering.program import Value
from lowering.segment import READER, WRITER, Column, Row, inputs, queries


class Blocks:
    """The blocks of the segment formula as arrays, for all segments of one length at once.

    parts    arrays along `_c` (segments; absent where all are alike) and `_i` (steps), rows and columns by name:
    Entering (… `_i` `_k`), Scores (… `_i` `_s`), Leaving (… `_s` `_k`); rows of a low rank also have `_r`, its
    columns `_p`. A block that is zero is None; a Whole that is the identity is None. Where several updates make a step,
    queries have one row for each step.
    """

    def __init__(self, b: Builder, parts: Parts) -> None:
        self.b, self.parts, self.length = b, parts, parts.steps * parts.updates
        self.rows = dict(
            zip(queries(tuple(q.before for q in parts.queries)), (q.vector for q in parts.queries), strict=True)
        )
        names = inputs(len(parts.inputs))
        self.columns = dict(zip(names, (k for k, _ in parts.inputs), strict=True))
        self.values = dict(zip(names, (v for _, v in parts.inputs), strict=True))
        if parts.low_rank:
            a, reader = parts.low_rank
            self.rows[READER] = reader
            if parts.shared is None:
                self.columns[WRITER] = b.rename(a, RANK, SOURCE_RANK)
        self.pairs = [(row, col) for row in self.rows for col in self.columns]
        self._tree = self._grown()

    def _grown(self) -> Tree | None:
        """The products; those of a scalar decay stand by themselves, and without any decay there are none."""
        b, parts = self.b, self.parts
        if parts.dense is not None:
            step = Span(parts.dense, "dense")
        elif parts.decay is not None:
            step = Span(parts.decay, "log" if parts.logs else "factor")
        else:
            return None
        if not self.scalar:
            named = products if step.rule == "log" else tree
            return named(b, step, self.length, self.rows, self.columns, self.pairs)
        return numbers(b, step, self.length, [self._ones(row) for row in self.rows], parts.updates)

    @property
    def scalar(self) -> bool:
        return self.parts.decay is not None and KEY not in self.parts.decay.axes

    def _every(self, row: Row) -> int:
        """How many updates a row reads after, or before."""
        return 1 if row == READER else self.parts.updates

    def _ones(self, row: Row) -> Row:
        """The row of ones that reads when this row does."""
        return Row("" if self._every(row) == 1 else EVERY, row.before)

    def _row(self, row: Row) -> Value:
        return self.b.expand(self.rows[row], {STEP: self.length // self._every(row)})

    def entering(self, row: Row) -> Value:
        x = self._row(row)
        if self._tree is None:
            return x
        with self.b.named("entering: rows carried back to the chunk's entry"):
            return self.b.mul(x, self._tree.entering[self._ones(row)]) if self.scalar else self._tree.entering[row]

    def leaving(self, column: Column) -> Value:
        y = self.b.rename(self.b.expand(self.columns[column], {STEP: self.length}), STEP, SOURCE)
        if self._tree is None:
            return y
        with self.b.named("leaving: columns carried on to the chunk's end"):
            return self.b.mul(y, self._tree.leaving[Column("")]) if self.scalar else self._tree.leaving[column]

    def scores(self, row: Row, column: Column) -> Value | None:
        """L_xy; None if there are no steps before a row."""
        b = self.b
        if row.before and self.length == 1:
            return None
        if self._tree is not None and not self.scalar:
            return self._tree.scores[row, column]
        x, y = self._row(row), b.expand(self.columns[column], {STEP: self.length})
        with b.named("scores: scores within the chunk: each row against the columns up to its step"):
            plain = b.contract(x, b.rename(y, STEP, SOURCE), (KEY,))
            if self._tree is not None:
                decayed = self._tree.scores[self._ones(row), Column("")]
                assert decayed is not None
                return b.mul(plain, decayed)
            compare = "lt" if row.before else "le"
            places = read_at(b, b.iota(STEP, self.length), self._every(row), row.before)
            seen = b.map(compare, b.iota(SOURCE, self.length), places)
            return b.where(seen, plain, 0.0)

    @property
    def whole(self) -> Span | None:
        return None if self._tree is None else self._tree.whole

    def given(self, column: Column) -> Value:
        return self.b.expand(self.values[column], {STEP: self.length})
