"""Terms of the segment formula as lines in the incoming state: slope · S₀ + offset, computed as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from lowering.blocks import Blocks
from lowering.build import Builder, called
from lowering.decay import SOURCE, SOURCE_RANK, STEP, Span
from lowering.parts import KEY, RANK, ROW, VALUE
from lowering.program import Value
from lowering.segment import Block, Dot, Entering, Given, Incoming, Leaving, Plus, Resolve, Scores, Term, Whole

COLUMN = (SOURCE, SOURCE_RANK)


@dataclass(frozen=True, slots=True)
class Same:
    """The slope of S₀ itself: the identity."""


Slope: TypeAlias = Value | Span | Same


@dataclass(frozen=True, slots=True)
class Line:
    """slope · S₀ + offset; None is zero.

    A slope is an array with `_k` (contracted with the state's) and either `_i` (a row a step) or `_l` (a row an
    entry of the new state), a Span (which acts as it is), or the identity.
    """

    slope: Slope | None
    offset: Value | None

    def at(self, b: Builder, state: Value | None) -> Value | None:
        """The term's array for a given S₀ (None: zero)."""
        if state is None or self.slope is None:
            return self.offset
        with b.named("carried: what the state at the chunk's entry gives"):
            moved = _applied(b, self.slope, state)
        return moved if self.offset is None else b.add(moved, self.offset)

    @property
    def arrays(self) -> list[Value]:
        slope = self.slope.value if isinstance(self.slope, Span) else self.slope
        return [x for x in (slope, self.offset) if isinstance(x, Value)]

    def on(self, arrays: Mapping[Value, Value]) -> Line:
        """The line of the arrays that stand for its own."""
        slope, offset = self.slope, self.offset
        if isinstance(slope, Span):
            slope = replace(slope, value=arrays[slope.value])
        return Line(arrays[slope] if isinstance(slope, Value) else slope, None if offset is None else arrays[offset])

    def map(self, change: Callable[[Value], Value | None]) -> Line:
        """A block applied to what stands on rows."""
        assert self.slope is None or isinstance(self.slope, Value)
        slope = None if self.slope is None else change(self.slope)
        return Line(slope, None if self.offset is None else change(self.offset))


def _applied(b: Builder, slope: Slope, state: Value) -> Value:
    match slope:
        case Same():
            return state
        case Span():
            return slope.leave(b, state)
        case Value():
            return b.rename(b.contract(slope, state, (KEY,)), ROW, KEY)
        case _:
            assert_never(slope)


