"""The entries of every matrix by its definition, on a grid of rows and columns: the form `dense`."""

from __future__ import annotations

import math
from typing import assert_never

from lowering import support
from lowering.grid import Grid, Span
from lowering.program import Value
from lowering.states import semiseparable
from mixer_ir.errors import DeclarationError
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import SOURCE, TIME, Expr
from mixer_ir.nodes.matrix import Matrix


def entries(M: Matrix, on: Grid) -> Value:
    """M[t, s], zero between packed pieces and before the beginning; with the axes t and s, or fewer."""
    value, there = bare(M, on), on.there()
    return value if there is None else zero_unless(on, there, value)


def zero_unless(on: Grid, condition: Value, value: Value) -> Value:
    """The value where the condition holds, else 0."""
    return on.b.where(condition, value, on.b.cast(on.b.const(0), value.kind))


def bare(M: Matrix, on: Grid) -> Value:
    """M[t, s] where rows and columns are there; elsewhere anything."""
    b = on.b
    match M:
        case m.Diagonal(d=d):
            return zero_unless(on, b.map("eq", on.t(), on.s()), on.row(d))
        case m.Identity():
            return b.cast(b.map("eq", on.t(), on.s()), "real")
        case m.LowRank(q=q, k=k, over=over):
            return b.contract(on.ctx.filled(on.row(q), over), on.ctx.filled(on.col(k), over), over)
        case m.Semiseparable():
            return semiseparable(M, on)
        case m.Toeplitz():
            return toeplitz(M, on)
        case m.Circulant(h=h):
            on.ctx.stream.refuse("a circulant matrix wraps around the end of the sequence")
            return _at_lag(on, h, TIME, b.map("mod", on.lag(), on.rows.size))
        case m.Vandermonde(x=x, weight=weight, over=over):
            powers = b.map("pow", on.row(x), on.position_of(on.cols, SOURCE))
            return b.sum(on.ctx.filled(powers if weight is None else b.mul(on.row(weight), powers), over), over)
        case m.Cauchy(x=x, y=y, over=over):
            return b.sum(on.ctx.filled(b.map("div", 1.0, b.sub(on.row(x), on.col(y))), over), over)
        case m.Fourier(inverse=inverse):
            return fourier(on, inverse)
        case m.Monarch():
            return monarch(M, on)
        case m.Dense(m=x):
            return on.both(x)
        case m.Causal(of=of) | m.Band(of=of) | m.Mask(of=of):
            kept = support.mask(M, on)
            return bare(of, on) if kept is None else zero_unless(on, kept, bare(of, on))
        case m.Decay(of=of):
            return b.mul(decay(M, on), bare(of, on))
        case m.Softmax(of=of):
            return softmax(of, on)
        case m.Normalize(of=of, eps=eps, floor=floor):
            return normalized(of, eps, floor, on)
        case m.Transpose(of=of):
            return swapped(on, bare(of, on.swapped()))
        case m.Flip(of=of):
            return b.flip(b.flip(bare(of, on.backward()), TIME), SOURCE)
        case m.Shift(of=of, by=by):
            return shifted(of, by, on)
        case m.Resets(of=of, reset=reset):
            return entries(of, on.within(reset))
        case m.Sum(terms=terms):
            return b.add(*(bare(term, on) for term in terms))
        case m.Product(factors=factors):
            return product(factors, on)
        case m.Scale(factor=factor, of=of):
            return b.mul(on.ctx.of(factor), bare(of, on))
        case m.Entrywise(fn=fn, args=args):
            return b.map(fn, *(entries(arg, on) for arg in args))
        case _:
            assert_never(M)  # type: ignore[arg-type]  # the base Matrix has no entries


def swapped(on: Grid, value: Value) -> Value:
    """t for s and s for t."""
    b = on.b
    return b.rename(b.rename(b.rename(value, TIME, "_t"), SOURCE, TIME), "_t", SOURCE)


# ---------------------------------------------------------------------- leaves


def _at_lag(on: Grid, h: Expr, lags: str, lag: Value, first: Value | None = None) -> Value:
    """h[lag], zero where there is no such lag; `first` is the lag of the first entry at hand."""
    b = on.b
    filt = on.filters.of(h) if first is None else on.ctx.history(h, None)
    if lags not in filt.axes:
        return zero_unless(on, b.map("le", 0, lag), filt)
    n = filt.size(lags)
    place = lag if first is None else b.sub(lag, first)
    inside = b.map("and", b.map("le", 0, lag), b.map("lt", place, n))
    picked = b.take(b.rename(filt, lags, "_lag"), "_lag", b.map("clamp", place, 0, n - 1))
    return zero_unless(on, inside, picked)


def toeplitz(M: m.Toeplitz, on: Grid) -> Value:
    """h[t − s] for s ≤ t, g[s − t] for s > t. In a stream, a filter over t arrives lag by lag."""
    b, lag, first = on.b, on.lag(), None
    if on.ctx.stream.active and M.lags == TIME and TIME in M.h.axes:
        first = b.sub(on.start(), on.ctx.stream.before(None))
    below = _at_lag(on, M.h, M.lags, lag, first)
    if M.anti is None:
        return below
    back = b.map("neg", lag)
    return b.add(below, zero_unless(on, b.map("lt", 0, back), _at_lag(on, M.anti, M.lags, back)))


