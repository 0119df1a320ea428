"""The form `direct`: a filter applied lag by lag, for short filters."""

from __future__ import annotations

from collections.abc import Callable

from lowering.build import Builder
from lowering.context import Choice
from lowering.filters import LAG, Filter, filter_of
from lowering.grid import Grid
from lowering.program import Value
from mixer_ir.errors import FormError
from mixer_ir.nodes.expr import TIME
from mixer_ir.nodes.matrix import Apply


def lower(e: Apply, on: Grid, choice: Choice) -> Value:
    """y_t = Σ_l h_l v_{t−l} + Σ_l g_l v_{t+l}"""
    f = filter_of(e, on, "direct")
    if f.circular:
        raise FormError("a circulant matrix has no form 'direct': every row has all lags")
    return convolved(on.b, f)


def convolved(b: Builder, f: Filter) -> Value:
    """The wanted rows of the convolution, lag by lag."""
    n = f.reaches
    past = min(f.h.size(LAG), n) - 1
    ahead = 0 if f.anti is None else min(f.anti.size(LAG), n) - 1
    beyond = max(n - f.v.size(TIME), 0) + ahead
    v = b.pad(f.v, TIME, past, beyond)
    pieces = None if f.pieces is None else b.pad(f.pieces, TIME, past, beyond, -1)

    def seen(lag: int) -> Value:
        here = b.slice(v, TIME, past - lag, past - lag + n)
        if pieces is None:
            return here
        at = [b.slice(pieces, TIME, past - m, past - m + n) for m in (0, lag)]
        return b.where(b.map("eq", *at), here, b.cast(b.const(0), here.kind))

    with b.named("taps: the filter, lag by lag: Σ_l h_l v_{t−l}"):
        return f.rows(b, _summed(b, f, seen, past, ahead))


def _summed(b: Builder, f: Filter, seen: Callable[[int], Value], past: int, ahead: int) -> Value:
    """Σ_l h_l v_{t−l} + Σ_l g_l v_{t+l}"""
    terms = [b.mul(b.at(f.h, LAG, lag), seen(lag)) for lag in range(past + 1)]
    if f.anti is not None:
        terms += [b.mul(b.at(f.anti, LAG, lag), seen(-lag)) for lag in range(1, ahead + 1)]
    return b.add(*terms)
