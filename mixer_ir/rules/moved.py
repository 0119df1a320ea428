"""Rules on matrices that move transpose, flip and shift to the leaves. The docstring is the identity."""

from __future__ import annotations

from dataclasses import replace

from mixer_ir.nodes.expr import SOURCE, TIME, Call, Delay, Expr, Index, Literal, Reverse
from mixer_ir.nodes.matrix import (
    Band,
    Cauchy,
    Causal,
    Circulant,
    Dense,
    Diagonal,
    Entrywise,
    Flip,
    Fourier,
    Identity,
    LowRank,
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
from mixer_ir.nodes.process import Transition
from mixer_ir.rules.algebra import MINUS, ZERO, renamed
from mixer_ir.rules.reset import RULES as RESETS
from mixer_ir.rules.reset import SCORES as RESET_SCORES
from mixer_ir.rules.time_reversal import conjugated, cross, pointwise

# ---------------------------------------------------------------------- transpose


def transpose_moves_in(M: Matrix) -> Matrix | None:
    """(A + B)ᵀ = Aᵀ + Bᵀ,  (A B)ᵀ = Bᵀ Aᵀ,  (Mᵀ)ᵀ = M,
    f(A)ᵀ = f(Aᵀ) entry by entry,  (J M J)ᵀ = J Mᵀ J"""
    if not isinstance(M, Transpose):
        return None
    match M.of:
        case Transpose(of=of):
            return of
        case Scale(factor=c, of=of):
            return Scale(factor=c, of=Transpose(of=of))
        case Sum(terms=terms):
            return Sum(terms=tuple(Transpose(of=m) for m in terms))
        case Product(factors=fs) if not cross(M):
            return Product(factors=tuple(Transpose(of=m) for m in reversed(fs)))
        case Entrywise(fn=fn, args=args):
            return Entrywise(fn=fn, args=tuple(Transpose(of=m) for m in args))
        case Flip(of=of):
            return Flip(of=Transpose(of=of))
        case Resets(of=of, reset=reset):
            return Resets(of=Transpose(of=of), reset=reset)
        case Causal(of=of):
            return Band(of=Transpose(of=of), before=1, after=None)
        case Band(of=of, before=before, after=after):
            return _mirrored(Transpose(of=of), before, after)
        case Mask(of=of, mask=mask) if TIME in mask.axes and SOURCE in mask.axes:
            return Mask(of=Transpose(of=of), mask=exchanged(mask))
    return None


def transposed_shift(M: Matrix) -> Matrix | None:
    """shift(M, n)ᵀ  =  Mᵀ shift(I, −n)"""
    match M:
        case Transpose(of=Shift(of=of, by=by)) if not cross(M):
            return Product(factors=(Transpose(of=of), Shift(of=Identity(), by=-by)))
    return None


def _mirrored(of: Matrix, before: int | None, after: int | None) -> Matrix:
    """−after ≤ s − t < before, as a band."""
    return Band(of=of, before=None if after is None else after + 1, after=None if before is None else before - 1)


def exchanged(x: Expr) -> Expr:
    """x with the axes t and s called the other way."""
    return renamed(renamed(renamed(x, TIME, "t_"), SOURCE, TIME), "t_", SOURCE)


def transposed_leaf(M: Matrix) -> Matrix | None:
    """diag(d)ᵀ = diag(d),  (q kᵀ)ᵀ = k qᵀ,  toeplitz(h, anti=g)ᵀ = toeplitz(g, anti=h) (lag 0 of h),  Fᵀ = F,
    cauchy(x, y)ᵀ = −cauchy(y, x),  circulant(h)ᵀ = circulant(h at −lag)"""
    if not isinstance(M, Transpose):
        return None
    match M.of:
        case Diagonal() | Identity() | Fourier() as symmetric:
            return symmetric
        case LowRank(q=q, k=k, over=over) if not cross(M):
            return LowRank(q=k, k=q, over=over)
        case Toeplitz() as of:
            return mirrored_toeplitz(of)
        case Circulant(h=h) if TIME in h.axes:
            return Circulant(h=_at_first(h, Delay(of=Reverse(of=h), by=1), TIME))
        case Cauchy(x=x, y=y, over=over) if not cross(M):
            return Scale(factor=MINUS, of=Cauchy(x=y, y=x, over=over))
        case Dense(m=m) if TIME in m.axes and SOURCE in m.axes:
            return Dense(m=exchanged(m))
    return None


def _at_first(first: Expr, rest: Expr, axis: str) -> Expr:
    """`first` at position 0, else `rest`."""
    return Call(fn="where", args=(Call(fn="eq", args=(Index(axis=axis), Literal(value=0))), first, rest))


def mirrored_toeplitz(M: Toeplitz) -> Toeplitz:
    """J T J = Tᵀ"""
    anti = ZERO if M.anti is None else M.anti
    return Toeplitz(h=_at_first(M.h, anti, M.lags), anti=M.h, lags=M.lags)


def transposed_semiseparable_runs_backward(M: Matrix) -> Matrix | None:
    """semiseparable(C, A, B)ᵀ  =  flip(semiseparable(C=B, A=A_{t+1}ᵀ, B=C));  strict: A_tᵀ"""
    match M:
        case Transpose(of=Semiseparable(C=C, A=A, B=B, over=over, strict=strict)):
            return Flip(
                of=Semiseparable(
                    C=conjugated(B), A=_backward_transition(A, strict), B=conjugated(C), over=over, strict=strict
                )
            )
    return None


def _backward_transition(A: Transition, strict: bool) -> Transition:
    """A_{t+1}ᵀ (strict: A_tᵀ) on reversed signals."""

    def moved(x: Expr | None) -> Expr | None:
        if x is None:
            return None
        turned = conjugated(x)
        return turned if strict or TIME not in x.axes else Delay(of=turned, by=1)

    pairs = tuple((_some(moved(b)), _some(moved(a))) for a, b in A.low_rank)
    if A.dense is not None:
        assert A.row is not None and A.along is not None
        turned = renamed(renamed(renamed(A.dense, A.row, "_"), A.along, A.row), "_", A.along)
        return replace(A, dense=moved(turned), low_rank=pairs)
    return replace(A, log=moved(A.log), factor=moved(A.factor), low_rank=pairs)


def _some(x: Expr | None) -> Expr:
    assert x is not None
    return x


# ---------------------------------------------------------------------- flip


def flip_moves_in(M: Matrix) -> Matrix | None:
    """J (A B) J = (J A J)(J B J), and so for sums, multiples, functions of entries, softmax, normalize;  J J = I;
    causal becomes anticausal, a band is mirrored, a shift goes the other way"""
    if not isinstance(M, Flip):
        return None
    match M.of:
        case Flip(of=of):
            return of
        case Scale(factor=c, of=of):
            return Scale(factor=c, of=Flip(of=of))
        case Sum(terms=terms):
            return Sum(terms=tuple(Flip(of=m) for m in terms))
        case Product(factors=fs):
            return Product(factors=tuple(Flip(of=m) for m in fs))
        case Entrywise(fn=fn, args=args):
            return Entrywise(fn=fn, args=tuple(Flip(of=m) for m in args))
        case Softmax(of=of):
            return Softmax(of=Flip(of=of))
        case Normalize(of=of, eps=eps, floor=floor) if floor is None or pointwise(floor):
            return Normalize(of=Flip(of=of), eps=eps, floor=floor)
        case Causal(of=of) if not cross(M):
            return Band(of=Flip(of=of), before=1, after=None)
        case Band(of=of, before=before, after=after) if not cross(M):
            return _mirrored(Flip(of=of), before, after)
        case Mask(of=of, mask=mask) if pointwise(mask):
            return Mask(of=Flip(of=of), mask=mask)
        case Shift(of=of, by=by):
            return Shift(of=Flip(of=of), by=-by)
    return None


def flipped_leaf(M: Matrix) -> Matrix | None:
    """J M(reversed signals) J = M for a leaf whose entries follow from the signals at t and s alone;
    J toeplitz J = toeplitzᵀ;  J circulant(h) J = circulant(h)ᵀ"""
    match M:
        case Flip(of=Diagonal() | Identity() | LowRank() | Cauchy() | Dense() as of) if pointwise(of):
            return of
        case Flip(of=Toeplitz() as of):
            return mirrored_toeplitz(of)
        case Flip(of=Circulant() as of):
            return Transpose(of=of)
    return None


# ---------------------------------------------------------------------- shift


def shift_of_toeplitz_is_toeplitz(M: Matrix) -> Matrix | None:
    """shift(toeplitz(h), n)  =  toeplitz(h, n lags later)"""
    match M:
        case Shift(of=Toeplitz(h=h, anti=None, lags="t"), by=by) if by > 0 and TIME in h.axes:
            return Toeplitz(h=Delay(of=h, by=by))
    return None


def shift_of_semiseparable_is_strict(M: Matrix) -> Matrix | None:
    """shift(semiseparable(C, A, B))  =  semiseparable(C_{t−1}, A, B, strict)"""
    match M:
        case Shift(of=Semiseparable(C=C, strict=False) as of, by=1):
            return replace(of, C=Delay(of=C, by=1) if TIME in C.axes else C, strict=True)
    return None


def shift_moves_in(M: Matrix) -> Matrix | None:
    """shift(c M) = c shift(M),  shift(A + B) = shift(A) + shift(B),  shift(M, 0) = M"""
    match M:
        case Shift(of=of, by=0):
            return of
        case Shift(of=Scale(factor=c, of=of), by=by):
            return Scale(factor=c, of=Shift(of=of, by=by))
        case Shift(of=Sum(terms=terms), by=by):
            return Sum(terms=tuple(Shift(of=m, by=by) for m in terms))
        case Shift(of=Shift(of=of, by=a), by=b) if a * b > 0:
            return Shift(of=of, by=a + b)
    return None


MOVES = (transpose_moves_in, transposed_leaf, flip_moves_in, flipped_leaf, shift_moves_in)
SCORES = (*MOVES, *RESET_SCORES)
RULES = (
    *MOVES,
    *RESETS,
    transposed_shift,
    transposed_semiseparable_runs_backward,
    shift_of_semiseparable_is_strict,
    shift_of_toeplitz_is_toeplitz,
)
