"""The chunked form: the segment formula on all chunks at once, then a scan over the chunks' states.

The formula is affine in the incoming state: every term is a slope applied to S₀ plus an offset. Slopes and offsets of
all chunks are computed together; what remains for the scan over chunks is S₁ = slope · S₀ + offset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from lowering.stretch import in_stretches
from mixer_ir.expr import TIME, without

CHUNK_LENGTH = 64
HELD = 1 << 22
"""Entries of one array that may be held at once before a sequence is cut into stretches."""
COLUMN = (SOURCE, SOURCE_RANK)


def lower(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """Chunks of `options.chunk` steps (64 if not given; at most the sequence); the last one may be shorter."""
    length = min(options.chunk or CHUNK_LENGTH, parts.steps)
    stretch = options.stretch or _stretch(parts, length)
    return in_stretches(b, parts, max(stretch // length, 1) * length, lambda b, parts: _chunks(b, parts, length))


def parallel(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """The whole sequence as one chunk."""
    return _chunks(b, parts, parts.steps)


def _stretch(parts: Parts, length: int) -> int:
    sizes = parts.state_sizes
    step = parts.batch_size * max(sizes.get(KEY, 1), sizes.get(VALUE, 1), length)
    return parts.steps if parts.steps * step <= HELD else max(HELD // 4 // step, length)


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
    """x with time as `_c` and `_i`, stored as the products of matrices want it: the steps of a chunk together."""
    if TIME in x.axes:
        x = b.rename(x, TIME, STEP) if count == 1 else b.split(x, TIME, CHUNK, STEP, length)
    wanted = (*parts.frame.batch, CHUNK, STEP, RANK, ROW, KEY, VALUE)
    rest = without(x.axes, wanted)
    return b.order(x, (*rest, *(a for a in wanted if a in x.axes)), packed=True)


def _linked(b: Builder, parts: Parts, terms: Affine, formula: Segment, count: int) -> tuple[list[Value], Value]:
    """The chunks' formulas with the state handed from each to the next."""
    change = terms.of(formula.state)
    reads = [terms.of(term) for term in formula.reads]
    if count == 1:
        state = change.at(b, parts.initial)
        state = zero_state(b, parts) if state is None else as_state(b, parts, state)
        return [_some(b, y.at(b, parts.initial)) for y in reads], state
    entering, state = _states(b, parts, change, count)
    return [_some(b, y.at(b, entering)) for y in reads], state


def _some(b: Builder, x: Value | None) -> Value:
    return b.const(0.0) if x is None else x


def _states(b: Builder, parts: Parts, change: Line, count: int) -> tuple[Value, Value]:
    """The state that enters each chunk, along `_c`, and the one that leaves the last."""
    initial = parts.initial if parts.initial is not None else zero_state(b, parts)
    each = {CHUNK: count}
    offset = b.expand(_some(b, change.offset), each)
    slope = change.slope
    if (isinstance(slope, Span) and slope.rule != "dense") or slope is None or isinstance(slope, Same):
        offset = b.cast(b.expand(offset, parts.state_sizes), parts.kind)
        driven = b.concat([b.expand(initial, {CHUNK: 1}), offset], CHUNK)
        if isinstance(slope, Span):
            factor = b.pad(b.expand(slope.factor(b), each), CHUNK, 1, 0, 1.0)
            states = b.affine_scan(factor, driven, CHUNK)
        else:
            states = b.cumulate("sum", driven, CHUNK) if slope is not None else driven
        return b.slice(states, CHUNK, 0, count), b.at(states, CHUNK, count)
    matrix = slope.value if isinstance(slope, Span) else slope

    def body(
        inner: Builder, carries: list[Value], here: list[Value], fixed: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        (state,) = carries
        moved = inner.contract(here[1] if len(here) == 2 else fixed[0], state, (KEY,))
        return [inner.add(inner.rename(moved, ROW, KEY), here[0])], [state]

    moving = CHUNK in matrix.axes
    steps, constants = ([offset, matrix], []) if moving else ([offset], [matrix])
    (state,), (entering,) = b.scan(CHUNK, body, [initial], steps, constants, length=count)
    return entering, state


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
                    None if offset is None else b.contract(leaving, _as_source(b, offset), COLUMN),
                )
            case Resolve(row=row, column=column):
                scores = blocks.scores(row, column)
                return line if scores is None else line.map(lambda x: _resolved(b, scores, x))
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


def _resolved(b: Builder, scores: Value, x: Value) -> Value:
    """(I − L)⁻¹ x; steps and the pairs of a low rank are one axis, the steps first."""
    if RANK not in scores.axes:
        return b.solve(scores, x, STEP, SOURCE)
    count = scores.size(RANK)
    lower = b.merge(b.merge(scores, STEP, RANK, STEP), SOURCE, SOURCE_RANK, SOURCE)
    right = b.merge(b.expand(x, {RANK: count}), STEP, RANK, STEP)
    return b.split(b.solve(lower, right, STEP, SOURCE), STEP, STEP, RANK, count)
