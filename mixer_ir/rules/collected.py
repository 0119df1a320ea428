"""Rules that gather a matrix into one structure, for reading it and for its traits; applying it needs none of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from mixer_ir.nodes.expr import TIME, Call, Delay, Expr, Index, Join, Literal
from mixer_ir.nodes.matrix import (
    Diagonal,
    Flip,
    Identity,
    LowRank,
    Matrix,
    Product,
    Resets,
    Scale,
    Semiseparable,
    Sum,
    Toeplitz,
    Transpose,
)
from mixer_ir.nodes.process import Transition
from mixer_ir.rules.algebra import ONE, ZERO, contracted, is_zero, log_of, ones, product, renamed, total, zeros
from mixer_ir.rules.applied import driven
from mixer_ir.rules.invariance import fixed
from mixer_ir.rules.time_reversal import conjugated, cross

Rule = Callable[[Matrix], Matrix | None]


def scale_is_absorbed(M: Matrix) -> Matrix | None:
    """c (q kᵀ) = (c q) kᵀ,  c semiseparable(C, A, B) = semiseparable(c C, A, B),
    c diag(d) = diag(c d),  c toeplitz(h) = toeplitz(c h)"""
    match M:
        case Scale(factor=c, of=Identity()):
            return Diagonal(d=c)
        case Scale(factor=c, of=Diagonal(d=d)):
            return Diagonal(d=product(c, d))
        case Scale(factor=c, of=Toeplitz(h=h, anti=anti) as of) if of.lags not in c.axes:
            return replace(of, h=product(c, h), anti=None if anti is None else product(c, anti))
        case Scale(factor=c, of=of):
            return _rows_scaled(c, of)
    return None


def diagonal_is_absorbed(M: Matrix) -> Matrix | None:
    """diag(d) q kᵀ = (d q) kᵀ,  diag(d) semiseparable(C, A, B) = semiseparable(d C, A, B);  from the right by k, B"""
    match M:
        case Product(factors=fs) if not cross(M):
            for i, (x, y) in enumerate(itertools.pairwise(fs)):
                new: Matrix | None = None
                if isinstance(x, Diagonal):
                    new = _rows_scaled(x.d, y)
                if new is None and isinstance(y, Diagonal):
                    new = _columns_scaled(x, y.d)
                if new is not None:
                    return Product(factors=(*fs[:i], new, *fs[i + 2 :]))
    return None


def _rows_scaled(d: Expr, M: Matrix) -> Matrix | None:
    """diag(d) M, for a leaf M that takes it."""
    match M:
        case LowRank(q=q, over=over) if not set(d.axes) & set(over):
            return replace(M, q=product(d, q))
        case Semiseparable(C=C, A=A, over=over) if not set(d.axes) & {*over, A.row}:
            return replace(M, C=product(d, C))
        case Flip(of=Semiseparable() as of):
            inner = _rows_scaled(conjugated(d), of)
            return None if inner is None else Flip(of=inner)
    return None


def _columns_scaled(M: Matrix, d: Expr) -> Matrix | None:
    """M diag(d), for a leaf M that takes it."""
    match M:
        case LowRank(k=k, over=over) if not set(d.axes) & set(over):
            return replace(M, k=product(k, d))
        case Semiseparable(B=B, A=A, over=over) if not set(d.axes) & {*over, A.row}:
            return replace(M, B=product(B, d))
        case Flip(of=Semiseparable() as of):
            inner = _columns_scaled(of, conjugated(d))
            return None if inner is None else Flip(of=inner)
    return None


def strict_and_diagonal(S: Semiseparable) -> tuple[Semiseparable, Expr]:
    """semiseparable(C, A, B)  =  semiseparable(Aᵀ C, A, B, strict) + diag(Cᵀ B)"""
    A, C = S.A, S.C
    if A.dense is not None:
        assert A.row is not None and A.along is not None
        decayed = contracted(renamed(C, A.along, A.row), A.dense, (A.row,))
    else:
        decayed = C if A.log is None and A.factor is None else product(C, _decay(A))
    over = (A.along or "", *A.beside)
    parts = [decayed, *(product(b, contracted(C, a, over)) for a, b in A.low_rank)]
    return replace(S, C=total(parts), strict=True), contracted(C, S.B, S.over)


def sum_of_semiseparable_is_stacked(M: Matrix) -> Matrix | None:
    """semiseparable(C1, A1, B1) + semiseparable(C2, A2, B2)  =  semiseparable([C1; C2], diag(A1, A2), [B1; B2])"""
    match M:
        case Sum(terms=terms):
            for strict in (False, True):
                same = [
                    (i, m)
                    for i, m in enumerate(terms)
                    if isinstance(m, Semiseparable) and m.strict == strict and _stackable(m)
                ]
                if len(same) > 1:
                    (i, x), (j, y) = same[:2]
                    rest = (m for at, m in enumerate(terms) if at not in (i, j))
                    return Sum(terms=(stack(x, y, x.C, y.C, x.B, y.B, ()), *rest))
    return None


def product_of_semiseparable_is_stacked(M: Matrix) -> Matrix | None:
    """semiseparable(C1, A1, B1) semiseparable(C2, A2, B2)
    =  semiseparable([C1; 0], [A1, B1 (A2ᵀ C2)ᵀ; 0, A2], [B1 (C2ᵀ B2); B2]):  the second state drives the first"""
    match M:
        case Product(factors=fs):
            for i, (x, y) in enumerate(itertools.pairwise(fs)):
                if isinstance(x, Semiseparable) and isinstance(y, Semiseparable) and _stackable(x) and _stackable(y):
                    late, now = (y.C, ZERO) if y.strict else _late_and_now(y)
                    n1, n2 = x.over[0], y.over[0]
                    pair = ((x.B, zeros(n2)), (zeros(n1), late))
                    B1 = product(x.B, now) if now is not ZERO else zeros(n1)
                    return Product(factors=(*fs[:i], stack(x, y, x.C, zeros(n2), B1, y.B, (pair,)), *fs[i + 2 :]))
    return None


def _late_and_now(S: Semiseparable) -> tuple[Expr, Expr]:
    strict, d = strict_and_diagonal(S)
    return strict.C, d


def _stackable(S: Semiseparable) -> bool:
    """Whether the state has one axis, which every part that is stacked can carry, and no dense transition."""
    return len(S.over) == 1 and S.A.dense is None and "+" not in S.over[0]


Pair = tuple[tuple[Expr, Expr], tuple[Expr, Expr]]


def stack(
    x: Semiseparable, y: Semiseparable, C1: Expr, C2: Expr, B1: Expr, B2: Expr, pairs: tuple[Pair, ...]
) -> Semiseparable:
    """The states of x and y as one, with other C and B, and low-rank pairs on top of the two transitions.

    The new state axis is called after both: `n+m` holds the n entries of the first, then the m of the second.
    """
    along = (x.over[0], y.over[0])
    axis = "+".join(along)

    def both(first: Expr, second: Expr) -> Expr:
        given = zip((first, second), along, strict=True)
        parts = (p if a in p.axes else zeros(a) if is_zero(p) else product(p, ones(a)) for p, a in given)
        return Join(parts=tuple(parts), along=along, axis=axis)

    z1, z2 = (zeros(a) for a in along)
    own = [((a, z2), (b, z2)) for a, b in x.A.low_rank] + [((z1, a), (z1, b)) for a, b in y.A.low_rank]
    low_rank = tuple((both(*a), both(*b)) for a, b in (*own, *pairs))
    given = [A for A in (x.A, y.A) if A.log is not None or A.factor is not None]
    log = factor = None
    if given and all(A.factor is None for A in given):
        log = both(*(ZERO if A.log is None else A.log for A in (x.A, y.A)))
    elif given:
        factor = both(_decay(x.A), _decay(y.A))
    A = Transition(along=axis if low_rank else None, log=log, factor=factor, low_rank=low_rank)
    return Semiseparable(C=both(C1, C2), A=A, B=both(B1, B2), over=(axis,), strict=x.strict)


def _decay(A: Transition) -> Expr:
    """The diagonal of a transition."""
    return A.factor if A.factor is not None else (ONE if A.log is None else Call(fn="exp", args=(A.log,)))


def sum_is_quasiseparable(M: Matrix) -> Matrix | None:
    """a sum of semiseparable matrices of both directions  =  strict ones forward + strict ones backward + a diagonal"""
    match M:
        case Sum(terms=terms) if all(_one_way(m) for m in terms):
            forward: list[Matrix] = []
            backward: list[Matrix] = []
            diagonal: list[Expr] = []
            for m in terms:
                match m:
                    case Semiseparable(strict=True):
                        forward.append(m)
                    case Flip(of=Semiseparable(strict=True)):
                        backward.append(m)
                    case Semiseparable():
                        strict, d = strict_and_diagonal(m)
                        forward.append(strict)
                        diagonal.append(d)
                    case Flip(of=Semiseparable() as of):
                        strict, d = strict_and_diagonal(of)
                        backward.append(Flip(of=strict))
                        diagonal.append(conjugated(d))
                    case Diagonal(d=d):
                        diagonal.append(d)
                    case Identity():
                        diagonal.append(ONE)
            if not forward or not backward:
                return None
            made = Sum(terms=(*forward, *backward, *([Diagonal(d=total(diagonal))] if diagonal else [])))
            return None if made is M else made
    return None


def _one_way(M: Matrix) -> bool:
    return isinstance(M, Semiseparable | Diagonal | Identity) or (
        isinstance(M, Flip) and isinstance(M.of, Semiseparable)
    )


def time_invariant_semiseparable_is_toeplitz(M: Matrix) -> Matrix | None:
    """semiseparable(C, A, B)  =  toeplitz(h), h_n = Cᵀ Aⁿ B, where C, A, B are free of t;  strict: h one step late"""
    match M:
        case Semiseparable(C=C, A=A, B=B, over=over, strict=strict) if fixed(C, A, B):
            log = A.log if A.log is not None else (None if A.factor is None else log_of(A.factor))
            if A.dense is None and not A.low_rank and log is not None:
                powers = Call(fn="exp", args=(Call(fn="mul", args=(Index(axis=TIME), log)),))
                h = contracted(product(C, B), powers, over)
            else:
                first = Call(fn="eq", args=(Index(axis=TIME), Literal(value=0)))
                impulse = Call(fn="where", args=(first, ONE, ZERO))
                h = driven(replace(M, strict=False), impulse, None)
            return Toeplitz(h=Delay(of=h, by=1) if strict else h)
    return None


RULES: tuple[Rule, ...] = (
    scale_is_absorbed,
    diagonal_is_absorbed,
    sum_is_quasiseparable,
    time_invariant_semiseparable_is_toeplitz,
    sum_of_semiseparable_is_stacked,
    product_of_semiseparable_is_stacked,
)


def structure_of(M: Matrix) -> str:
    """What a gathered matrix is, in a word or two."""
    match M:
        case Semiseparable():
            return "semiseparable"
        case Flip(of=Semiseparable()) | Transpose(of=Semiseparable()):
            return "semiseparable backward in time"
        case Sum(terms=terms) if all(_one_way(m) for m in terms):
            both = any(isinstance(m, Flip) for m in terms) and any(isinstance(m, Semiseparable) for m in terms)
            return "quasiseparable" if both else "semiseparable"
        case LowRank():
            return "low-rank"
        case Resets(of=of):
            return f"{structure_of(of)} on packed pieces"
        case Sum() | Product() | Scale():
            inside = list(dict.fromkeys(structure_of(m) for m in M.children() if isinstance(m, Matrix)))
            return inside[0] if isinstance(M, Scale) else f"{type(M).__name__.lower()} of {', '.join(inside)}"
    return type(M).__name__.lower()
