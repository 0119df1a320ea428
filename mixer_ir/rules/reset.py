"""Rules on matrices that move the resets of packed sequences to the leaves. The docstring is the identity."""

from __future__ import annotations

from dataclasses import replace

from mixer_ir.nodes.expr import SOURCE, TIME, Call, Cumulate, Delay, Expr, Literal
from mixer_ir.nodes.matrix import (
    Band,
    Cauchy,
    Causal,
    Circulant,
    Decay,
    Dense,
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
    Softmax,
    Sum,
    Toeplitz,
    Vandermonde,
)
from mixer_ir.rules.algebra import ONE, ZERO, renamed
from mixer_ir.rules.time_reversal import conjugated, cross


def same_piece(reset: Expr) -> Expr:
    """Whether t and s lie in the same packed piece."""
    piece = Cumulate(fn="sum", of=Call(fn="where", args=(reset, Literal(value=1), Literal(value=0))))
    return Call(fn="eq", args=(piece, renamed(piece, TIME, SOURCE)))


def resets_move_in(M: Matrix) -> Matrix | None:
    """the pieces of a sum, a multiple, a modified matrix are those of its parts; softmax and normalize see one piece
    alone; running backward, a piece begins after its last step"""
    if not isinstance(M, Resets):
        return None
    reset = M.reset

    def of_each(parts: tuple[Matrix, ...]) -> tuple[Matrix, ...]:
        return tuple(Resets(of=m, reset=reset) for m in parts)

    match M.of:
        case Resets(of=of, reset=other):
            return Resets(of=of, reset=Call(fn="or", args=(reset, other)))
        case Sum(terms=terms):
            return Sum(terms=of_each(terms))
        case Entrywise(fn=fn, args=args):
            return Mask(of=Entrywise(fn=fn, args=of_each(args)), mask=same_piece(reset))
        case Causal() | Band() | Mask() | Decay() | Softmax() | Normalize() | Scale() as outer:
            return replace(outer, of=Resets(of=outer.of, reset=reset))
        case Flip(of=of):
            return Flip(of=Resets(of=of, reset=_backward_reset(reset)))
    return None


def resets_move_to_products(M: Matrix) -> Matrix | None:
    """resets_move_in, but not past what makes one structure of a low rank: that is reset as a whole"""
    match M:
        case Resets(of=Causal() | Band() | Mask() | Decay() | Softmax()):
            return None
    return resets_move_in(M)


def resets_of_product(M: Matrix) -> Matrix | None:
    """resets(A B)  =  resets(A) resets(B),   resets(diag(d))  =  diag(d)"""
    match M:
        case Resets(of=Diagonal() | Identity() as of):
            return of
        case Resets(of=Product(factors=fs), reset=reset):
            return Product(factors=tuple(Resets(of=m, reset=reset) for m in fs))
    return None


def _backward_reset(reset: Expr) -> Expr:
    """Where a piece begins when time runs backward: after the step at which it began."""
    flags = Call(fn="where", args=(conjugated(reset), ONE, ZERO))
    return Call(fn="lt", args=(ZERO, Delay(of=flags, by=1)))


def reset_leaf_is_masked(M: Matrix) -> Matrix | None:
    """resets(M, r)[t, s]  =  M[t, s] where t and s lie in the same piece, else 0  (a short filter is left as it is)"""
    return None if is_packed_filter(M) else score_leaf_is_masked(M)


def is_packed_filter(M: Matrix) -> bool:
    """A Toeplitz matrix with lags of their own on packed pieces, which is applied lag by lag."""
    return isinstance(M, Resets) and isinstance(M.of, Toeplitz) and M.of.lags != TIME


def score_leaf_is_masked(M: Matrix) -> Matrix | None:
    """resets(M, r)[t, s]  =  M[t, s] where t and s lie in the same piece, else nothing to be counted"""
    match M:
        case Resets(
            of=LowRank() | Toeplitz() | Circulant() | Vandermonde() | Cauchy() | Fourier() | Monarch() | Dense() as of,
            reset=reset,
        ) if not cross(M):
            return Mask(of=of, mask=same_piece(reset))
    return None


INWARD = (resets_move_to_products, resets_of_product)
SCORES = (resets_move_in, score_leaf_is_masked)
RULES = (resets_move_in, reset_leaf_is_masked, resets_of_product)