class Affine:
    """The terms of the segment formula as lines, each computed once; with `entering`, S₀ is known and all is offset.

    entering   S₀ of the only segment: its state, or None for zero
    """

    def __init__(self, b: Builder, blocks: Blocks, *, entering: tuple[Value | None] | None = None) -> None:
        self.b, self.blocks, self.entering = b, blocks, entering
        self.done: dict[Term, Line] = {}

    def of(self, term: Term) -> Line:
        if term not in self.done:
            self.done[term] = self._of(term)
        return self.done[term]

    def parted(self, change: Term) -> tuple[list[Dot], tuple[Term, ...]]:
        """The summands in which S₀ drives columns, and the others."""
        terms = change.terms if isinstance(change, Plus) else (change,)
        driven = [
            t for t in terms if isinstance(t, Dot) and isinstance(t.block, Leaving) and self.of(t.of).slope is not None
        ]
        return driven, tuple(t for t in terms if t not in driven)

    def unresolved(self, term: Term) -> tuple[Value | None, Line]:
        """(L, y) of a term (I − L)⁻¹ y; (None, the term) of any other."""
        if isinstance(term, Plus) and len(term.terms) == 1:
            return self.unresolved(term.terms[0])
        if isinstance(term, Dot) and isinstance(term.block, Resolve):
            return self.blocks.scores(term.block.row, term.block.column), self.of(term.of)
        return None, self.of(term)

    def _of(self, term: Term) -> Line:
        match term:
            case Incoming():
                return Line(Same(), None)
            case Given(column=column):
                return Line(None, self.blocks.given(column))
            case Plus(terms=terms):
                return self._sum([self.of(t) for t in terms])
            case Dot(block=block, of=of):
                return self._dot(block, self.of(of))
            case _:
                assert_never(term)

    def _dot(self, block: Block, line: Line) -> Line:
        b, blocks = self.b, self.blocks
        match block:
            case Entering(row=row):
                return self._carried(blocks.entering(row))
            case Whole():
                return self._carried(blocks.whole or Same())
            case Scores(row=row, column=column):
                scores = blocks.scores(row, column)
                return line.map(lambda x: None if scores is None else _driven(b, scores, x))
            case Leaving(column=column):
                leaving = blocks.leaving(column)
                slope, offset = line.slope, line.offset
                assert slope is None or isinstance(slope, Value)
                return Line(
                    None if slope is None else b.contract(b.rename(leaving, KEY, ROW), _as_source(b, slope), COLUMN),
                    None if offset is None else left_by(b, leaving, offset),
                )
            case Resolve(row=row, column=column):
                scores = blocks.scores(row, column)
                return line if scores is None else _resolved(b, scores, line)
            case _:
                assert_never(block)

    def _carried(self, slope: Slope) -> Line:
        """A block applied to S₀."""
        line = Line(slope, None)
        return line if self.entering is None else Line(None, line.at(self.b, self.entering[0]))

    def _sum(self, lines: Sequence[Line]) -> Line:
        offsets = [x.offset for x in lines if x.offset is not None]
        slopes = [x.slope for x in lines if x.slope is not None]
        if len(slopes) > 1:
            slopes = [self.b.add(*(self._matrix(x) for x in slopes))]
        return Line(slopes[0] if slopes else None, self.b.add(*offsets) if offsets else None)

    def _matrix(self, slope: Value | Span | Same) -> Value:
        """A slope as an array."""
        b, sizes = self.b, self.blocks.parts.state_sizes
        match slope:
            case Value():
                return slope
            case Span():
                return slope.matrix(b, sizes[KEY])
        eye = b.map("eq", b.iota(ROW, sizes[KEY]), b.iota(KEY, sizes[KEY]))
        return b.where(eye, 1.0, 0.0)


def _as_source(b: Builder, x: Value) -> Value:
    """What stands on rows, put on columns."""
    return b.rename(b.rename(x, STEP, SOURCE), RANK, SOURCE_RANK)


def _resolved(b: Builder, scores: Value, line: Line) -> Line:
    """(I − L)⁻¹ of slope and offset, side by side; steps and the pairs of a low rank are one axis, the steps first."""
    slope, offset = line.slope, line.offset
    assert slope is None or isinstance(slope, Value)
    if slope is None or offset is None:
        return line.map(lambda x: solved(b, scores, x))
    n, values = slope.size(KEY), VALUE in offset.axes
    right = b.rename(offset, VALUE, KEY) if values else b.expand(offset, {KEY: 1})
    both = solved(b, scores, b.concat([slope, right], KEY))
    offset = b.slice(both, KEY, n, both.size(KEY))
    return Line(b.slice(both, KEY, 0, n), b.rename(offset, KEY, VALUE) if values else b.sum(offset, (KEY,)))


@called("given: scores times what the columns bring")
def _driven(b: Builder, scores: Value, x: Value) -> Value:
    return b.contract(scores, _as_source(b, x), COLUMN)


@called("solved: (I − L)⁻¹ times what stands on the rows")
def solved(b: Builder, scores: Value, x: Value) -> Value:
    """(I − L)⁻¹ x."""
    if RANK not in scores.axes:
        return b.solve(scores, x, STEP, SOURCE)
    count = scores.size(RANK)
    lower = b.merge(b.merge(scores, STEP, RANK, STEP), SOURCE, SOURCE_RANK, SOURCE)
    right = b.merge(b.expand(x, {RANK: count}), STEP, RANK, STEP)
    return b.split(b.solve(lower, right, STEP, SOURCE), STEP, STEP, RANK, count)


@called("left: what the chunk's columns leave in the state")
def left_by(b: Builder, columns: Value, x: Value) -> Value:
    """Ỹ x: what the steps leave in the state."""
    return b.contract(columns, _as_source(b, x), COLUMN)
