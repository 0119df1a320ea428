"""The associative scan: transitions and inputs of single steps composed pairwise, in log T rounds."""

from __future__ import annotations

from lowering.build import Builder
from lowering.decay import Span, chain
from lowering.parts import KEY, RANK, ROW, VALUE, Options, Parts, as_state, zero_state
from lowering.program import Value
from lowering.stretch import HELD, in_stretches
from mixer_ir.nodes.expr import TIME, without


def lower(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """All states at once, then the reads: S_t = (A_t, U_t) ∘ … ∘ (A_0, U_0) applied to the initial state.

    Composition is (A₂, U₂) ∘ (A₁, U₁) = (A₂ A₁, A₂ U₁ + U₂). Diagonal transitions are entry by entry: an affine scan.
    """
    sizes = parts.state_sizes
    step = parts.batch_size * sizes.get(KEY, 1) * max(sizes.get(VALUE, 1), 1 if _diagonal(parts) else sizes[KEY])
    return in_stretches(b, parts, options.stretch or max((options.held or HELD) // step, 1), _states)


def _diagonal(parts: Parts) -> bool:
    return parts.dense is None and parts.low_rank is None


def _states(b: Builder, parts: Parts) -> tuple[list[Value], Value]:
    full = {TIME: parts.steps, **parts.state_sizes}
    with b.named("written: what each step writes: k vᵀ"):
        terms = [b.mul(k, v) for k, v in parts.inputs]
        driven = b.expand(b.cast(b.add(*terms) if terms else b.const(0.0), parts.kind), full)
    with b.named("state: all states by an associative scan of the steps' transitions"):
        states = (_entrywise if _diagonal(parts) else _composed)(b, parts, driven)
    initial = parts.initial if parts.initial is not None else zero_state(b, parts)
    reads = []
    for q in parts.queries:
        seen = states
        if q.before:
            earlier = b.slice(states, TIME, 0, parts.steps - 1)
            seen = b.concat([b.expand(initial, {TIME: 1}), earlier], TIME)
        with b.named("reads: read-out: qᵀ S"):
            reads.append(b.contract(q.vector, seen, (KEY,)))
    return reads, as_state(b, parts, b.at(states, TIME, parts.steps - 1))


def _entrywise(b: Builder, parts: Parts, driven: Value) -> Value:
    """S_t = α_t ⊙ S_{t−1} + U_t."""
    decay = parts.decay
    with b.named("decay: the decay of each step"):
        factor = None if decay is None else b.map("exp", decay) if parts.logs else decay
    if parts.initial is not None:
        driven = b.concat([b.expand(parts.initial, {TIME: 1}), driven], TIME)
        if factor is not None:
            factor = b.pad(b.expand(factor, {TIME: parts.steps}), TIME, 1, 0, 1.0)
    if factor is None:
        states = b.cumulate("sum", driven, TIME)
    else:
        states = b.affine_scan(b.expand(factor, {TIME: driven.size(TIME)}), driven, TIME)
    return states if parts.initial is None else b.slice(states, TIME, 1, parts.steps + 1)


def _composed(b: Builder, parts: Parts, driven: Value) -> Value:
    """The states by composing (matrix, input) pairs."""
    alone = parts.dense if parts.low_rank is None else None
    given = transition(b, parts) if alone is None else b.cast(alone, parts.kind)
    matrices, states = _prefixes(b, b.expand(given, {TIME: parts.steps}), driven)
    if parts.initial is None:
        return states
    return b.add(states, Span(matrices, "dense").leave(b, parts.initial))


def transition(b: Builder, parts: Parts) -> Value:
    """A_t as a matrix, with the axes `_l` (new state) and `_k` (old state)."""
    n = parts.state_sizes[KEY]
    if parts.dense is not None:
        matrix = Span(parts.dense, "dense").matrix(b, n)
    else:
        decay = parts.decay
        factor = 1.0 if decay is None else b.map("exp", decay) if parts.logs else decay
        matrix = b.where(b.map("eq", b.iota(ROW, n), b.iota(KEY, n)), factor, 0.0)
    if parts.low_rank:
        x, y = parts.low_rank
        matrix = b.add(matrix, b.contract(b.rename(x, KEY, ROW), y, (RANK,)))
    return b.cast(matrix, parts.kind)


def _prefixes(b: Builder, a: Value, u: Value) -> tuple[Value, Value]:
    """All compositions from the first step on, by halving: compose neighbours, scan those, fill in the rest."""
    n = u.size(TIME)
    if n == 1:
        return a, u
    half = n // 2
    first = [b.slice(x, TIME, 0, 2 * half, 2) for x in (a, u)]
    second = [b.slice(x, TIME, 1, 2 * half, 2) for x in (a, u)]
    odd = _prefixes(b, *_composition(b, second, first))
    later = [b.slice(x, TIME, 2, n, 2) for x in (a, u)] if n > 2 else []
    if later:
        count = later[0].size(TIME)
        filled = _composition(b, later, [b.slice(x, TIME, 0, count) for x in odd])
    result = []
    for i, x in enumerate((a, u)):
        head = b.slice(x, TIME, 0, 1)
        even = b.concat([head, filled[i]], TIME) if later else head
        result.append(_interleaved(b, even, odd[i]))
    return result[0], result[1]


def _composition(b: Builder, later: list[Value], earlier: list[Value] | tuple[Value, ...]) -> list[Value]:
    a2, u2 = later
    a1, u1 = earlier
    return [chain(b, a2, a1), b.add(Span(a2, "dense").leave(b, u1), u2)]


def _interleaved(b: Builder, even: Value, odd: Value) -> Value:
    """even₀ odd₀ even₁ odd₁ …; `even` may have one more."""
    axes = (TIME, *without(even.axes, TIME))
    even, odd = b.order(even, axes), b.order(odd, axes)
    n = odd.size(TIME)
    pairs = b.concat([b.expand(b.slice(even, TIME, 0, n), {"_w": 1}), b.expand(odd, {"_w": 1})], "_w")
    joined = b.merge(pairs, TIME, "_w", TIME)
    return joined if even.size(TIME) == n else b.concat([joined, b.slice(even, TIME, n, n + 1)], TIME)
