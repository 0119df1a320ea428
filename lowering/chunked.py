"""The chunked form: the segment formula on all chunks at once, then a scan over the chunks' states.

The formula is affine in the incoming state: every term is a slope applied to S₀ plus an offset. Slopes and offsets of
all chunks are computed together; what remains for the scan over chunks is the change of the state,

    X = slope · S₀ + offset                  what the columns are driven by, where that depends on S₀ (W, or W + V)
    S₁ = Whole S₀ + Ỹ X + what other columns leave

Afterwards S₀ and X are known for every chunk, and the reads are computed together as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from lowering.build import Builder
from lowering.decay import CHUNK, SOURCE, SOURCE_RANK, STEP, Blocks, Span
from lowering.parts import KEY, RANK, ROW, VALUE, Options, Parts, as_state, zero_state
from lowering.program import Value
from lowering.segment import (
    Block,
    Dot,
    Entering,
    Given,
    Incoming,
    Leaving,
    Plus,
    Resolve,
    Scores,
    Segment,
    Term,
    Whole,
    segment,
)
from lowering.stretch import HELD, in_stretches
from mixer_ir.expr import TIME, without

CHUNK_LENGTH = 64
COLUMN = (SOURCE, SOURCE_RANK)


def lower(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """Chunks of `options.chunk` steps (64 if not given; at most the sequence); the last one may be shorter."""
    length = min(options.chunk or CHUNK_LENGTH, parts.steps)
    stretch = options.stretch or _stretch(parts, length, options.held or HELD)
    return in_stretches(b, parts, max(stretch // length, 1) * length, lambda b, parts: _chunks(b, parts, length))


def parallel(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """The whole sequence as one chunk."""
    return _chunks(b, parts, parts.steps)


def _stretch(parts: Parts, length: int, held: int) -> int:
    sizes = parts.state_sizes
    step = parts.batch_size * max(sizes.get(KEY, 1), sizes.get(VALUE, 1), length)
    return max(held // step, length)


def _chunks(b: Builder, parts: Parts, length: int) -> tuple[list[Value], Value]:
    """All chunks of `length` steps together, then the steps that are left as a chunk of their own."""
    length = min(length, parts.steps)
    count = parts.steps // length
    main = count * length
    if main < parts.steps:
        return in_stretches(b, parts, main, lambda b, p: _chunks(b, p, length))
    cut = parts.map(lambda x: _laid_out(b, parts, x, length, count), steps=length, initial=parts.initial)
    formula = segment(
        before=tuple(q.before for q in parts.queries),
        pairs=len(parts.inputs),
        low_rank=parts.low_rank is not None,
        shared=parts.shared,
    )
    terms = Affine(b, Blocks(b, cut))
    reads, state = _linked(b, parts, terms, formula, count)
    full = {STEP: length, **({CHUNK: count} if count > 1 else {})}
    reads = [b.expand(y, full) for y in reads]
    if count == 1:
        return [b.rename(y, STEP, TIME) for y in reads], state
    return [b.merge(y, CHUNK, STEP, TIME) for y in reads], state


def _laid_out(b: Builder, parts: Parts, x: Value, length: int, count: int) -> Value:
    """x with time as `_c` and `_i`, stored as loops and products of matrices want it: a chunk, a state's steps."""
    if TIME in x.axes:
        x = b.rename(x, TIME, STEP) if count == 1 else b.split(x, TIME, CHUNK, STEP, length)
    wanted = (CHUNK, *parts.frame.batch, STEP, RANK, ROW, KEY, VALUE)
    rest = without(x.axes, wanted)
    return b.order(x, (*rest, *(a for a in wanted if a in x.axes)), packed=True)


def _linked(b: Builder, parts: Parts, terms: Affine, formula: Segment, count: int) -> tuple[list[Value], Value]:
    """The chunks' formulas with the state handed from each to the next."""
    if count > 1:
        entering, state = _states(b, parts, terms, formula.state, count)
    else:
        entering, final = parts.initial, terms.of(formula.state).at(b, parts.initial)
        state = zero_state(b, parts) if final is None else as_state(b, parts, final)
    reads = [terms.of(term).at(b, entering) for term in formula.reads]
    return [b.const(0.0) if y is None else y for y in reads], state


def _states(b: Builder, parts: Parts, terms: Affine, change: Term, count: int) -> tuple[Value, Value]:
    """The state that enters each chunk, along `_c`, and the one that leaves the last."""
    driven, rest = terms.parted(change)
    line = terms.of(Plus(rest))
    initial = parts.initial if parts.initial is not None else zero_state(b, parts)
    slope = line.slope
    if driven or (isinstance(slope, Span) and slope.rule == "dense"):
        return _in_turn(b, terms, driven, line, initial, count)
    each = {CHUNK: count}
    offset = b.const(0.0) if line.offset is None else line.offset
    axes = (CHUNK, *initial.axes)
    offset = b.order(b.cast(b.expand(offset, {**each, **initial.sizes}), parts.kind), axes)
    offset = b.concat([b.order(b.expand(initial, {CHUNK: 1}), axes), offset], CHUNK)
    if isinstance(slope, Span):
        factor = b.pad(b.expand(slope.factor(b), each), CHUNK, 1, 0, 1.0)
        states = b.affine_scan(factor, offset, CHUNK)
    else:
        states = b.cumulate("sum", offset, CHUNK) if slope is not None else offset
    return b.slice(states, CHUNK, 0, count), b.at(states, CHUNK, count)


