"""Rules on matrices: decays, products of entries, and the softmax over a codebook. The docstring is the identity."""

from __future__ import annotations

from dataclasses import replace

from mixer_ir.nodes.expr import SOURCE, TIME, Call, Detach, Expr, Index, Reduce, Take
from mixer_ir.nodes.matrix import (
    Causal,
    Decay,
    Diagonal,
    Entrywise,
    Identity,
    LowRank,
    Matrix,
    Normalize,
    Product,
    Scale,
    Semiseparable,
    Softmax,
    Sum,
)
from mixer_ir.nodes.process import Transition
from mixer_ir.rules.algebra import ONE, ZERO, contracted, factors, fresh, product, renamed, total
from mixer_ir.rules.time_reversal import cross

# ---------------------------------------------------------------------- decay


def decay_of_lowrank_is_semiseparable(M: Matrix) -> Matrix | None:
    """decay(q kᵀ, a)  =  semiseparable(C=q, A=a, B=k)"""
    match M:
        case Decay(of=LowRank(q=q, k=k, over=over), log=log, factor=factor) if not cross(M):
            return Semiseparable(C=q, A=Transition(log=log, factor=factor), B=k, over=over)
    return None


def decay_of_semiseparable_is_semiseparable(M: Matrix) -> Matrix | None:
    """decay(semiseparable(C, A, B), a)  =  semiseparable(C, a A, B);  strict: semiseparable(a C, a A, B)"""
    match M:
        case Decay(of=Semiseparable(C=C, A=A, strict=strict) as S, log=log, factor=factor):
            a = factor if factor is not None else Call(fn="exp", args=(_given(log),))
            return replace(S, A=slowed(A, log, factor), C=product(a, C) if strict else C)
    return None


def _given(e: Expr | None) -> Expr:
    assert e is not None
    return e


def slowed(A: Transition, log: Expr | None, factor: Expr | None) -> Transition:
    """a A, for a = exp(log) or a = factor without the state's axis."""
    a = factor if factor is not None else Call(fn="exp", args=(_given(log),))
    low_rank = tuple((product(a, x), y) for x, y in A.low_rank)
    if A.dense is not None:
        return replace(A, dense=product(a, A.dense), low_rank=low_rank)
    if A.factor is None and factor is None:
        both = total(x for x in (A.log, log) if x is not None)
        return replace(A, log=both, low_rank=low_rank)
    own = A.factor if A.log is None else Call(fn="exp", args=(A.log,))
    return replace(A, log=None, factor=a if own is None else product(a, own), low_rank=low_rank)


def decay_moves_in(M: Matrix) -> Matrix | None:
    """decay(c M) = c decay(M),  decay(A + B) = decay(A) + decay(B),  decay(causal(M)) = decay(M);
    a diagonal matrix does not decay"""
    match M:
        case Decay(of=Diagonal() | Identity() as of):
            return of
        case Decay(of=Causal(of=of)):
            return replace(M, of=of)
        case Decay(of=Scale(factor=c, of=of)):
            return Scale(factor=c, of=replace(M, of=of))
        case Decay(of=Sum(terms=terms)):
            return Sum(terms=tuple(replace(M, of=m) for m in terms))
        case Decay(of=Product(factors=(Diagonal() as d, *rest))) if not cross(M):
            return Product(factors=(d, replace(M, of=Product(factors=tuple(rest)))))
        case Decay(of=Product(factors=(*rest, Diagonal() as d))) if not cross(M):
            return Product(factors=(replace(M, of=Product(factors=tuple(rest))), d))
    return None


# ---------------------------------------------------------------------- entries and softmax


def hadamard_of_semiseparable(M: Matrix) -> Matrix | None:
    """(C1ᵀ A1… B1)(C2ᵀ A2… B2) entry by entry
    =  semiseparable(C1 ⊗ C2, A1 ⊗ A2, B1 ⊗ B2), A diagonal; so with low rank"""
    match M:
        case Entrywise(fn="mul", args=(Semiseparable() | LowRank() as x, Semiseparable() | LowRank() as y)):
            if cross(M):
                return None
            y = _apart(y, x)
            x = _apart(x, y)
            if isinstance(x, LowRank) and isinstance(y, LowRank):
                return LowRank(q=product(x.q, y.q), k=product(x.k, y.k), over=(*x.over, *y.over))
            return _hadamard(_as_semiseparable(x), _as_semiseparable(y), x, y)
    return None


