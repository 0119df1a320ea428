"""How far a mixer looks: which of past, present and future a result at t depends on."""

from __future__ import annotations

from collections.abc import Callable
from enum import Flag
from functools import reduce
from operator import and_, or_

from mixer_ir.expr import (
    SOURCE,
    TIME,
    Apply,
    Contract,
    Cumulate,
    Delay,
    Expr,
    Read,
    Reduce,
    Reverse,
    Run,
    Signal,
    Take,
)
from mixer_ir.matrix import (
    Band,
    Causal,
    Circulant,
    Decay,
    Diagonal,
    Entrywise,
    Flip,
    Identity,
    Mask,
    Matrix,
    Normalize,
    Product,
    Resets,
    Scale,
    Semiseparable,
    Shift,
    Softmax,
    Sum,
    Toeplitz,
    Transpose,
)
from mixer_ir.node import Node


class Reach(Flag):
    """The steps that matter, seen from t."""

    NONE = 0
    PAST = 1
    NOW = 2
    FUTURE = 4
    BEFORE = 3  # PAST | NOW
    AFTER = 6  # NOW | FUTURE
    ALL = 7

    def then(self, other: Reach) -> Reach:
        """The reach of looking this far at something that looks as far as `other`."""
        return reduce(or_, (_COMPOSED[a, b] for a in self for b in other), Reach.NONE)

    @property
    def mirrored(self) -> Reach:
        """The reach with time reversed."""
        turned = {Reach.PAST: Reach.FUTURE, Reach.NOW: Reach.NOW, Reach.FUTURE: Reach.PAST}
        return reduce(or_, (turned[a] for a in self), Reach.NONE)


_COMPOSED = {
    (a, b): b if a is Reach.NOW else (a if b in (Reach.NOW, a) else Reach.ALL)
    for a in (Reach.PAST, Reach.NOW, Reach.FUTURE)
    for b in (Reach.PAST, Reach.NOW, Reach.FUTURE)
}
KEEP_ZERO = ("add", "sub", "neg", "sqrt", "abs", "sign", "tanh", "sin", "expm1", "log1p", "erf", "real", "imag", "conj")
KEEP_ZERO = (*KEEP_ZERO, "min", "max", "relu", "silu", "gelu", "elu")


def reach_of(root: Expr, counts: Callable[[Signal], bool]) -> Reach:
    """The steps of the signals that `counts` names on which `root` at t depends."""
    memo: dict[Node, Reach] = {}

    def of(x: Node | None) -> Reach:
        if x is None:
            return Reach.NONE
        if x not in memo:
            memo[x] = step(x)
        return memo[x]

    def children(x: Node) -> Reach:
        return reduce(or_, map(of, x.children()), Reach.NONE)

    def step(x: Node) -> Reach:
        match x:
            case Signal(axes=axes):
                if not counts(x) or (TIME not in axes and SOURCE not in axes):
                    return Reach.NONE
                return Reach.ALL if SOURCE in axes else Reach.NOW
            case Contract(over=over) | Reduce(over=over) if TIME in over or SOURCE in over:
                return Reach.ALL.then(children(x))
            case Take(axis=axis) if axis in (TIME, SOURCE):
                return Reach.ALL.then(children(x))
            case Cumulate() | Run():
                return Reach.BEFORE.then(children(x))
            case Delay(of=inner, by=by, reset=reset):
                moved = Reach.PAST if by > 0 else Reach.FUTURE if by < 0 else Reach.NOW
                return moved.then(of(inner)) | (moved | Reach.NOW).then(of(reset))
            case Reverse():
                return Reach.ALL.then(children(x))
            case Read(process=process, query=query, before=before):
                return (Reach.PAST if before else Reach.BEFORE).then(children(process)) | of(query)
            case Apply(matrix=M, of=v):
                return entries_reach(M).then(of(v)) | of(M)
            case Diagonal() | Identity():
                return children(x)
            case Flip() | Circulant():
                return Reach.ALL.then(children(x))
            case Toeplitz():
                return (Reach.BEFORE if x.anti is None else Reach.ALL).then(children(x))
            case Matrix():
                return (entries_reach(x) | Reach.NOW).then(children(x))
        return children(x)

    return of(root)


def entries_reach(M: Matrix) -> Reach:
    """Where M[t, s] may differ from zero: s before, at, or after t."""
    match M:
        case Diagonal() | Identity():
            return Reach.NOW
        case Semiseparable(strict=strict):
            return Reach.PAST if strict else Reach.BEFORE
        case Toeplitz(anti=anti):
            return Reach.BEFORE if anti is None else Reach.ALL
        case Causal(of=of) | Decay(of=of):
            return entries_reach(of) & Reach.BEFORE
        case Band(of=of, before=before, after=after):
            return entries_reach(of) & _band(before, after)
        case Mask(of=of) | Normalize(of=of) | Resets(of=of) | Scale(of=of):
            return entries_reach(of)
        case Softmax(of=of):
            return counted_reach(of)
        case Transpose(of=of) | Flip(of=of):
            return entries_reach(of).mirrored
        case Shift(of=of, by=by):
            moved = Reach.PAST if by > 0 else Reach.FUTURE if by < 0 else Reach.NOW
            return moved.then(entries_reach(of))
        case Sum(terms=ms):
            return reduce(or_, map(entries_reach, ms))
        case Product(factors=ms):
            return reduce(lambda a, b: a.then(b), map(entries_reach, ms))
        case Entrywise(fn="mul", args=ms):
            return reduce(and_, map(entries_reach, ms))
        case Entrywise(fn=fn, args=ms) if fn in KEEP_ZERO:
            return reduce(or_, map(entries_reach, ms))
    return Reach.ALL


def counted_reach(M: Matrix) -> Reach:
    """Where a softmax over M counts entries: only what a mask inside leaves out does not count, a zero does."""
    match M:
        case Causal(of=of) | Decay(of=of):
            return counted_reach(of) & Reach.BEFORE
        case Band(of=of, before=before, after=after):
            return counted_reach(of) & _band(before, after)
        case Mask(of=of) | Softmax(of=of) | Normalize(of=of) | Resets(of=of) | Scale(of=of):
            return counted_reach(of)
        case Transpose(of=of) | Flip(of=of):
            return counted_reach(of).mirrored
        case Sum(terms=ms):
            return reduce(or_, map(counted_reach, ms))
        case Entrywise(fn=fn, args=ms):
            return reduce(and_ if fn == "mul" else or_, map(counted_reach, ms))
    return Reach.ALL


def _band(before: int | None, after: int | None) -> Reach:
    """The side of the diagonal on which −after ≤ t − s < before."""
    kept = Reach.PAST if (before is None or before > 1) else Reach.NONE
    if (before is None or before > 0) and (after is None or after >= 0):
        kept |= Reach.NOW
    return kept | Reach.FUTURE if (after is None or after > 0) else kept
