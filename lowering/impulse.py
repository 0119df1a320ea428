"""Processes that are the same at every step, as convolutions with their impulse response: fft, monarch, direct.

The response h_l = qᵀ A^l k is taken apart at l = i m + j with m ≈ √T: h_l = (qᵀ A^{m i}) (A^j k). Rows and columns are
found by doubling (the first 2n of them are the first n, and these times A^n), so a response of T lags takes √T rows,
√T columns and one product; nothing is divided, and zero, negative or complex factors are exact. A diagonal A makes this
a Vandermonde product; a diagonal plus low rank or a dense one is squared as a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lowering import chunked, direct, fft, monarch
from lowering.build import Builder
from lowering.decay import Span
from lowering.filters import LAG, Filter
from lowering.parts import KEY, Options, Parts, Query
from lowering.program import Value
from lowering.scan import transition
from mixer_ir.errors import FormError
from mixer_ir.nodes.expr import TIME

FINE, COARSE = "_j", "_i"

Convolve = Callable[[Builder, Filter], Value]


def lower(b: Builder, parts: Parts, options: Options, convolve: Convolve) -> tuple[list[Value], Value]:
    """y = h ∗ v for each input, and q A^{t+1} S₋₁ for an initial state; FormError if anything but values depends on t.

    The state after the last step is that of the chunked form.
    """
    fixed = [*(k for k, _ in parts.inputs), *(q.vector for q in parts.queries), *transitions(parts)]
    if any(TIME in x.axes for x in fixed):
        raise FormError("a process that depends on t beyond its values is not a convolution")
    reads = [_read(b, parts, q, convolve) for q in parts.queries]
    _, state = chunked.lower(b, replace(parts, queries=()), options)
    return reads, state


def transitions(parts: Parts) -> list[Value]:
    return [x for x in (parts.decay, parts.dense, *(parts.low_rank or ())) if x is not None]


def _read(b: Builder, parts: Parts, q: Query, convolve: Convolve) -> Value:
    terms = []
    for k, v in parts.inputs:
        h = response(b, parts, q, k)
        signal = b.expand(v, {TIME: parts.steps})
        terms.append(convolve(b, Filter(signal, h, None, False, 0, parts.steps)))
    if parts.initial is not None:
        terms.append(b.rename(_lags(b, parts, q.vector, parts.initial, 0 if q.before else 1), LAG, TIME))
    return b.add(*terms) if terms else b.const(0.0)


def response(b: Builder, parts: Parts, q: Query, k: Value) -> Value:
    """h_l = qᵀ A^l k along the lags; one step later, and zero first, for a read before the step."""
    h = _lags(b, parts, q.vector, k, 0)
    return b.delay(h, LAG, 1) if q.before else h


def _lags(b: Builder, parts: Parts, q: Value, y: Value, first: int) -> Value:
    """qᵀ A^{l + first} y for l = 0 … T−1, along the lags."""
    step = _step(b, parts)
    q, y = b.cast(q, parts.kind), b.cast(y, parts.kind)
    if step is None:
        return b.expand(b.contract(q, y, (KEY,)), {LAG: parts.steps})
    bits = (parts.steps - 1).bit_length()
    y = step.leave(b, y) if first else y
    columns, power = b.expand(y, {FINE: 1}), step
    for _ in range(bits // 2):
        columns, power = b.concat([columns, power.leave(b, columns)], FINE), power.after(b, power)
    rows = b.expand(q, {COARSE: 1})
    for i in range(bits - bits // 2):
        power = power.after(b, power) if i else power
        rows = b.concat([rows, power.enter(b, rows)], COARSE)
    h = b.merge(b.contract(rows, columns, (KEY,)), COARSE, FINE, LAG)
    return b.slice(h, LAG, 0, parts.steps)


def _step(b: Builder, parts: Parts) -> Span | None:
    if parts.dense is not None and parts.low_rank is None:
        return Span(parts.dense, "dense")
    if parts.low_rank is not None:
        return Span(transition(b, parts), "dense")
    if parts.decay is None:
        return None
    return Span(parts.decay, "log" if parts.logs else "factor")


def by_fft(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """By Fourier transforms."""
    return lower(b, parts, options, lambda b, f: f.rows(b, fft.convolved(b, f, fft.fast(fft.padded(f)))))


def by_monarch(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """By Fourier transforms that are products of block-diagonal matrices."""
    return lower(b, parts, options, monarch.convolved)


def by_lags(b: Builder, parts: Parts, options: Options) -> tuple[list[Value], Value]:
    """Lag by lag."""
    return lower(b, parts, options, direct.convolved)
