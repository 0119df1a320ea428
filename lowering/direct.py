"""The form `direct`: a filter applied lag by lag, for short filters."""

from __future__ import annotations

from lowering.build import Builder
from lowering.context import Choice
from lowering.filters import LAG, Filter, filter_of
from lowering.grid import Grid
from lowering.program import Value
from mixer_ir.errors import FormError
from mixer_ir.expr import TIME
from mixer_ir.matrix import Apply


def lower(e: Apply, on: Grid, choice: Choice) -> Value:
    """y_t = Σ_l h_l v_{t−l} + Σ_l g_l v_{t+l}"""
    f = filter_of(e, on, "direct")
    if f.circular:
        raise FormError("a circulant matrix has no form 'direct': every row has all lags")
    return convolved(on.b, f)


def convolved(b: Builder, f: Filter) -> Value:
    """The wanted rows of the convolution, lag by lag."""
    n = f.reaches
    v = b.pad(f.v, TIME, 0, max(n - f.v.size(TIME), 0))
    terms = []
    for taps, sign in ((f.h, 1), (f.anti, -1)):
        if taps is None:
            continue
        first = 0 if sign > 0 else 1
        for lag in range(first, min(taps.size(LAG), n)):
            terms.append(b.mul(b.at(taps, LAG, lag), b.delay(v, TIME, sign * lag)))
    return f.rows(b, b.add(*terms) if terms else b.mul(v, 0.0))