def fourier(on: Grid, inverse: bool) -> Value:
    """exp(∓2πi t s / T)"""
    on.ctx.stream.refuse("the entries of a Fourier matrix depend on the length of the sequence")
    b, n = on.b, on.rows.size
    turns = b.map("mod", b.mul(on.t(), on.s()), n)
    values = b.map("exp", b.mul(turns, complex(0, (2 if inverse else -2) * math.pi / n)))
    return b.mul(values, 1 / n) if inverse else values


def monarch(M: m.Monarch, on: Grid) -> Value:
    """left[i; j, l] · right[l; i, k] at t = (i, j), s = (k, l)."""
    on.ctx.stream.refuse("a Monarch matrix lays the whole sequence out on a grid")
    b, ((i, l), (k, j)) = on.b, (M.grid, M.rows)
    blocks = on.ctx.filled(b.mul(on.ctx.of(M.left), on.ctx.of(M.right)), (i, j, k, l))
    return b.merge(b.merge(blocks, i, j, TIME), k, l, SOURCE)


# ---------------------------------------------------------------------- modifiers


def decay(M: m.Decay, on: Grid) -> Value:
    """a_t … a_{s+1} for s ≤ t, else 0: sums of the steps between them alone, so that no digits cancel."""
    b = on.b
    given = M.log if M.log is not None else M.factor
    if given is None:
        raise DeclarationError("a decay needs its log or its factor")
    if on.cross:
        on.ctx.stream.refuse("a decay of cross mixing multiplies up the steps from the position of each key on")
    steps = on.steps()
    low = steps.low
    a = on.timeline(given, steps)
    between = b.map("lt", on.s(), b.add(b.iota(TIME, steps.size), low))
    fn, neutral = ("sum", 0) if M.log is not None else ("prod", 1)
    total = b.cumulate(fn, b.where(between, a, b.cast(b.const(neutral), a.kind)), TIME)
    total = b.slice(total, TIME, on.rows.low - low, on.rows.high - low)
    total = b.map("exp", total) if M.log is not None else total
    return zero_unless(on, b.map("le", on.s(), on.t()), total)


def softmax(of: Matrix, on: Grid) -> Value:
    """exp(x) / Σ exp(x) over the entries that are left; a row with none is 0."""
    b = on.b
    x, kept = on.full(bare(support.opened(of), on)), support.left(of, on)
    x = b.cast(x, "real") if x.kind in ("bool", "int") else x
    if kept is None:
        weights = b.map("exp", b.sub(x, b.detach(b.reduce("max", x, (SOURCE,)))))
        return b.map("div", weights, b.sum(weights, (SOURCE,)))
    low = b.where(kept, x, -math.inf)
    top = b.map("max", b.detach(b.reduce("max", low, (SOURCE,))), -1e30)
    weights = b.map("exp", b.sub(low, top))
    total = b.sum(weights, (SOURCE,))
    return b.map("div", weights, b.where(b.map("eq", total, 0.0), 1.0, total))


def normalized(of: Matrix, eps: float, floor: Expr | None, on: Grid) -> Value:
    """Rows over their sums."""
    b, x = on.b, on.full(entries(of, on))
    n = b.sum(x, (SOURCE,))
    n = b.add(n, eps) if eps else n
    return b.map("div", x, n if floor is None else b.map("max", b.map("abs", n), on.row(floor)))


def shifted(of: Matrix, by: int, on: Grid) -> Value:
    """Row t is row t − by."""
    b = on.b
    if not on.ctx.stream.active:
        return b.delay(on.full(entries(of, on)), TIME, by)
    if on.cross:
        on.ctx.stream.refuse("a shifted matrix of cross mixing has rows of earlier steps")
    first = on.cols.low if on.cols.axis == TIME else 0
    rows = Span(max(on.rows.low - by, first), max(on.rows.high - by, first), TIME, True)
    earlier = on.over(rows, on.cols)
    return b.pad(earlier.full(entries(of, earlier)), TIME, on.rows.size - rows.size, 0)


def product(factors: tuple[Matrix, ...], on: Grid) -> Value:
    """Columns of each factor are rows of the next; the first factor with parts over s turns from t to s."""
    b = on.b
    across = [not isinstance(f, m.Diagonal) and support.has_source(f) for f in factors]
    turn = across.index(True) if on.cross and True in across else len(factors) - 1
    if on.cross and any(not isinstance(f, m.Diagonal | m.Identity) for f in factors[:turn]):
        on.ctx.stream.refuse("a product mixes along t before it mixes across from s")
    inside = on.cols if not on.cross else on.rows
    total: Value | None = None
    for i, factor in enumerate(factors):
        rows = on.rows if i == 0 else inside if i <= turn else on.cols
        cols = on.cols if i >= turn or i == len(factors) - 1 else inside
        grid = on.over(rows, cols)
        here = grid.full(entries(factor, grid))
        total = here if total is None else b.contract(b.rename(total, SOURCE, "_"), b.rename(here, TIME, "_"), ("_",))
    if total is None:
        raise DeclarationError("a product of no matrices")
    return total
