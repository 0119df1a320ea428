"""The form `direct`: a filter applied lag by lag, for short filters."""

from __future__ import annotations

from lowering.context import Choice
from lowering.filters import filter_of
from lowering.grid import Grid
from lowering.program import Value
from mixer_ir.errors import FormError
from mixer_ir.expr import TIME, Apply


def lower(e: Apply, on: Grid, choice: Choice) -> Value:
    """y_t = Σ_l h_l v_{t−l} + Σ_l g_l v_{t+l}"""
    b, f = on.b, filter_of(e, on, "direct")
    if f.circular:
        raise FormError("a circulant matrix has no form 'direct': every row has all lags")
    n = f.reaches
    v = b.pad(f.v, TIME, 0, max(n - f.v.size(TIME), 0))
    terms = []
    for taps, sign in ((f.h, 1), (f.anti, -1)):
        if taps is None:
            continue
        first = 0 if sign > 0 else 1
        for lag in range(first, min(taps.size("_lag"), n)):
            terms.append(b.mul(b.at(taps, "_lag", lag), b.delay(v, TIME, sign * lag)))
    return f.rows(b, b.add(*terms) if terms else b.mul(v, 0.0))
