"""The entries of every matrix node by its docstring.

A row part is read at t, a column part at s (whether it was declared over t or over s). A filter's axis counts lags,
not time, so that running a Toeplitz matrix backward in time keeps its filter. Inside `resets`, every node is cut to
the packed pieces. A softmax runs over the entries that the modifiers inside it leave (causal, band, mask, decay,
resets). A masked score is −∞, and so is any sum with it: an entry of a sum counts where all of its terms do.
"""

from __future__ import annotations

from functools import reduce
from typing import Generic, Protocol

from mixer_ir.definition.named import A, apply, contract, mul, numbered, stack, total, where
from mixer_ir.errors import AxisError, DeclarationError
from mixer_ir.nodes import matrix as m
from mixer_ir.nodes.expr import SOURCE, TIME, Expr, Signal
from mixer_ir.nodes.matrix import Matrix
from mixer_ir.nodes.node import walk
from mixer_ir.nodes.process import Transition


class Values(Protocol[A]):
    """What the entries need of the definition."""

    kind: type[A]

    def value(self, x: Expr) -> A: ...

    def flipped(self) -> Values[A]: ...

    def filters(self) -> Values[A]: ...

    def step(self, transition: Transition, S: A, t: int) -> A: ...


def entries_of(M: Matrix, on: Values[A], rows: int, columns: int) -> A:
    """M[t, s] for t < rows, s < columns, with the axes t and s."""
    return Entries(on, on.filters(), rows, columns, ()).full(M)


