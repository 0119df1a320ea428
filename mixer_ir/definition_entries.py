"""One entry M[t, s] of every matrix node by its docstring, with symbols: what a lowered matrix must equal, exactly.

A row part is read at t, a column part at s. Filters count lags, not time. A softmax counts the entries that the
modifiers inside it leave.
"""

from __future__ import annotations

from typing import Protocol, assert_never

import sympy

from mixer_ir import matrix as m
from mixer_ir.cells import Cells, apply, contract, mul, number, stack
from mixer_ir.errors import DeclarationError
from mixer_ir.expr import SOURCE, TIME, Expr
from mixer_ir.matrix import Matrix
from mixer_ir.node import Node
from mixer_ir.process import Transition


class Values(Protocol):
    """What the entries need of the definition."""

    sizes: dict[str, int]

    def of(self, x: Expr) -> Cells: ...

    def flipped(self) -> Values: ...

    def step(self, A: Transition, S: Cells, t: int) -> Cells: ...


class Entries:
    """Entries of matrices of one size; `lags` evaluates filters, `pieces` are the resets of packed pieces."""

    def __init__(
        self, on: Values, rows: int, columns: int, lags: Values | None = None, pieces: tuple[Cells, ...] = ()
    ) -> None:
        self.on, self.rows, self.columns, self.lags, self.pieces = on, rows, columns, lags or on, pieces
        self.memo: dict[tuple[Node, int, int], Cells] = {}

    def of(self, M: Node, t: int, s: int) -> Cells:
        key = (M, t, s)
        if key not in self.memo:
            if not isinstance(M, Matrix):
                raise DeclarationError(f"{type(M).__name__} is no matrix")
            self.memo[key] = self._inside_piece(self._of(M, t, s), t, s)
        return self.memo[key]

    def _inside_piece(self, x: Cells, t: int, s: int) -> Cells:
        for reset in self.pieces:
            for crossed in range(min(t, s) + 1, max(t, s) + 1):
                x = apply("where", reset.at(TIME, crossed), 0, x)
        return x

    def sized(self, rows: int, columns: int) -> Entries:
        return (
            self
            if (rows, columns) == (self.rows, self.columns)
            else Entries(self.on, rows, columns, self.lags, self.pieces)
        )

    def row(self, x: Expr, t: int) -> Cells:
        made = self.on.of(x)
        return made.at(TIME, t) if TIME in made.axes else made.at(SOURCE, t)

    def column(self, x: Expr, s: int) -> Cells:
        made = self.on.of(x)
        return made.at(SOURCE, s) if SOURCE in made.axes else made.at(TIME, s)

    def _of(self, M: Matrix, t: int, s: int) -> Cells:
        zero = number(0)
        match M:
            case m.Diagonal(d=d):
                return self.row(d, t) if t == s else zero
            case m.Identity():
                return number(int(t == s))
            case m.LowRank(q=q, k=k, over=over):
                return contract(self.row(q, t), self.column(k, s), over)
            case m.Semiseparable(C=C, A=A, B=B, over=over, strict=strict):
                last = t - 1 if strict else t
                if s > last:
                    return zero
                state = self.column(B, s)
                for i in range(s + 1, last + 1):
                    state = self.on.step(A, state, i)
                return contract(self.row(C, t), state, over)
            case m.Toeplitz(h=h, anti=anti, lags=lags):
                if t >= s:
                    return self._lag(h, lags, t - s)
                return zero if anti is None else self._lag(anti, lags, s - t)
            case m.Circulant(h=h):
                return self._lag(h, TIME, (t - s) % self.rows)
            case m.Vandermonde(x=x, weight=weight, over=over):
                power = number(1)
                for _ in range(s):
                    power = mul(power, self.row(x, t))
                power = mul(power, apply("add", mul(self.row(x, t), number(0)), 1))
                return (power if weight is None else mul(self.row(weight, t), power)).fold("add", over)
            case m.Cauchy(x=x, y=y, over=over):
                return apply("div", 1, apply("sub", self.row(x, t), self.column(y, s))).fold("add", over)
            case m.Fourier(inverse=inverse):
                turn = sympy.Rational((2 if inverse else -2) * t * s, self.rows)
                entry = sympy.exp(sympy.I * sympy.pi * turn)
                return number(entry / self.rows if inverse else entry)
            case m.Monarch(left=left, right=right, grid=(i, l), rows=(k, j)):
                width = self.on.sizes[j]
                at = {i: t // width, j: t % width, k: s // width, l: s % width}
                blocks = mul(self.on.of(left), self.on.of(right))
                for axis, place in at.items():
                    blocks = blocks.at(axis, place)
                return blocks
            case m.Dense(m=x):
                return self.on.of(x).at(TIME, t).at(SOURCE, s)
            case m.Causal(of=of) | m.Band(of=of) | m.Mask(of=of):
                return apply("where", number(self._kept(M, t, s)), self.of(of, t, s), 0)
            case m.Decay(of=of, log=log, factor=factor):
                made = self.of(of, t, s) if s <= t else zero
                for i in range(s + 1, t + 1):
                    made = mul(made, apply("exp", self.row(log, i)) if log is not None else self.row(_some(factor), i))
                return made
            case m.Softmax(of=of):
                if not self.counts(of, t, s):
                    return zero
                weights = [apply("exp", self.of(of, t, u)) for u in range(self.columns) if self.counts(of, t, u)]
                return apply("div", apply("exp", self.of(of, t, s)), _sum(weights))
            case m.Normalize(of=of, eps=eps, floor=floor):
                n = apply("add", _sum([self.of(of, t, u) for u in range(self.columns)]), eps)
                if floor is not None:
                    n = apply("max", apply("abs", n), self.row(floor, t))
                return apply("div", self.of(of, t, s), n)
            case m.Transpose(of=of):
                return self.sized(self.columns, self.rows).of(of, s, t)
            case m.Flip(of=of):
                return self._backward().of(of, self.rows - 1 - t, self.columns - 1 - s)
            case m.Shift(of=of, by=by):
                return self.of(of, t - by, s) if 0 <= t - by < self.rows else zero
            case m.Resets(of=of, reset=reset):
                return self._packed(reset).of(of, t, s)
            case m.Sum(terms=terms):
                return _sum([self.of(x, t, s) for x in terms])
            case m.Product(factors=factors):
                return self._product(factors, t, s)
            case m.Scale(factor=factor, of=of):
                return mul(self.on.of(factor), self.of(of, t, s))
            case m.Entrywise(fn=fn, args=args):
                return apply(fn, *(self.of(x, t, s) for x in args))
        raise DeclarationError(f"{type(M).__name__} has no symbolic meaning")

    # ------------------------------------------------------------------ parts

    def _lag(self, h: Expr, lags: str, lag: int) -> Cells:
        filt = self.lags.of(h)
        if lags not in filt.axes:
            return filt
        return filt.at(lags, lag) if lag < filt.sizes[lags] else number(0)

    def _product(self, factors: tuple[Matrix, ...], t: int, s: int) -> Cells:
        if len(factors) == 1:
            return self.of(factors[0], t, s)
        square, rest = factors[0], factors[1:]
        if self.rows != self.columns:
            raise DeclarationError("a product of cross-mixing matrices has no symbolic meaning")
        return _sum([mul(self.of(square, t, u), self._product(rest, u, s)) for u in range(self.columns)])

    def _backward(self) -> Entries:
        return Entries(self.on.flipped(), self.rows, self.columns, self.lags, tuple(_turned(p) for p in self.pieces))

    def _packed(self, reset: Expr) -> Entries:
        return Entries(self.on, self.rows, self.columns, self.lags, (*self.pieces, self.on.of(reset)))

    def _kept(self, M: m.Causal | m.Band | m.Mask, t: int, s: int) -> object:
        match M:
            case m.Causal():
                return s <= t
            case m.Band(before=before, after=after):
                return (before is None or t - s < before) and (after is None or t - s >= -after)
            case m.Mask(mask=mask):
                return self.on.of(mask).at(TIME, t).at(SOURCE, s).data[()]
        assert_never(M)

    # ------------------------------------------------------------------ which entries a softmax counts

    def counts(self, M: Node, t: int, s: int) -> bool:
        """Whether no modifier has masked M[t, s] away."""
        apart = any(
            bool(reset.at(TIME, i).data[()]) for reset in self.pieces for i in range(min(t, s) + 1, max(t, s) + 1)
        )
        match M:
            case _ if apart:
                return False
            case m.Causal(of=of) | m.Band(of=of) | m.Mask(of=of):
                return bool(self._kept(M, t, s)) and self.counts(of, t, s)
            case m.Decay(of=of):
                return s <= t and self.counts(of, t, s)
            case m.Resets(of=of, reset=reset):
                return self._packed(reset).counts(of, t, s)
            case m.Scale(of=of) | m.Normalize(of=of) | m.Softmax(of=of):
                return self.counts(of, t, s)
            case m.Transpose(of=of):
                return self.sized(self.columns, self.rows).counts(of, s, t)
            case m.Flip(of=of):
                return self._backward().counts(of, self.rows - 1 - t, self.columns - 1 - s)
            case m.Shift(of=of, by=by):
                return 0 <= t - by < self.rows and self.counts(of, t - by, s)
            case m.Sum(terms=args) | m.Entrywise(args=args):
                return all(self.counts(x, t, s) for x in args)
        return True


def _turned(reset: Cells) -> Cells:
    """The resets of a sequence read backward: a border before t is one before T − t."""
    T = reset.sizes[TIME]
    first = [apply("and", reset.at(TIME, 0), False)]
    return stack([*first, *(reset.at(TIME, T - t) for t in range(1, T))], TIME)


def _some(x: Expr | None) -> Expr:
    if x is None:
        raise DeclarationError("a decay needs its log or its factor")
    return x


def _sum(terms: list[Cells]) -> Cells:
    total = terms[0]
    for x in terms[1:]:
        total = apply("add", total, x)
    return total