def scale_leaves_entries(M: Matrix) -> Matrix | None:
    """(c A) B  =  c (A B), entry by entry"""
    match M:
        case Entrywise(fn="mul", args=(Scale(factor=c, of=of), other)):
            return Scale(factor=c, of=replace(M, args=(of, other)))
        case Entrywise(fn="mul", args=(other, Scale(factor=c, of=of))):
            return Scale(factor=c, of=replace(M, args=(other, of)))
    return None


def _apart(M: Semiseparable | LowRank, other: Semiseparable | LowRank) -> Semiseparable | LowRank:
    """M with what it sums over called by names that the other matrix has not."""
    there = _all_axes(other)
    for a in M.over:
        if a in there:
            M = _rebound(M, a, fresh(a, there | _all_axes(M)))
    return M


def _all_axes(M: Semiseparable | LowRank) -> set[str]:
    """All axes of its parts, also those that are summed over."""
    parts = (M.q, M.k) if isinstance(M, LowRank) else (M.C, M.A, M.B)
    return {*M.over, *(a for part in parts for a in part.axes)}


def _rebound(M: Semiseparable | LowRank, old: str, new: str) -> Semiseparable | LowRank:
    """The same matrix, where an axis that is summed over has another name."""
    over = tuple(new if a == old else a for a in M.over)
    if isinstance(M, LowRank):
        return replace(M, q=renamed(M.q, old, new), k=renamed(M.k, old, new), over=over)
    A = M.A.with_children(lambda part: renamed(part, old, new))
    along = new if A.along == old else A.along
    return replace(M, C=renamed(M.C, old, new), B=renamed(M.B, old, new), A=replace(A, along=along), over=over)


def _as_semiseparable(M: Semiseparable | LowRank) -> Semiseparable:
    if isinstance(M, Semiseparable):
        return M
    return Semiseparable(C=M.q, A=Transition(), B=M.k, over=M.over)


def _hadamard(x: Semiseparable, y: Semiseparable, *given: Matrix) -> Matrix | None:
    strict = [m.strict for m in given if isinstance(m, Semiseparable)]
    mixed = x.A.low_rank or y.A.low_rank or x.A.dense is not None or y.A.dense is not None
    if mixed or len(set(strict)) > 1:
        return None
    A = y.A if (x.A.log is None and x.A.factor is None) else x.A
    if A is x.A and (y.A.log is not None or y.A.factor is not None):
        A = slowed(x.A, y.A.log, y.A.factor)
    over = (*x.over, *y.over)
    return Semiseparable(C=product(x.C, y.C), A=A, B=product(x.B, y.B), over=over, strict=strict[0])


def softmax_over_codebook_is_normalized_lowrank(M: Matrix) -> Matrix | None:
    """softmax(c q · codebook[z])  =  normalize(lowrank(exp(c q · codebookᵀ), one-hot(z))), and causal on both sides;
    a row's largest exponent is taken out, which normalize undoes"""
    match M:
        case Softmax(of=of):
            inner = _codebook(of, ONE)
            return None if inner is None else Normalize(of=inner)
    return None


def _codebook(M: Matrix, scale: Expr) -> Matrix | None:
    match M:
        case Causal(of=of):
            inner = _codebook(of, scale)
            return None if inner is None else Causal(of=inner)
        case Scale(factor=c, of=of):
            return _codebook(of, product(scale, c))
        case LowRank(q=q, k=k, over=over) if (taken := _taken(k)) is not None and not cross(M):
            outside, take = taken
            row, table = product(scale, outside, q), take.table.axes
            clash = set(over) & {*scale.axes, *outside.axes, *take.index.axes} or set(over) - set(table)
            if clash or {TIME, SOURCE} & {*table, *outside.axes} or take.axis in row.axes:
                return None
            scores = contracted(row, take.table, over)
            top = Detach(of=Reduce(fn="max", of=scores, over=(take.axis,)))
            weights = Call(fn="exp", args=(Call(fn="sub", args=(scores, top)),))
            hit = Call(fn="eq", args=(take.index, Index(axis=take.axis)))
            return LowRank(q=weights, k=Call(fn="where", args=(hit, ONE, ZERO)), over=(take.axis,))
    return None


def _taken(k: Expr) -> tuple[Expr, Take] | None:
    """k as a product of a number free of time and one Take."""
    taken = [f for f in factors(k) if isinstance(f, Take)]
    if len(taken) != 1:
        return None
    return product(*(f for f in factors(k) if f is not taken[0])), taken[0]


RULES = (
    decay_of_lowrank_is_semiseparable,
    decay_of_semiseparable_is_semiseparable,
    decay_moves_in,
    scale_leaves_entries,
    hadamard_of_semiseparable,
    softmax_over_codebook_is_normalized_lowrank,
)
