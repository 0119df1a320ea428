"""How far a mixer looks: which of past, present and future a result at t depends on."""

from __future__ import annotations

from collections.abc import Callable
from enum import Flag
from functools import reduce
from operator import and_, or_

from mixer_ir.nodes.expr import SOURCE, TIME, Contract, Cumulate, Delay, Expr, Reduce, Reverse, Signal, Take
from mixer_ir.nodes.matrix import (
    Apply,
    Band,
    Cauchy,
    Causal,
    Circulant,
    Decay,
    Diagonal,
    Entrywise,
    Flip,
    Fourier,
    Identity,
    LowRank,
    Mask,
    Matrix,
    Monarch,
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
    Vandermonde,
)
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Read, Run


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
KEEP_ZERO: tuple[str, ...] = ("add", "sub", "neg", "sqrt", "abs", "sign", "tanh", "sin", "expm1", "log1p", "erf")
KEEP_ZERO += ("real", "imag", "conj", "min", "max", "relu", "silu", "gelu", "elu")


def reach_of(root: Expr, counts: Callable[[Signal], bool], *, across: bool = True) -> Reach:
    """The steps of the signals that `counts` names on which `root` at t depends.

    across   whether a sequence that is mixed across from counts as well, or is there as a whole at every step
    """
    return _Reader(counts, across).of(root, False)


