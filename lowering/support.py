"""Which entries of a matrix are left: by masks for a softmax, by structure for a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from lowering.grid import Grid, every
from lowering.program import Value
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import SOURCE, TIME, Signal
from mixer_ir.nodes.matrix import Matrix
from mixer_ir.nodes.node import walk


def has_source(M: Matrix) -> bool:
    """Whether a part of M is over s."""
    return any(SOURCE in x.axes for x in walk(M) if isinstance(x, Signal))


def mask(M: m.Causal | m.Band | m.Mask, on: Grid) -> Value | None:
    """What the modifier itself keeps; None: all."""
    b = on.b
    match M:
        case m.Causal():
            return b.map("le", on.s(), on.t())
        case m.Band(before=before, after=after):
            kept = [] if before is None else [b.map("lt", on.lag(), before)]
            kept += [] if after is None else [b.map("le", -after, on.lag())]
            return every(b, kept)
        case m.Mask(mask=condition):
            return on.both(condition)


def left(M: Matrix, on: Grid) -> Value | None:
    """Where a softmax of M counts: what no modifier masks, inside packed pieces and the sequence; None: everywhere.

    A masked score is −∞, and so is any sum with it: an entry of a sum counts where all of its terms do.
    """
    kept, there = _left(M, on), on.there()
    return every(on.b, [c for c in (kept, there) if c is not None])


def opened(M: Matrix) -> Matrix:
    """M without its outermost masks: the same entries wherever `left` is true."""
    match M:
        case m.Causal(of=of) | m.Band(of=of) | m.Mask(of=of):
            return opened(of)
        case m.Scale(factor=factor, of=of):
            return m.Scale(factor=factor, of=opened(of))
        case m.Sum(terms=terms):
            return m.Sum(terms=tuple(map(opened, terms)))
    return M


def _left(M: Matrix, on: Grid) -> Value | None:
    b = on.b
    match M:
        case m.Causal(of=of) | m.Band(of=of) | m.Mask(of=of):
            return _both(on, mask(M, on), _left(of, on))
        case m.Decay(of=of):
            return _both(on, b.map("le", on.s(), on.t()), _left(of, on))
        case m.Resets(of=of, reset=reset):
            return left(of, on.within(reset))
        case m.Scale(of=of) | m.Normalize(of=of) | m.Softmax(of=of):
            return _left(of, on)
        case m.Transpose(of=of):
            kept = _left(of, on.swapped())
            if kept is None:
                return None
            return b.rename(b.rename(b.rename(kept, TIME, "_t"), SOURCE, TIME), "_t", SOURCE)
        case m.Flip(of=of):
            kept = _left(of, on.backward())
            return None if kept is None else b.flip(b.flip(kept, TIME), SOURCE)
        case m.Shift(of=of, by=by):
            return _shifted(of, by, on)
        case m.Sum(terms=args) | m.Entrywise(args=args):
            return every(b, [c for c in (_left(x, on) for x in args) if c is not None])
    return None


def _shifted(of: Matrix, by: int, on: Grid) -> Value:
    b, n = on.b, on.rows.size
    on.ctx.stream.refuse("a softmax counts the entries of a shifted matrix")
    inside = b.map("and", b.map("le", by, on.t()), b.map("lt", on.t(), n + by))
    kept = left(of, on)
    if kept is None:
        return inside
    moved = b.delay(b.cast(on.full(kept), "int"), TIME, by)
    return b.map("and", inside, b.map("eq", moved, 1))


def _both(on: Grid, x: Value | None, y: Value | None) -> Value | None:
    return every(on.b, [c for c in (x, y) if c is not None])


# ---------------------------------------------------------------------- structure

ZERO_STAYS = ("neg", "sqrt", "abs", "sign", "tanh", "sin", "expm1", "log1p", "erf", "real", "imag", "conj")
"""functions of one argument that leave 0 as it is"""


def ahead(M: Matrix) -> Matrix | None:
    """The node for which rows need columns after them; None: M is causal by its structure."""
    match M:
        case m.Diagonal() | m.Identity() | m.Semiseparable():
            return None
        case m.Causal(of=of) | m.Decay(of=of):
            return shaped_ahead(of)
        case m.Toeplitz(anti=anti):
            return None if anti is None else M
        case m.Band(of=of, after=after):
            return shaped_ahead(of) if after is not None and after <= 0 else ahead(of)
        case m.Softmax(of=of):
            masked = lookahead(of)
            return shaped_ahead(of) if masked is not None and masked <= 0 else M
        case m.Mask(of=of) | m.Normalize(of=of) | m.Resets(of=of) | m.Scale(of=of):
            return ahead(of)
        case m.Shift(of=of, by=by):
            return M if by < 0 else ahead(of)
        case m.Sum(terms=parts) | m.Product(factors=parts):
            return _first(map(ahead, parts))
        case m.Entrywise(fn="mul", args=args):
            found = [ahead(x) for x in args]
            return _first(shaped_ahead(x) for x in args) if None in found else found[0]
        case m.Entrywise(fn=fn, args=args) if fn in (*ZERO_STAYS, "add", "sub", "min", "max"):
            return _first(map(ahead, args))
    return M


def _first(found: Iterable[Matrix | None]) -> Matrix | None:
    return next((x for x in found if x is not None), None)


def shaped_ahead(M: Matrix) -> Matrix | None:
    """The node whose entries up to the diagonal depend on columns after it, as those of a full softmax do; or None."""
    match M:
        case m.Softmax() | m.Normalize() | m.Product():
            return ahead(M)
        case m.Shift(by=by) if by < 0:
            return M
        case m.Transpose() | m.Flip() if any(isinstance(x, m.Softmax | m.Normalize | m.Product) for x in walk(M)):
            return M
    return _first(shaped_ahead(x) for x in M.children() if isinstance(x, Matrix))


def reach(M: Matrix, sizes: Mapping[str, int]) -> int | None:
    """How many columns before its own a row needs; None: all of them.

    A softmax, a normalisation and a product need theirs whatever is masked of them afterwards.
    """
    whole = [x for x in walk(M) if isinstance(x, m.Softmax | m.Normalize | m.Product)]
    each = [_shown(x, sizes) for x in (M, *whole)]
    return None if None in each else max(x for x in each if x is not None)


def _shown(M: Matrix, sizes: Mapping[str, int]) -> int | None:
    """How many columns before its own hold entries of a row; None: all of them."""
    match M:
        case m.Diagonal() | m.Identity():
            return 0
        case m.Toeplitz(anti=None, h=h, lags=lags) if lags != TIME and lags in h.axes:
            return sizes[lags] - 1
        case m.Band(of=of, before=before):
            return _least([None if before is None else max(before - 1, 0), _shown(of, sizes)])
        case m.Softmax(of=of):
            back = lookback(of)
            return None if back is None else max(back, 0)
        case m.Causal(of=of) | m.Scale(of=of) | m.Mask(of=of) | m.Normalize(of=of):
            return _shown(of, sizes)
        case m.Resets(of=of) | m.Decay(of=of):
            return _shown(of, sizes)
        case m.Sum(terms=parts):
            each = [_shown(x, sizes) for x in parts]
            return None if None in each else max(x for x in each if x is not None)
        case m.Entrywise(fn="mul", args=args):
            return _least([_shown(x, sizes) for x in args])
        case m.Entrywise(fn=fn, args=(of,)) if fn in ZERO_STAYS:
            return _shown(of, sizes)
    return None


def lookahead(M: Matrix) -> int | None:
    """How many columns after its own a row has that no mask takes away; None: all of them."""
    match M:
        case m.Causal(of=of) | m.Decay(of=of):
            return _least([0, lookahead(of)])
        case m.Band(of=of, after=after):
            return _least([after, lookahead(of)])
    return _by_parts(M, lookahead)


def lookback(M: Matrix) -> int | None:
    """How many columns before its own a row has that no mask takes away; None: all of them."""
    match M:
        case m.Band(of=of, before=before):
            return _least([None if before is None else before - 1, lookback(of)])
        case m.Causal(of=of) | m.Decay(of=of):
            return lookback(of)
    return _by_parts(M, lookback)


def _by_parts(M: Matrix, reach: Callable[[Matrix], int | None]) -> int | None:
    match M:
        case m.Scale(of=of) | m.Mask(of=of) | m.Resets(of=of) | m.Softmax(of=of) | m.Normalize(of=of):
            return reach(of)
        case m.Sum(terms=parts) | m.Entrywise(args=parts):
            return _least([reach(x) for x in parts])
    return None


def _least(reaches: list[int | None]) -> int | None:
    return min((n for n in reaches if n is not None), default=None)
