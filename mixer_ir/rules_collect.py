"""Rules that gather a matrix into one structure, for reading it and for its traits; applying it needs none of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from mixer_ir.algebra import ONE, ZERO, contracted, log_of, product, renamed, total
from mixer_ir.expr import TIME, Call, Delay, Expr, Index, Literal
from mixer_ir.invariance import fixed
from mixer_ir.matrix import (
    Diagonal,
    Flip,
    Identity,
    LowRank,
    Matrix,
    Product,
    Scale,
    Semiseparable,
    Sum,
    Toeplitz,
    Transpose,
)
from mixer_ir.rules_apply import driven
from mixer_ir.time_reversal import conjugated, cross

Rule = Callable[[Matrix], Matrix | None]


def scale_is_absorbed(M: Matrix) -> Matrix | None:
    """c (q kᵀ) = (c q) kᵀ,  c semiseparable(C, A, B) = semiseparable(c C, A, B),
    c diag(d) = diag(c d),  c toeplitz(h) = toeplitz(c h)"""
    match M:
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
        from_row = contracted(renamed(C, A.along, A.row), A.dense, (A.row,))
        return replace(S, C=from_row, strict=True), contracted(C, S.B, S.over)
    decay = A.factor if A.factor is not None else (None if A.log is None else Call(fn="exp", args=(A.log,)))
    parts = [C if decay is None else product(C, decay)]
    parts += [product(b, contracted(C, a, (A.along or "",))) for a, b in A.low_rank]
    return replace(S, C=total(parts), strict=True), contracted(C, S.B, S.over)


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
        case Sum() | Product() | Scale():
            inside = list(dict.fromkeys(structure_of(m) for m in M.children() if isinstance(m, Matrix)))
            return inside[0] if isinstance(M, Scale) else f"{type(M).__name__.lower()} of {', '.join(inside)}"
    return type(M).__name__.lower()