class _Reader:
    """Reads how far expressions look. Where `mirrored`, positions run backward, signals do not.

    columns   the columns of a row at which an expression over s is read
    """

    def __init__(self, counts: Callable[[Signal], bool], across: bool) -> None:
        self.counts = counts
        self.across = across
        self.memo: dict[tuple[Node, bool, Reach], Reach] = {}

    def of(self, x: Node | None, mirrored: bool, columns: Reach = Reach.ALL) -> Reach:
        if x is None:
            return Reach.NONE
        key = (x, mirrored, columns)
        if key not in self.memo:
            self.memo[key] = self._of(x, mirrored, columns)
        return self.memo[key]

    def parts(self, x: Node, mirrored: bool, columns: Reach = Reach.ALL) -> Reach:
        return reduce(or_, (self.of(c, mirrored, columns) for c in x.children()), Reach.NONE)

    def _of(self, x: Node, mirrored: bool, columns: Reach) -> Reach:
        match x:
            case Signal(axes=axes):
                if not self.counts(x) or (TIME not in axes and SOURCE not in axes):
                    return Reach.NONE
                if mirrored:
                    return Reach.ALL
                return (Reach.NOW if TIME in axes else Reach.NONE) | (columns if SOURCE in axes else Reach.NONE)
            case Contract(over=over) | Reduce(over=over) if TIME in over or SOURCE in over:
                return Reach.ALL.then(self.parts(x, mirrored))
            case Take(axis=axis) if axis in (TIME, SOURCE):
                return Reach.ALL.then(self.parts(x, mirrored))
            case Cumulate() | Run():
                return Reach.BEFORE.then(self.parts(x, mirrored))
            case Delay(of=inner, by=by, reset=reset):
                moved = Reach.PAST if by > 0 else Reach.FUTURE if by < 0 else Reach.NOW
                return moved.then(self.of(inner, mirrored)) | (moved | Reach.NOW).then(self.of(reset, mirrored))
            case Reverse(of=inner):
                return self.of(inner, not mirrored).mirrored
            case Read(process=process, query=query, before=before):
                driven = (Reach.PAST if before else Reach.BEFORE).then(self.parts(process, mirrored))
                return driven | self.of(query, mirrored)
            case Apply(matrix=M, of=v) if TIME not in v.axes and not self.across:
                return self.rows(M, mirrored)
            case Apply(matrix=M, of=v):
                reach = entries_reach(M)
                return reach.then(self.of(v, mirrored)) | self.shape(M, reach, mirrored)
        return self.parts(x, mirrored, columns)

    def rows(self, M: Matrix, mirrored: bool) -> Reach:
        """How far row t of a matrix looks that mixes across from another sequence, all of which is there."""
        match M:
            case Shift() | Decay() | Semiseparable() | Circulant() | Fourier() | Monarch() | Transpose() | Flip():
                return Reach.ALL  # rows of other steps, or the number of rows
            case Product(factors=factors):
                turn = next((i for i, f in enumerate(factors) if _over_source(f)), len(factors) - 1)
                if any(not isinstance(f, Diagonal | Identity) for f in factors[:turn]):
                    return Reach.ALL
            case Toeplitz():
                return Reach.BEFORE.then(self.parts(M, mirrored))
        found = (
            self.rows(c, mirrored) if isinstance(c, Matrix) else self.of(c, mirrored, Reach.NONE) for c in M.children()
        )
        return reduce(or_, found, Reach.NONE)

    def shape(self, M: Matrix, kept: Reach, mirrored: bool) -> Reach:
        """How far row t looks at what shapes the entries of M that are `kept`."""
        match M:
            case Diagonal(d=d):
                return self.of(d, mirrored, Reach.NOW)
            case Circulant():
                return Reach.ALL.then(self.parts(M, mirrored))
            case Toeplitz():  # every filter value up to the longest lag
                return (Reach.ALL if Reach.FUTURE in kept else Reach.BEFORE).then(self.parts(M, mirrored))
            case Causal(of=of):
                return self.shape(of, kept & Reach.BEFORE, mirrored)
            case Band(of=of, before=before, after=after):
                return self.shape(of, kept & _band(before, after), mirrored)
            case Softmax(of=of):
                return self.shape(of, counted_reach(of), mirrored)
            case Normalize(of=of, floor=floor):
                return self.shape(of, entries_reach(of), mirrored) | self.of(floor, mirrored)
            case Flip(of=Toeplitz() as of):  # a filter counts lags, and is not reversed
                return self.shape(of, kept.mirrored, mirrored)
            case Flip(of=of):
                return self.shape(of, kept.mirrored, mirrored).mirrored
            case Shift(of=of, by=by):
                moved = Reach.PAST if by > 0 else Reach.FUTURE
                return moved.then(self.shape(of, entries_reach(of), mirrored))
            case Transpose(of=LowRank() | Vandermonde() | Cauchy() as of):  # an entry is made of what is at t and at s
                return self.shape(of, kept, mirrored)
            case Transpose(of=of):
                return kept.then(self.shape(of, Reach.ALL, mirrored))
            case Product(factors=(first, *rest)):
                return self._product(first, tuple(rest), mirrored)
            case Sum(terms=ms) | Entrywise(args=ms):
                return reduce(or_, (self.shape(m, kept, mirrored) for m in ms))
        inside = (c for c in M.children() if not isinstance(c, Matrix))
        own = reduce(or_, (self.of(c, mirrored, kept) for c in inside), Reach.NONE)
        below = (self.shape(c, kept, mirrored) for c in M.children() if isinstance(c, Matrix))
        return reduce(or_, below, (kept | Reach.NOW).then(own))

    def _product(self, first: Matrix, rest: tuple[Matrix, ...], mirrored: bool) -> Reach:
        reach = entries_reach(first)
        made = self.shape(first, reach, mirrored)
        return made | reach.then(self._product(rest[0], rest[1:], mirrored)) if rest else made


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
        case Sum(terms=ms) | Entrywise(args=ms):
            return reduce(and_, map(counted_reach, ms))
    return Reach.ALL


def _over_source(M: Matrix) -> bool:
    """Whether a factor has parts over s: the first one turns from t to s; a diagonal one does not."""
    return not isinstance(M, Diagonal) and any(isinstance(x, Signal) and SOURCE in x.axes for x in walk(M))


def _band(before: int | None, after: int | None) -> Reach:
    """The side of the diagonal on which −after ≤ t − s < before."""
    kept = Reach.PAST if (before is None or before > 1) else Reach.NONE
    if (before is None or before > 0) and (after is None or after >= 0):
        kept |= Reach.NOW
    return kept | Reach.FUTURE if (after is None or after > 0) else kept
