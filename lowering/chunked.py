"""The chunked form: the segment formula on all chunks at once, then a scan over the chunks' states.

The formula is affine in the incoming state: every term is a slope applied to S₀ plus an offset. Slopes and offsets of
all chunks are computed together; what remains for the scan over chunks is the change of the state,

    X = (I − L)⁻¹ (slope · S₀ + offset)      what the columns are driven by, where that depends on S₀ (W, or W + V)
    S₁ = Whole S₀ + Ỹ X + what other columns leave

where solving for X inside the scan takes fewer products, forward and backward, than solving for its slope before.
Afterwards S₀ and X are known for every chunk, and the reads are computed together as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowering.blocks import Blocks
from lowering.build import Builder, called
from lowering.decay import CHUNK, STEP, Span
from lowering.lines import Affine, Line, left_by, solved
from lowering.parts import KEY, RANK, ROW, UPDATE, VALUE, Options, Parts, as_state, zero_state
from lowering.program import Value
from lowering.segment import Dot, Leaving, Plus, Segment, Term, segment
from lowering.stretch import HELD, in_stretches
from mixer_ir.nodes.expr import TIME, without

CHUNK_LENGTH = 64
INNER = "_w"
"""The steps of a chunk, where each makes several updates: those are its rows and columns."""


def lower(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """Chunks of `options.chunk` steps (64 if not given; at most the sequence), or of so many updates."""
    length = min(max((options.chunk or CHUNK_LENGTH) // parts.updates, 1), parts.steps)
    stretch = options.stretch or _stretch(parts, length, options.held or HELD)
    chunks = _filled if options.filled else _chunks
    return in_stretches(b, parts, max(stretch // length, 1) * length, lambda b, parts: chunks(b, parts, length))


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
    reads, _, state = _together(b, parts, length, count)
    return reads, state


def _filled(b: Builder, parts: Parts, length: int) -> tuple[list[Value], Value]:
    """All chunks together, the last one filled up with zeros, which no earlier step reads.

    The state is the one after the last step that there is: of the last chunk again, where it is asked for.
    """
    count = -(-parts.steps // length)
    if count * length == parts.steps or count == 1:
        return _chunks(b, parts, length)
    more = count * length - parts.steps
    whole = parts.map(lambda x: b.longer(x, TIME, more), steps=count * length, initial=parts.initial)
    reads, entering, _ = _together(b, whole, length, count)
    assert entering is not None
    last = as_state(b, parts, b.at(entering, CHUNK, count - 1))
    _, state = _chunks(b, parts.cut(b, (count - 1) * length, parts.steps, last), length)
    return [b.slice(y, TIME, 0, parts.steps) for y in reads], state


def _together(b: Builder, parts: Parts, length: int, count: int) -> tuple[list[Value], Value | None, Value]:
    """The reads of `count` chunks, the state that enters each (along `_c` if there are several), and the last one."""
    cut = parts.map(lambda x: _laid_out(b, parts, x, length, count), steps=length, initial=parts.initial)
    formula = segment(
        before=tuple(q.before for q in parts.queries),
        pairs=len(parts.inputs),
        low_rank=parts.low_rank is not None,
        shared=parts.shared,
    )
    terms = Affine(b, Blocks(b, cut), entering=(parts.initial,) if count == 1 else None)
    reads, entering, state = _linked(b, parts, terms, formula, count)
    full = {STEP: length, **({CHUNK: count} if count > 1 else {})}
    reads = [b.expand(y, full) for y in reads]
    if count == 1:
        return [b.rename(y, STEP, TIME) for y in reads], entering, state
    return [b.merge(y, CHUNK, STEP, TIME) for y in reads], entering, state


def _laid_out(b: Builder, parts: Parts, x: Value, length: int, count: int) -> Value:
    """x with time as `_c` and `_i` (steps, or all their updates), stored as loops and products of matrices want it:
    a chunk, a state's steps.
    """
    if TIME in x.axes:
        steps = INNER if UPDATE in x.axes else STEP
        x = b.rename(x, TIME, steps) if count == 1 else b.split(x, TIME, CHUNK, steps, length)
        x = b.merge(x, INNER, UPDATE, STEP) if UPDATE in x.axes else x
    wanted = (CHUNK, *parts.frame.batch, STEP, RANK, ROW, KEY, VALUE)
    rest = without(x.axes, wanted)
    return b.order(x, (*rest, *(a for a in wanted if a in x.axes)), packed=True)


@called("reads: read-out: what the entering state gives, and the chunk's own columns")
def _linked(
    b: Builder, parts: Parts, terms: Affine, formula: Segment, count: int
) -> tuple[list[Value], Value | None, Value]:
    """The chunks' formulas with the state handed from each to the next."""
    entering = parts.initial
    if count > 1:
        entering, state = _states(b, parts, terms, formula.state, count)
    else:
        final = terms.of(formula.state).at(b, entering)
        state = zero_state(b, parts) if final is None else as_state(b, parts, final)
    reads = [terms.of(term).at(b, entering) for term in formula.reads]
    return [b.const(0.0) if y is None else y for y in reads], entering, state


@called("state: states handed from chunk to chunk")
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
    drives = [terms.unresolved(d.of) for d in driven]
    columns = [terms.blocks.leaving(d.block.column) for d in driven if isinstance(d.block, Leaving)]
    arrays = [
        *columns,
        *change.arrays,
        *(x for scores, line in drives for x in (*line.arrays, scores) if x is not None),
    ]
    arrays = list(dict.fromkeys(arrays))
    steps, constants = ([x for x in arrays if (CHUNK in x.axes) == moving] for moving in (True, False))

    def body(
        inner: Builder, carries: list[Value], here: list[Value], fixed: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        (state,) = carries
        known = dict(zip((*steps, *constants), (*here, *fixed), strict=True))
        made = [
            _driven(inner, line.on(known).at(inner, state), None if scores is None else known[scores])
            for scores, line in drives
        ]
        left = [change.on(known).at(inner, state)]
        left += [left_by(inner, known[y], x) for y, x in zip(columns, made, strict=True) if x is not None]
        with inner.named("state"):
            new = inner.add(*(x for x in left if x is not None))
        return [new], [state, *(x for x in made if x is not None)]

    (state,), (entering, *made) = b.scan(CHUNK, body, [initial], steps, constants, length=count)
    for d, x in zip(driven, made, strict=True):
        terms.done[d.of] = Line(None, x)
    return entering, state


def _driven(b: Builder, x: Value | None, scores: Value | None) -> Value | None:
    return x if x is None or scores is None else solved(b, scores, x)