class Entries(Generic[A]):
    """Entries of one size; `lags` evaluates filters, `pieces` are the packed pieces (numbered along t)."""

    def __init__(self, on: Values[A], lags: Values[A], rows: int, columns: int, pieces: tuple[A, ...]) -> None:
        self.on, self.lags, self.rows, self.columns, self.pieces = on, lags, rows, columns, pieces
        self.t = on.kind.places(TIME, rows)
        self.s = on.kind.places(SOURCE, columns)
        self.lag = apply("sub", self.t, self.s)

    def sized(self, rows: int, columns: int) -> Entries[A]:
        return Entries(self.on, self.lags, rows, columns, self.pieces)

    def backward(self) -> Entries[A]:
        """The entries on signals reversed in time; filters stay."""
        pieces = tuple(p.flip(TIME) for p in self.pieces)
        return Entries(self.on.flipped(), self.lags, self.rows, self.columns, pieces)

    def row(self, x: Expr) -> A:
        """x read at t."""
        made = self.on.value(x)
        return made if TIME in made.axes else made.named(SOURCE, TIME)

    def column(self, x: Expr) -> A:
        """x read at s."""
        made = self.on.value(x)
        return made if SOURCE in made.axes else made.named(TIME, SOURCE)

    def keep(self, condition: A, x: A | int) -> A:
        return where(condition, x, 0)

    def same_piece(self) -> A | None:
        if not self.pieces:
            return None
        if self.rows != self.columns:
            raise AxisError(f"packed pieces need a square matrix, not {self.rows} rows and {self.columns} columns")
        return _all([apply("eq", p, p.named(TIME, SOURCE)) for p in self.pieces])

    def of(self, M: Matrix) -> A:
        """The entries of M, cut to the packed pieces."""
        made, same = self.whole(M), self.same_piece()
        return made if same is None else self.keep(same, made)

    def full(self, M: Matrix) -> A:
        """The entries of M, with both axes t and s."""
        return self.wide(self.of(M))

    def wide(self, x: A) -> A:
        return x.spread({TIME: self.rows, SOURCE: self.columns})

    def whole(self, M: Matrix) -> A:
        match M:
            case m.Diagonal(d=d):
                return self.keep(apply("eq", self.lag, 0), self.row(d))
            case m.Identity():
                return self.keep(apply("eq", self.lag, 0), 1)
            case m.LowRank(q=q, k=k, over=over):
                return contract(self.row(q), self.column(k), over)
            case m.Semiseparable():
                return self._semiseparable(M)
            case m.Toeplitz(h=h, anti=anti, lags=lags):
                below = self._lag(h, lags, self.lag)
                return below if anti is None else apply("add", below, self._anti(anti, lags))
            case m.Circulant(h=h):
                return self._lag(h, TIME, apply("mod", self.lag, self.rows))
            case m.Vandermonde(x=x, weight=weight, over=over):
                powers = self._powers(self.row(x))
                return (powers if weight is None else mul(self.row(weight), powers)).folded("sum", over)
            case m.Cauchy(x=x, y=y, over=over):
                return apply("div", 1, apply("sub", self.row(x), self.column(y))).folded("sum", over)
            case m.Fourier(inverse=inverse):
                turn = apply("mul", mul(self.t, self.s), 1 if inverse else -1)
                return apply("div", turn.root(self.rows), self.rows if inverse else 1)
            case m.Monarch():
                return self._monarch(M)
            case m.Dense(m=x):
                return self.on.value(x)
            case m.Causal(of=of) | m.Band(of=of) | m.Mask(of=of):
                return self.keep(self._mask(M), self.of(of))
            case m.Decay(of=of):
                return mul(self._decay(M), self.of(of))
            case m.Softmax(of=of):
                return self._softmax(of)
            case m.Normalize(of=of, eps=eps, floor=floor):
                made = self.full(of)
                n = apply("add", made.folded("sum", (SOURCE,)), eps)
                return apply("div", made, n if floor is None else apply("max", apply("abs", n), self.row(floor)))
            case m.Transpose(of=of):
                return _swapped(self.sized(self.columns, self.rows).of(of))
            case m.Flip(of=of):
                return self.backward().of(of).flip(TIME, SOURCE)
            case m.Shift(of=of, by=by):
                return self._shift(self.of(of), by)
            case m.Resets(of=of, reset=reset):
                return self._inside(reset).of(of)
            case m.Sum(terms=terms):
                return total([self.of(x) for x in terms])
            case m.Product(factors=factors):
                return self._product(factors)
            case m.Scale(factor=factor, of=of):
                return mul(self.on.value(factor), self.of(of))
            case m.Entrywise(fn=fn, args=args):
                return apply(fn, *(self.of(x) for x in args))
        raise DeclarationError(f"{type(M).__name__} has no definition")

    # ------------------------------------------------------------------ leaves

    def _semiseparable(self, M: m.Semiseparable) -> A:
        """Column s of the state is A_t … A_{s+1} B_s; it is zero until step s."""
        C, B = self.row(M.C), self.column(M.B)
        parts = [self.on.value(x) for x in (M.C, M.B, *M.A.exprs)]
        sizes = {a: n for x in parts for a, n in x.sizes.items()}
        S = self.on.kind.number(0.0).spread({a: sizes[a] for a in M.over})
        rows = []
        for t in range(self.rows):
            after = apply("add", self.on.step(M.A, S, t), self.keep(apply("eq", self.s, t), B))
            rows.append(contract(C.at(TIME, t), S if M.strict else after, M.over))
            S = after
        return stack(rows, TIME)

    def _lag(self, h: Expr, lags: str, lag: A) -> A:
        """h[lag], zero where there is no such lag."""
        filt = self.lags.value(h)
        if lags not in filt.axes:
            return self.keep(apply("le", 0, lag), filt)
        n = filt.sizes[lags]
        inside = apply("and", apply("le", 0, lag), apply("lt", lag, n))
        return self.keep(inside, filt.picked(lags, apply("clamp", lag, 0, n - 1)))

    def _anti(self, g: Expr, lags: str) -> A:
        """g[s − t] for s > t."""
        back = apply("neg", self.lag)
        return self.keep(apply("lt", 0, back), self._lag(g, lags, back))

    def _powers(self, x: A) -> A:
        powers = [apply("add", apply("mul", x, 0), 1)]
        for _ in range(1, self.columns):
            powers.append(mul(powers[-1], x))
        return stack(powers, SOURCE)

    def _monarch(self, M: m.Monarch) -> A:
        (i, l), (k, j) = M.grid, M.rows
        return mul(self.on.value(M.left), self.on.value(M.right)).merged((i, j), TIME).merged((k, l), SOURCE)

    # ------------------------------------------------------------------ modifiers

    def _mask(self, M: m.Causal | m.Band | m.Mask) -> A:
        match M:
            case m.Causal():
                return apply("le", 0, self.lag)
            case m.Band(before=before, after=after):
                kept = [apply("eq", self.lag, self.lag)]
                kept += [] if before is None else [apply("lt", self.lag, before)]
                kept += [] if after is None else [apply("le", -after, self.lag)]
                return _all(kept)
            case m.Mask(mask=mask):
                return self.on.value(mask)

    def _decay(self, M: m.Decay) -> A:
        """a_t a_{t−1} … a_{s+1} for s ≤ t, else 0."""
        given = M.log if M.log is not None else M.factor
        if given is None:
            raise DeclarationError("a decay needs its log or its factor")
        a = self.row(given) if M.factor is not None else apply("exp", self.row(given))
        P, rows = apply("mul", self.s, 0), []
        for t in range(self.rows):
            P = where(apply("eq", self.s, t), 1.0, mul(a.at(TIME, t), P))
            rows.append(P)
        return stack(rows, TIME)

    def _softmax(self, of: Matrix) -> A:
        x, left = self.of(of), _both(self.support(of), self.same_piece())
        full = self.wide(self.on.kind.number(True) if left is None else left)
        top = where(full, x, float("-inf")).peak(SOURCE)
        weights = self.keep(full, apply("exp", apply("sub", where(full, x, top), top)))
        sums = weights.folded("sum", (SOURCE,))
        return apply("div", weights, where(apply("eq", sums, 0), 1.0, sums))

    def _shift(self, x: A, by: int) -> A:
        """Row t is row t − by, zero outside."""
        full = x.spread({TIME: self.rows})
        zero = apply("mul", full.at(TIME, 0), 0)
        inside = range(self.rows)
        return stack([full.at(TIME, t - by) if t - by in inside else zero for t in inside], TIME)

    def _inside(self, reset: Expr) -> Entries[A]:
        pieces = numbered(self.row(reset), self.rows)
        return Entries(self.on, self.lags, self.rows, self.columns, (*self.pieces, pieces))

    def _product(self, factors: tuple[Matrix, ...]) -> A:
        """Rows stay until the first factor that mixes across from s to t; from there on, all is over s."""
        cross = [not isinstance(f, m.Diagonal) and _across(f) for f in factors]
        turn = cross.index(True) if True in cross else len(factors) - 1
        made: A | None = None
        for i, f in enumerate(factors):
            rows, columns = self.rows if i <= turn else self.columns, self.rows if i < turn else self.columns
            here = self.sized(rows, columns).full(f)
            made = here if made is None else contract(made.named(SOURCE, "_"), here.named(TIME, "_"), ("_",))
        if made is None:
            raise DeclarationError("a product of no matrices")
        return made

    # ------------------------------------------------------------------ which entries a softmax counts

    def support(self, M: Matrix) -> A | None:
        """Where M has entries that no modifier has masked away; None is everywhere."""
        match M:
            case m.Causal(of=of) | m.Band(of=of) | m.Mask(of=of):
                return _both(self._mask(M), self.support(of))
            case m.Decay(of=of):
                return _both(apply("le", 0, self.lag), self.support(of))
            case m.Resets(of=of, reset=reset):
                piece = self._inside(reset)
                return _both(piece.same_piece(), piece.support(of))
            case m.Scale(of=of) | m.Normalize(of=of) | m.Softmax(of=of):
                return self.support(of)
            case m.Transpose(of=of):
                kept = self.sized(self.columns, self.rows).support(of)
                return None if kept is None else _swapped(kept)
            case m.Flip(of=of):
                kept = self.backward().support(of)
                return None if kept is None else kept.flip(TIME, SOURCE)
            case m.Shift(of=of, by=by):
                kept = self.support(of)
                inside = apply("and", apply("le", by, self.t), apply("lt", self.t, self.rows + by))
                return _both(inside, None if kept is None else self._shift(kept, by))
            case m.Sum(terms=args) | m.Entrywise(args=args):
                some = [k for k in map(self.support, args) if k is not None]
                return _all(some) if some else None
        return None


def _across(M: Matrix) -> bool:
    """Whether a part of M is over s."""
    return any(SOURCE in x.axes for x in walk(M) if isinstance(x, Signal))


def _swapped(x: A) -> A:
    return x.named(TIME, "_").named(SOURCE, TIME).named("_", SOURCE)


def _all(conditions: list[A]) -> A:
    return reduce(lambda x, y: apply("and", x, y), conditions)


def _both(x: A | None, y: A | None) -> A | None:
    kept = [c for c in (x, y) if c is not None]
    return _all(kept) if kept else None