def _in_turn(
    b: Builder, terms: Affine, driven: Sequence[Dot], line: Line, initial: Value, count: int
) -> tuple[Value, Value]:
    """The states by a loop, with what drives the columns written down on the way."""
    change = Line(line.slope.factors(b) if isinstance(line.slope, Span) else line.slope, line.offset)
    drives = [terms.of(d.of) for d in driven]
    columns = [terms.blocks.leaving(d.block.column) for d in driven if isinstance(d.block, Leaving)]
    arrays = list(dict.fromkeys((*columns, *(x for moved in (change, *drives) for x in moved.arrays))))
    steps, constants = ([x for x in arrays if (CHUNK in x.axes) == moving] for moving in (True, False))

    def body(
        inner: Builder, carries: list[Value], here: list[Value], fixed: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        (state,) = carries
        known = dict(zip((*steps, *constants), (*here, *fixed), strict=True))
        made = [d.on(known).at(inner, state) for d in drives]
        left = [change.on(known).at(inner, state)]
        left += [_left(inner, known[y], x) for y, x in zip(columns, made, strict=True) if x is not None]
        return [inner.add(*(x for x in left if x is not None))], [state, *(x for x in made if x is not None)]

    (state,), (entering, *made) = b.scan(CHUNK, body, [initial], steps, constants, length=count)
    for d, x in zip(driven, made, strict=True):
        terms.done[d.of] = Line(None, x)
    return entering, state


def _left(b: Builder, columns: Value, x: Value) -> Value:
    """Ỹ x: what the steps leave in the state."""
    return b.contract(columns, _as_source(b, x), COLUMN)


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
    """The terms of the segment formula as lines, each computed once."""

    def __init__(self, b: Builder, blocks: Blocks) -> None:
        self.b, self.blocks = b, blocks
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
                return Line(blocks.entering(row), None)
            case Whole():
                return Line(blocks.whole or Same(), None)
            case Scores(row=row, column=column):
                scores = blocks.scores(row, column)
                return line.map(lambda x: None if scores is None else b.contract(scores, _as_source(b, x), COLUMN))
            case Leaving(column=column):
                leaving = blocks.leaving(column)
                slope, offset = line.slope, line.offset
                return Line(
                    None if slope is None else b.contract(b.rename(leaving, KEY, ROW), _as_source(b, slope), COLUMN),
                    None if offset is None else _left(b, leaving, offset),
                )
            case Resolve(row=row, column=column):
                scores = blocks.scores(row, column)
                return line if scores is None else _resolved(b, scores, line)
            case _:
                assert_never(block)

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
            case Span(rule="dense", value=value):
                return value
        eye = b.map("eq", b.iota(ROW, sizes[KEY]), b.iota(KEY, sizes[KEY]))
        return b.where(eye, 1.0 if isinstance(slope, Same) else slope.factor(b), 0.0)


def _as_source(b: Builder, x: Value) -> Value:
    """What stands on rows, put on columns."""
    return b.rename(b.rename(x, STEP, SOURCE), RANK, SOURCE_RANK)


def _resolved(b: Builder, scores: Value, line: Line) -> Line:
    """(I − L)⁻¹ of slope and offset, side by side; steps and the pairs of a low rank are one axis, the steps first."""
    slope, offset = line.slope, line.offset
    assert slope is None or isinstance(slope, Value)
    if slope is None or offset is None:
        return line.map(lambda x: _solved(b, scores, x))
    n, values = slope.size(KEY), VALUE in offset.axes
    right = b.rename(offset, VALUE, KEY) if values else b.expand(offset, {KEY: 1})
    both = _solved(b, scores, b.concat([slope, right], KEY))
    offset = b.slice(both, KEY, n, both.size(KEY))
    return Line(b.slice(both, KEY, 0, n), b.rename(offset, KEY, VALUE) if values else b.sum(offset, (KEY,)))


def _solved(b: Builder, scores: Value, x: Value) -> Value:
    if RANK not in scores.axes:
        return b.solve(scores, x, STEP, SOURCE)
    count = scores.size(RANK)
    lower = b.merge(b.merge(scores, STEP, RANK, STEP), SOURCE, SOURCE_RANK, SOURCE)
    right = b.merge(b.expand(x, {RANK: count}), STEP, RANK, STEP)
    return b.split(b.solve(lower, right, STEP, SOURCE), STEP, STEP, RANK, count)
