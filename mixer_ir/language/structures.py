"""The words for matrices: leaves, modifiers, and how a transition is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.nodes.along import whole
from mixer_ir.nodes.check import checked, needs, show
from mixer_ir.nodes.expr import BATCH, SOURCE, TIME, Axes, Expr, as_expr, parse_axes
from mixer_ir.nodes.matrix import (
    Band,
    Cauchy,
    Causal,
    Circulant,
    Decay,
    Dense,
    Diagonal,
    Flip,
    Fourier,
    Identity,
    LowRank,
    Mask,
    Matrix,
    Monarch,
    Normalize,
    Resets,
    Semiseparable,
    Shift,
    Toeplitz,
    Transpose,
    Vandermonde,
)
from mixer_ir.nodes.process import Transition
from mixer_ir.nodes.tracing import untraced
from mixer_ir.rules.algebra import log_of

__all__ = [
    "diagonal", "identity", "lowrank", "semiseparable", "transition", "dense_transition", "toeplitz", "circulant",
    "vandermonde", "cauchy", "dft", "monarch", "dense",
    "causal", "band", "mask", "decay", "normalize", "transpose", "flip", "shift", "resets",
]  # fmt: skip


def _matrix(word: str, value: Any) -> Matrix:
    if not isinstance(value, Matrix):
        raise DeclarationError(
            f"mx.{word} is of a matrix; turn a signal x into one, as with mx.diagonal(x) or mx.lowrank(q, k)"
        )
    return value


def _contracted(word: str, left: Expr, right: Expr, over: str | Axes | None, names: str) -> Axes:
    """The axes named, or the last axis of `left` that `right` shares."""
    if over is not None:
        return parse_axes(over, of=f"mx.{word}") if isinstance(over, str) else over
    shared = [a for a in left.axes if a in right.axes and a not in (BATCH, TIME, SOURCE)]
    if not shared:
        raise AxisError(
            f"mx.{word}: {names} have axes {show(left.axes)} and {show(right.axes)}, which share no axis to contract "
            "(besides b, t, s); name it with over='n', or over='' for none"
        )
    return (shared[-1],)


def _diagonal_transition(decay: Expr) -> Transition:
    """diag(decay), kept as its logarithm where that is known."""
    with untraced():
        log = log_of(decay)
    return Transition(factor=decay) if log is None else Transition(log=log)


def diagonal(d: Any) -> Matrix:
    """M[t, t] = d_t, else 0."""
    return Diagonal(d=as_expr(d))


def identity() -> Matrix:
    """M[t, t] = 1, else 0."""
    return Identity()


def lowrank(q: Any, k: Any, over: str | None = None) -> Matrix:
    """M[t, s] = Σ_over q_t · k_s; not causal by itself.

    q (… t k), k (… t k) or, for cross mixing, (… s k). `over` is by default the last axis of q that k shares.
    """
    left, right = as_expr(q), as_expr(k)
    return checked(LowRank(q=left, k=right, over=_contracted("lowrank", left, right, over, "q and k")))


def semiseparable(C: Any, A: Any, B: Any, over: str | None = None) -> Matrix:
    """M[t, s] = C_tᵀ A_t A_{t−1} … A_{s+1} B_s for s ≤ t, else 0.

    C, B (… t n); A a decay, scalar (… t) or along n (… t n), or an mx.transition or mx.dense_transition.
    `over` is by default the last axis of C that B shares.
    """
    left, right = as_expr(C), as_expr(B)
    step = A if isinstance(A, Transition) else _diagonal_transition(as_expr(A))
    return checked(
        Semiseparable(C=left, A=step, B=right, over=_contracted("semiseparable", left, right, over, "C and B"))
    )


def transition(decay: Any = 1.0, low_rank: Sequence[tuple[Any, Any]] = (), along: str | None = None) -> Transition:
    """A_t = diag(decay_t) + Σ_i a_i,t b_i,tᵀ for pairs (a, b) along the axis `along` (by default the last shared)."""
    pairs = tuple((as_expr(a), as_expr(b)) for a, b in low_rank)
    if pairs and along is None:
        (along,) = _contracted("transition", *pairs[0], None, "a and b")
    plain = _diagonal_transition(as_expr(decay))
    return checked(Transition(along=along, log=plain.log, factor=plain.factor, low_rank=pairs))


def dense_transition(A: Any, row: str, along: str) -> Transition:
    """A_t[row, along]: a full matrix from the old state (along) to the new (row)."""
    return checked(Transition(along=along, row=row, dense=as_expr(A)))


def toeplitz(h: Any, anti: Any = None, lags: str = TIME) -> Matrix:
    """M[t, s] = h[t − s] for s ≤ t; `anti` = g adds M[t, s] = g[s − t] for s > t (g[0] is not used).

    h (… t), lag 0 first. A short filter counts its lags on an axis of its own: mx.toeplitz(w, lags='j') with w (… j).
    """
    return checked(Toeplitz(h=as_expr(h), anti=None if anti is None else as_expr(anti), lags=lags))


def circulant(h: Any) -> Matrix:
    """M[t, s] = h[(t − s) mod T]."""
    return checked(Circulant(h=as_expr(h)))


def vandermonde(x: Any, weight: Any = None, over: str = "") -> Matrix:
    """M[t, s] = Σ_over weight · x_t^s."""
    w = None if weight is None else as_expr(weight)
    return checked(Vandermonde(x=as_expr(x), weight=w, over=parse_axes(over, of="mx.vandermonde")))


def cauchy(x: Any, y: Any, over: str = "") -> Matrix:
    """M[t, s] = Σ_over 1 / (x_t − y_s)."""
    return checked(Cauchy(x=as_expr(x), y=as_expr(y), over=parse_axes(over, of="mx.cauchy")))


def dft(inverse: bool = False) -> Matrix:
    """M[t, s] = exp(−2πi t s / T); with `inverse`, exp(2πi t s / T) / T."""
    return Fourier(inverse=bool(inverse))


def monarch(left: Any, right: Any, grid: str = "i l", rows: str = "k j") -> Matrix:
    """M[(i, j), (k, l)] = left[i; j, l] · right[l; i, k] on the grid t = i·J + j, s = k·J + l, with T = I·J.

    left (… i j l), right (… l i k): `grid` names the axes i and l, `rows` the axes k and j.
    """
    (i, l), (k, j) = _two("grid", grid), _two("rows", rows)
    return checked(Monarch(left=as_expr(left), right=as_expr(right), grid=(i, l), rows=(k, j)))


def _two(name: str, text: str) -> tuple[str, str]:
    axes = parse_axes(text, of=f"mx.monarch, {name}")
    if len(axes) != 2:
        raise AxisError(f"mx.monarch needs two axes for {name}, as in 'i l', not {text!r}")
    return axes


def dense(m: Any) -> Matrix:
    """M[t, s] = m[t, s], any expression with the axes t and s."""
    return checked(Dense(m=as_expr(m)))


def causal(M: Any) -> Matrix:
    """M[t, s] for s ≤ t, else 0."""
    return Causal(of=_matrix("causal", M))


def band(M: Any, w: int | None, after: int | None = 0) -> Matrix:
    """M[t, s] for −after ≤ t − s < w, else 0; None leaves a side open."""
    of = _matrix("band", M)
    before = None if w is None else whole("mx.band", "the window", w)
    return checked(Band(of=of, before=before, after=None if after is None else whole("mx.band", "after", after)))


def mask(M: Any, allowed: Any) -> Matrix:
    """M[t, s] where `allowed` is true, else 0; it has the axes t and s or one of them (mx.source(x) turns t into s)."""
    return checked(Mask(of=_matrix("mask", M), mask=as_expr(allowed)))


def decay(M: Any, a: Any) -> Matrix:
    """a_t a_{t−1} … a_{s+1} · M[t, s] for s ≤ t, else 0."""
    of, factor = _matrix("decay", M), as_expr(a)
    with untraced():
        log = log_of(factor)
    return checked(Decay(of=of, factor=factor) if log is None else Decay(of=of, log=log))


def normalize(M: Any, eps: float = 0.0, floor: Any = None) -> Matrix:
    """M[t, s] / n_t with n_t = Σ_u M[t, u] + eps; with `floor`, n_t = max(|Σ_u M[t, u] + eps|, floor)."""
    least = None if floor is None else as_expr(floor)
    return checked(Normalize(of=_matrix("normalize", M), eps=float(eps), floor=least))


def transpose(M: Any) -> Matrix:
    """M[s, t] (also `M.T`)."""
    return Transpose(of=_matrix("transpose", M))


def flip(M: Any) -> Matrix:
    """The same mixer run backward in time, every signal kept at its position: J · M(reversed signals) · J."""
    return Flip(of=_matrix("flip", M))


def shift(M: Any, by: int = 1) -> Matrix:
    """M[t − by, s], zero where t − by is outside the sequence."""
    return Shift(of=_matrix("shift", M), by=whole("mx.shift", "by", by))


def resets(M: Any, reset: Any) -> Matrix:
    """M on each packed piece alone; a piece begins where `reset` (… t) is true."""
    flag = as_expr(reset)
    needs("mx.resets: the reset", flag, TIME)
    return checked(Resets(of=_matrix("resets", M), reset=flag))
