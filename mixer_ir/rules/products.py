"""Rules on matrices: each keeps the matrix and simplifies its node. The docstring is the identity; J reverses time.

Tried in the order of RULES at every matrix, innermost first. Every rule moves a modifier towards the leaves, merges
two modifiers, or turns a modified leaf into a leaf, so that no sequence of rules is endless.

Inside a softmax a masked entry and a zero are not the same: there only SCORES are tried, which keep the masks too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from mixer_ir.nodes.expr import TIME, Call, Expr, Index, Literal
from mixer_ir.nodes.matrix import (
    Apply,
    Band,
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
    Normalize,
    Product,
    Resets,
    Scale,
    Semiseparable,
    Shift,
    Softmax,
    Sum,
    Toeplitz,
)
from mixer_ir.nodes.process import Transition
from mixer_ir.rules.algebra import ZERO, contracted, is_one, product, total
from mixer_ir.rules.entrywise import RULES as ENTRIES
from mixer_ir.rules.moved import RULES as MOVES
from mixer_ir.rules.moved import SCORES as MOVED_SCORES
from mixer_ir.rules.time_reversal import cross, pointwise

Rule = Callable[[Matrix], Matrix | None]


# ---------------------------------------------------------------------- sums and products


def sums_are_flat(M: Matrix) -> Matrix | None:
    """(A + B) + C  =  A + B + C,   a sum of one term is that term"""
    match M:
        case Sum(terms=(only,)):
            return only
        case Sum(terms=terms) if any(isinstance(m, Sum) for m in terms):
            return Sum(terms=tuple(x for m in terms for x in (m.terms if isinstance(m, Sum) else (m,))))
    return None


def products_are_flat(M: Matrix) -> Matrix | None:
    """(A B) C  =  A B C,   A I  =  A,   a product of one factor is that factor"""
    match M:
        case Product(factors=(only,)):
            return only
        case Product(factors=fs) if any(isinstance(m, Product) for m in fs):
            return Product(factors=tuple(x for m in fs for x in (m.factors if isinstance(m, Product) else (m,))))
        case Product(factors=fs) if any(isinstance(m, Identity) for m in fs) and not cross(M):
            return Product(factors=tuple(m for m in fs if not isinstance(m, Identity)) or (Identity(),))
    return None


def scale_of_scale(M: Matrix) -> Matrix | None:
    """a (b M)  =  (a b) M,   1 M  =  M"""
    match M:
        case Scale(factor=factor, of=of) if is_one(factor):
            return of
        case Scale(factor=a, of=Scale(factor=b, of=of)):
            return Scale(factor=product(a, b), of=of)
    return None


def scales_leave_products(M: Matrix) -> Matrix | None:
    """A (c B)  =  c (A B)"""
    match M:
        case Product(factors=fs) if any(isinstance(m, Scale) for m in fs):
            factor = product(*(m.factor for m in fs if isinstance(m, Scale)))
            return Scale(factor=factor, of=Product(factors=tuple(m.of if isinstance(m, Scale) else m for m in fs)))
    return None


def neighbours_join(M: Matrix) -> Matrix | None:
    """T(h) T(g) = T(h ∗ g),  C(h) C(g) = C(C(h) g),  diag(a) diag(b) = diag(a b),  F F⁻¹ = I"""
    match M:
        case Product(factors=fs):
            for i, (left, right) in enumerate(itertools.pairwise(fs)):
                joined = _joined(left, right)
                if joined is not None:
                    return Product(factors=(*fs[:i], joined, *fs[i + 2 :]))
    return None


def _joined(left: Matrix, right: Matrix) -> Matrix | None:
    match left, right:
        case Diagonal(d=a), Diagonal(d=b) if not cross(left) and not cross(right):
            return Diagonal(d=product(a, b))
        case Toeplitz(h=h, anti=None, lags="t"), Toeplitz(h=g, anti=None, lags="t") if TIME in g.axes:
            return Toeplitz(h=Apply(matrix=Toeplitz(h=h), of=g))
        case Circulant(h=h), Circulant(h=g) if TIME in g.axes:
            return Circulant(h=Apply(matrix=Circulant(h=h), of=g))
        case Fourier(inverse=x), Fourier(inverse=y) if x != y:
            return Identity()
    return None


def diagonalised_by_fourier_is_circulant(M: Matrix) -> Matrix | None:
    """F⁻¹ diag(w) F  =  circulant(F⁻¹ w)"""
    match M:
        case Product(factors=fs):
            for i, three in enumerate(zip(fs, fs[1:], fs[2:], strict=False)):
                match three:
                    case (Fourier(inverse=True), Diagonal(d=w), Fourier(inverse=False)) if TIME in w.axes:
                        joined = Circulant(h=Apply(matrix=Fourier(inverse=True), of=w))
                        return Product(factors=(*fs[:i], joined, *fs[i + 3 :]))
    return None


def toeplitz_terms_join(M: Matrix) -> Matrix | None:
    """toeplitz(h) + c toeplitz(g)  =  toeplitz(h + c g)"""
    match M:
        case Sum(terms=terms):
            found = [(i, t) for i, m in enumerate(terms) if (t := _scaled_toeplitz(m)) is not None]
            for lags in dict.fromkeys(t.lags for _, t in found):
                same = [(i, t) for i, t in found if t.lags == lags]
                if len(same) > 1:
                    antis = [t.anti for _, t in same if t.anti is not None]
                    joined = Toeplitz(h=total(t.h for _, t in same), anti=total(antis) if antis else None, lags=lags)
                    gone = {i for i, _ in same}
                    return Sum(terms=(*(m for i, m in enumerate(terms) if i not in gone), joined))
    return None


def _scaled_toeplitz(M: Matrix) -> Toeplitz | None:
    match M:
        case Toeplitz():
            return M
        case Scale(factor=c, of=Toeplitz(h=h, anti=anti, lags=lags)):
            return Toeplitz(h=product(c, h), anti=None if anti is None else product(c, anti), lags=lags)
    return None


# ---------------------------------------------------------------------- causal, band


def causal_lowrank_is_semiseparable(M: Matrix) -> Matrix | None:
    """causal(q kᵀ)  =  semiseparable(C=q, A=I, B=k)"""
    match M:
        case Causal(of=LowRank(q=q, k=k, over=over)) if not cross(M):
            return Semiseparable(C=q, A=Transition(), B=k, over=over)
    return None


def causal_moves_in(M: Matrix) -> Matrix | None:
    """causal(c M) = c causal(M),  causal(A + B) = causal(A) + causal(B),  causal(causal(M)) = causal(M);
    of two masks, the order is free"""
    match M:
        case Causal(of=Causal() as of):
            return of
        case Causal(of=Scale(factor=c, of=of)):
            return Scale(factor=c, of=Causal(of=of))
        case Causal(of=Sum(terms=terms)):
            return Sum(terms=tuple(Causal(of=m) for m in terms))
        case Causal(of=Band(of=of, before=before, after=after)) if after is None or after > 0:
            return Band(of=of, before=before, after=0)
        case Causal(of=Mask(of=of, mask=mask)):
            return Mask(of=Causal(of=of), mask=mask)
    return None


def causal_half_of_structure(M: Matrix) -> Matrix | None:
    """causal(M) = M for M with no entry s > t,  causal(diag(d) M) = diag(d) causal(M),  causal(toeplitz(h, anti)) =
    toeplitz(h),  causal(flip(semiseparable(C, A, B))) = diag(Cᵀ B)"""
    match M:
        case Causal(of=of) if is_causal_node(of):
            return of
        case Causal(of=Toeplitz(h=h, lags=lags)):
            return Toeplitz(h=h, lags=lags)
        case Causal(of=Product(factors=(Diagonal() as d, *rest))) if not cross(M):
            return Product(factors=(d, Causal(of=Product(factors=tuple(rest)))))
        case Causal(of=Product(factors=(*rest, Diagonal() as d))) if not cross(M):
            return Product(factors=(Causal(of=Product(factors=tuple(rest))), d))
        case Causal(of=Flip(of=Semiseparable(C=C, B=B, over=over, strict=strict))) if pointwise(C) and pointwise(B):
            return Scale(factor=ZERO, of=Identity()) if strict else Diagonal(d=contracted(C, B, over))
    return None


def is_causal_node(M: Matrix) -> bool:
    """Whether it can be seen from the nodes that M[t, s] = 0 for s > t."""
    match M:
        case Diagonal() | Identity() | Semiseparable() | Causal() | Decay() | Toeplitz(anti=None):
            return True
        case Band(of=of, after=after):
            return (after is not None and after <= 0) or is_causal_node(of)
        case Shift(of=of, by=by):
            return by >= 0 and is_causal_node(of)
        case Mask(of=of) | Normalize(of=of) | Resets(of=of) | Scale(of=of):
            return is_causal_node(of)
        case Softmax(of=Causal()):
            return True
        case Sum(terms=ms) | Product(factors=ms):
            return all(is_causal_node(m) for m in ms)
        case Entrywise(fn="mul", args=ms):
            return any(is_causal_node(m) for m in ms)
    return False


def band_without_bound(M: Matrix) -> Matrix | None:
    """band(M, −∞ … ∞) = M,   band(M, s ≤ t) = causal(M),   band(band(M)) = the entries in both"""
    match M:
        case Band(of=of, before=None, after=None):
            return of
        case Band(of=of, before=None, after=0):
            return Causal(of=of)
        case Band(of=Band(of=of, before=b, after=a), before=before, after=after):
            return Band(of=of, before=_least(before, b), after=_least(after, a))
        case Band(of=Causal(of=of), before=before, after=after) if before is not None:
            return Band(of=of, before=before, after=0 if after is None else min(after, 0))
    return None


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else (a if b is None else min(a, b))


def band_of_toeplitz_is_toeplitz(M: Matrix) -> Matrix | None:
    """band(toeplitz(h), w)  =  toeplitz(h, zero from lag w on)"""
    match M:
        case Band(of=Toeplitz(h=h, anti=anti, lags=lags), before=before, after=after) if after is None or after >= 0:
            if before is not None and before < 1:
                return None
            g = None if after == 0 or anti is None else _cut(anti, lags, None if after is None else after + 1)
            return Toeplitz(h=_cut(h, lags, before), anti=g, lags=lags)
    return None


def _cut(h: Expr, lags: str, width: int | None) -> Expr:
    if width is None:
        return h
    return Call(fn="where", args=(Call(fn="lt", args=(Index(axis=lags), _int(width))), h, ZERO))


def _int(value: int) -> Expr:
    return Literal(value=value)


SCORES: tuple[Rule, ...] = (sums_are_flat, scale_of_scale, band_without_bound, causal_moves_in, *MOVED_SCORES)
RULES: tuple[Rule, ...] = (
    sums_are_flat,
    products_are_flat,
    scale_of_scale,
    scales_leave_products,
    diagonalised_by_fourier_is_circulant,
    neighbours_join,
    toeplitz_terms_join,
    band_without_bound,
    band_of_toeplitz_is_toeplitz,
    causal_lowrank_is_semiseparable,
    causal_moves_in,
    causal_half_of_structure,
    *ENTRIES,
    *MOVES,
)
