"""Structured matrices, the facts that a mixer is built of, and their application to a signal.

Each node's docstring gives its entries M[t, s]: row t is the time of the output, column s that of the input. Parts are
expressions; a part that plays the column's role may carry the axis t (as the signal was declared) or s (cross
mixing), and is read at s in the formulas. `axes` are the axes over which the matrix differs (heads, batch …).
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Expr, as_expr, set_axes, union, without
from mixer_ir.nodes.node import Node, node
from mixer_ir.nodes.process import Transition


class Matrix(Node):
    """The base of all structured matrices; `+ − * @` build nodes."""

    __slots__ = ()
    is_matrix = True
    __array_ufunc__ = None  # numpy's numbers leave arithmetic to the matrix
    axes: Axes

    def __add__(self, other: Any) -> Matrix:
        return Sum(terms=(self, as_matrix(other, "+")))

    def __radd__(self, other: Any) -> Matrix:
        return Sum(terms=(as_matrix(other, "+"), self))

    def __rsub__(self, other: Any) -> Matrix:
        return as_matrix(other, "-") - self

    def __sub__(self, other: Any) -> Matrix:
        return Sum(terms=(self, Scale(factor=as_expr(-1), of=as_matrix(other, "-"))))

    def __neg__(self) -> Matrix:
        return Scale(factor=as_expr(-1), of=self)

    def __mul__(self, other: Any) -> Matrix:
        if isinstance(other, Matrix):
            return Entrywise(fn="mul", args=(self, other))
        return scaled(as_expr(other), self)

    def __rmul__(self, other: Any) -> Matrix:
        return self.__mul__(other)

    def __truediv__(self, other: Any) -> Matrix:
        if isinstance(other, Matrix):
            return Entrywise(fn="div", args=(self, other))
        return scaled(1 / as_expr(other), self)

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, Matrix):
            return Product(factors=(self, other))
        return Apply(matrix=self, of=as_expr(other))

    def __bool__(self) -> bool:
        raise DeclarationError("a matrix has no truth value; a declaration does not branch on one")

    @property
    def T(self) -> Matrix:
        return Transpose(of=self)


def apart(axes: Axes) -> str:
    """A hint where axes may have been meant that are written without blanks, as 'bthk'."""
    long = [a for a in axes if len(a) > 1 and TIME in a and a.isalpha()]
    return f"; or is {long[0]!r} meant as {' '.join(long[0])!r}? axes are written apart" if long else ""


def as_matrix(value: Any, where: str) -> Matrix:
    if not isinstance(value, Matrix):
        number = isinstance(value, int | float | complex)
        hint = "write mx.identity() for I, mx.lowrank(1.0, 1.0, over='') for ones everywhere"
        raise DeclarationError(
            f"M {where} x needs a matrix on both sides; "
            + (f"the number {value} is none: {hint}" if number else "turn a signal x into one with mx.diagonal(x)")
        )
    return value


def scaled(factor: Expr, of: Matrix) -> Matrix:
    """c M, with c free of t."""
    if TIME in factor.axes or SOURCE in factor.axes:
        raise DeclarationError(
            "c * M needs a factor without the time axis; "
            "scale rows with mx.diagonal(d) @ M, columns with M @ mx.diagonal(d)"
        )
    return Scale(factor=factor, of=of)


def _batch(*parts: Axes, but: Axes = ()) -> Axes:
    return without(union(*parts), (TIME, SOURCE, *but))


@node
class Diagonal(Matrix):
    """M[t, t] = d_t, else 0."""

    d: Expr
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(self.d.axes))


@node
class Identity(Matrix):
    """M[t, t] = 1, else 0."""

    axes: Axes = field(init=False, default=())


@node
class LowRank(Matrix):
    """M[t, s] = Σ_over q_t · k_s."""

    q: Expr
    k: Expr
    over: Axes
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(self.q.axes, self.k.axes, but=self.over))


@node
class Semiseparable(Matrix):
    """M[t, s] = C_tᵀ A_t A_{t−1} … A_{s+1} B_s for s ≤ t, else 0.

    With `strict`, C_tᵀ A_{t−1} … A_{s+1} B_s for s < t, else 0: the state is read before the step.
    """

    C: Expr
    A: Transition
    B: Expr
    over: Axes
    strict: bool = False
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        gone = (*self.over, *((self.A.row,) if self.A.row else ()))
        set_axes(self, _batch(self.C.axes, self.A.axes, self.B.axes, but=gone))


@node
class Toeplitz(Matrix):
    """M[t, s] = h[t − s] for s ≤ t; g[s − t] for s > t where `anti` = g is given, else 0.

    `lags` is the axis of h and g that counts lags: t, or an axis of its own for a short filter (0 beyond its length).
    """

    h: Expr
    anti: Expr | None = None
    lags: str = TIME
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        both = self.h.axes if self.anti is None else union(self.h.axes, self.anti.axes)
        set_axes(self, _batch(both, but=(self.lags,)))


@node
class Circulant(Matrix):
    """M[t, s] = h[(t − s) mod T]."""

    h: Expr
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(self.h.axes))


@node
class Vandermonde(Matrix):
    """M[t, s] = Σ_over w · x_t^s (w = 1 where `weight` is not given)."""

    x: Expr
    weight: Expr | None = None
    over: Axes = ()
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        weight = () if self.weight is None else self.weight.axes
        set_axes(self, _batch(self.x.axes, weight, but=self.over))


@node
class Cauchy(Matrix):
    """M[t, s] = Σ_over 1 / (x_t − y_s)."""

    x: Expr
    y: Expr
    over: Axes = ()
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(self.x.axes, self.y.axes, but=self.over))


@node
class Fourier(Matrix):
    """M[t, s] = exp(−2πi t s / T); with `inverse`, exp(+2πi t s / T) / T."""

    inverse: bool = False
    axes: Axes = field(init=False, default=())


@node
class Monarch(Matrix):
    """M[(i, j), (k, l)] = left[i; j, l] · right[l; i, k]: two block-diagonals on the grid t = i·J + j, s = k·J + l.

    `left` has the axes `grid[0]` (block i), `rows[1]` (out j), `grid[1]` (in l); `right` the axes `grid[1]` (block l),
    `grid[0]` (out i), `rows[0]` (in k). grid = (i, l) and rows = (k, j) name the four axes; sizes I·J = T.
    """

    left: Expr
    right: Expr
    grid: tuple[str, str]
    rows: tuple[str, str]
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(self.left.axes, self.right.axes, but=(*self.grid, *self.rows)))


@node
class Dense(Matrix):
    """M[t, s] = m[t, s]: an expression with the axes t and s."""

    m: Expr
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(self.m.axes))


class _Modified(Matrix):
    """A modifier of one matrix; differs over the axes of that matrix."""

    __slots__ = ()
    of: Matrix

    def __post_init__(self) -> None:
        own = (getattr(self, name, None) for name in ("mask", "reset", "log", "factor", "floor", "of"))
        set_axes(self, _batch(*(part.axes for part in own if part is not None)))


@node
class Causal(_Modified):
    """M[t, s] = of[t, s] for s ≤ t, else 0."""

    of: Matrix
    axes: Axes = field(init=False)


@node
class Band(_Modified):
    """M[t, s] = of[t, s] for −after ≤ t − s < before, else 0 (None: no bound on that side)."""

    of: Matrix
    before: int | None
    after: int | None = 0
    axes: Axes = field(init=False)


@node
class Mask(_Modified):
    """M[t, s] = of[t, s] where mask[t, s] is true, else 0; `mask` has the axes t and s, or one of them."""

    of: Matrix
    mask: Expr
    axes: Axes = field(init=False)


@node
class Decay(_Modified):
    """M[t, s] = a_t a_{t−1} … a_{s+1} · of[t, s] for s ≤ t, else 0, with a = exp(log) or a = factor."""

    of: Matrix
    log: Expr | None = None
    factor: Expr | None = None
    axes: Axes = field(init=False)


@node
class Softmax(_Modified):
    """M[t, s] = exp(of[t, s]) / Σ_u exp(of[t, u]) over the entries that a mask inside leaves; a row with none is 0.

    Inside, a masked score is −∞, and so is any sum or product with it: softmax(causal(A) + B) is causal.
    """

    of: Matrix
    axes: Axes = field(init=False)


@node
class Normalize(_Modified):
    """M[t, s] = of[t, s] / n_t, n_t = Σ_u of[t, u] + eps; with `floor`, n_t = max(|Σ_u of[t, u] + eps|, floor)."""

    of: Matrix
    eps: float = 0.0
    floor: Expr | None = None
    axes: Axes = field(init=False)


@node
class Transpose(_Modified):
    """M[t, s] = of[s, t]."""

    of: Matrix
    axes: Axes = field(init=False)


@node
class Flip(_Modified):
    """M = J · of(signals reversed in time) · J: the same mixer run backward in time."""

    of: Matrix
    axes: Axes = field(init=False)


@node
class Shift(_Modified):
    """M[t, s] = of[t − by, s], zero where t − by is outside the sequence."""

    of: Matrix
    by: int = 1
    axes: Axes = field(init=False)


@node
class Resets(_Modified):
    """`of` on each packed piece alone: a piece begins where `reset` (over t) is true; entries between pieces are 0."""

    of: Matrix
    reset: Expr
    axes: Axes = field(init=False)


@node
class Sum(Matrix):
    """M = Σ_i terms_i."""

    terms: tuple[Matrix, ...]
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(*(m.axes for m in self.terms)))


@node
class Product(Matrix):
    """M = factors_0 · factors_1 · …"""

    factors: tuple[Matrix, ...]
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(*(m.axes for m in self.factors)))


@node
class Scale(Matrix):
    """M[t, s] = factor · of[t, s], factor free of t."""

    factor: Expr
    of: Matrix
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(self.factor.axes, self.of.axes))


@node
class Entrywise(Matrix):
    """M[t, s] = fn(args_0[t, s], args_1[t, s], …); `mul` is the Hadamard product."""

    fn: str
    args: tuple[Matrix, ...]
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        set_axes(self, _batch(*(m.axes for m in self.args)))


@node
class Apply(Expr):
    """y_t = Σ_s M[t, s] v_s: a matrix applied along time (`v` has axis t, or s for cross mixing)."""

    matrix: Matrix
    of: Expr
    axes: Axes = field(init=False)

    def __post_init__(self) -> None:
        if TIME not in self.of.axes and SOURCE not in self.of.axes:
            raise AxisError(
                f"a matrix is applied along t (or s), but its operand has axes ({' '.join(self.of.axes)}); what is the "
                "same at every step is written as x + 0 * mx.index('t')" + apart(self.of.axes)
            )
        column = TIME if TIME in self.of.axes else SOURCE
        own = tuple(TIME if a == column else a for a in self.of.axes)
        set_axes(self, union(own, self.matrix.axes))
