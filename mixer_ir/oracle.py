"""The oracle: every expression and every matrix by its definition, in float64, with plain loops over time.

It shares nothing with lowering: this is what the compiled forms are compared with. Differentiable by autograd; made
for short sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mixer_ir import expr as e
from mixer_ir.errors import DeclarationError
from mixer_ir.expr import SOURCE, TIME, Axes, Expr
from mixer_ir.matrix import Apply, Matrix
from mixer_ir.named import Array, apply, contract, exact, mul, number, stack, where
from mixer_ir.node import Node, walk
from mixer_ir.oracle_entries import entries_of
from mixer_ir.process import Process, Read, Recurrence, Run, State, Transition

Initial: TypeAlias = Mapping[str, tuple[Tensor, Axes]]


def evaluate(
    expr: Expr,
    signals: Mapping[str, Tensor],
    axes: Mapping[str, Axes],
    returns: Axes | None = None,
    initial: Initial | None = None,
) -> Tensor:
    """The values of `expr` laid out as `returns` (by default its own axes).

    signals, axes   each signal's tensor and the names of its dimensions
    initial         states before the first step, with their axes; zero where not given
    """
    oracle = Oracle.on(signals, axes, initial)
    out = oracle.value(expr)
    order = expr.axes if returns is None else returns
    return out.to(order, oracle.sizes)


def entries(
    matrix: Matrix, signals: Mapping[str, Tensor], axes: Mapping[str, Axes], initial: Initial | None = None
) -> tuple[Tensor, Axes]:
    """The entries M[…, t, s] and their axes: those over which the matrix differs, then t, then s."""
    oracle = Oracle.on(signals, axes, initial)
    out = oracle.entries(matrix)
    order = (*matrix.axes, TIME, SOURCE)
    return out.to(order, oracle.sizes), order


@dataclass
class Oracle:
    """Expressions evaluated on given signals; `states` collects the last state of every process that was run."""

    signals: Mapping[str, Array]
    sizes: dict[str, int]
    initial: Mapping[str, Array] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)
    mirror: Oracle | None = None
    """the same oracle on signals reversed in time"""
    backward: bool = False
    memo: dict[Node, Array] = field(default_factory=dict)
    runs: dict[Node, list[Array]] = field(default_factory=dict)

    @classmethod
    def on(cls, signals: Mapping[str, Tensor], axes: Mapping[str, Axes], initial: Initial | None = None) -> Oracle:
        named = {n: Array(tuple(axes[n]), exact(x.cpu())) for n, x in signals.items()}
        states = {n: Array(tuple(a), exact(x.cpu())) for n, (x, a) in (initial or {}).items()}
        sizes = {a: n for x in named.values() for a, n in x.sizes.items()}
        if TIME in sizes:
            sizes.setdefault(SOURCE, sizes[TIME])
        return cls(named, sizes, states)

    def flipped(self) -> Oracle:
        """This oracle on the signals reversed in time."""
        if self.mirror is None:
            signals = {n: x.flip(TIME, SOURCE) for n, x in self.signals.items()}
            self.mirror = Oracle(signals, self.sizes, self.initial, self.states, self, not self.backward)
        return self.mirror

    def filters(self) -> Oracle:
        """The oracle for parts whose axis counts lags: those are never reversed."""
        return self.flipped() if self.backward else self

    def value(self, x: Expr) -> Array:
        """The values of an expression, over all t at once."""
        for node in walk(x):
            if isinstance(node, e.Rename) and node.old in self.sizes:
                self.sizes.setdefault(node.new, self.sizes[node.old])
        for node in walk(x):  # children first, so that deep expressions need no deep stack
            if isinstance(node, Expr) and node not in self.memo and not _inside_step(node):
                self.memo[node] = self._value(node)
        return self.memo[x]

    def entries(self, M: Matrix) -> Array:
        """The entries of a matrix with the axes t and s among its own; square but for cross mixing."""
        cross = any(SOURCE in n.axes for n in walk(M) if isinstance(n, e.Signal))
        return entries_of(M, self, self.sizes[TIME], self.sizes[SOURCE] if cross else self.sizes[TIME])

    def _value(self, x: Expr) -> Array:
        of = self.memo
        match x:
            case e.Literal(value=v):
                return number(v)
            case e.Signal(name=name):
                return self.signals[name]
            case e.Call(fn=fn, args=args):
                return apply(fn, *(of[a] for a in args))
            case e.Contract(left=left, right=right, over=over):
                return contract(of[left], of[right], over)
            case e.Reduce(fn=fn, of=part, over=over):
                return _reduce(fn, of[part], over)
            case e.Cumulate(fn=fn, of=part, reset=reset):
                return _cumulate(fn, of[part], None if reset is None else of[reset], self.sizes)
            case e.Delay(of=part, by=by, reset=reset):
                return _delay(of[part], by, None if reset is None else of[reset], self.sizes)
            case e.Reverse(of=part):
                return of[part].flip(TIME)
            case e.Rename(of=part, old=old, new=new):
                return of[part].named(old, new)
            case e.Index(axis=axis):
                return Array((axis,), torch.arange(self.sizes[axis]))
            case e.Size(axis=axis):
                return number(self.sizes[axis])
            case e.Take(table=table, axis=axis, index=index):
                return _take(of[table], axis, of[index])
            case e.Join(parts=parts, along=along, axis=axis):
                return _join([of[p].named(a, axis) for p, a in zip(parts, along, strict=True)], axis)
            case e.Detach(of=part):
                return Array(of[part].axes, of[part].data.detach())
            case Apply(matrix=M, of=part):
                return self._applied(M, of[part])
            case Read(process=process, query=query, before=before):
                ts = range(self.sizes[TIME])
                return stack(
                    [contract(of[query].at(TIME, t), self._seen(process, t, before), process.over) for t in ts], TIME
                )
            case Run(recurrence=recurrence):
                return self._run(recurrence)
        raise DeclarationError(f"the oracle has no meaning for {type(x).__name__}")

    def _applied(self, M: Matrix, v: Array) -> Array:
        """y_t = Σ_s M[t, s] v_s"""
        v = v.named(TIME, SOURCE)
        return contract(entries_of(M, self, self.sizes[TIME], v.sizes[SOURCE]), v, (SOURCE,))

    # ------------------------------------------------------------------ states

    def _seen(self, p: Process, t: int, before: bool) -> Array:
        """S_t; or S_{t−1} as the step finds it, dropped where it is reset."""
        S = self._process(p)
        if not before:
            return S[t + 1]
        return S[t] if p.reset is None else where(self.value(p.reset).at(TIME, t), number(0), S[t])

    def _process(self, p: Process) -> list[Array]:
        """S_{−1}, S_0, S_1 … of a process."""
        if p in self.runs:
            return self.runs[p]
        parts = [self.value(x) for x in (*p.transition.exprs, *(x for pair in p.inputs for x in pair))]
        sizes = {**self.sizes, **{a: n for x in parts for a, n in x.sizes.items()}}
        S = self._start(p.name, (*e.without(p.batch, p.axes), *p.axes), sizes)
        states = [S]
        for t in range(self.sizes[TIME]):
            if p.reset is not None:
                S = where(self.value(p.reset).at(TIME, t), number(0), S)
            S = self.step(p.transition, S, t)
            for key, value in p.inputs:
                S = apply("add", S, mul(self.value(key).at(TIME, t), self.value(value).at(TIME, t)))
            states.append(S)
        self.runs[p] = states
        self.states[p.name] = S
        return states

    def step(self, A: Transition, S: Array, t: int) -> Array:
        """A_t S"""

        def at(x: Expr) -> Array:
            return self.value(x).at(TIME, t)

        if A.dense is not None:
            if A.row is None or A.along is None:
                raise DeclarationError("a dense transition needs the names of its row and column axes")
            return contract(at(A.dense), S, (A.along,)).named(A.row, A.along)
        new = S
        if A.log is not None:
            new = mul(apply("exp", at(A.log)), S)
        elif A.factor is not None:
            new = mul(at(A.factor), S)
        for a, b in A.low_rank:
            new = apply("add", new, mul(at(a), contract(at(b), S, (A.along,) if A.along else ())))
        return new

    def _start(self, name: str, axes: Axes, sizes: Mapping[str, int]) -> Array:
        if name in self.initial:
            return self.initial[name]
        return Array(axes, torch.zeros([sizes[a] for a in axes], dtype=torch.float64))

    def _run(self, r: Recurrence) -> Array:
        """The outputs of a traced update at every t, step by step."""
        S: dict[Node, Array] = {
            s: self._start(s.name, (*e.without(r.batch, (TIME,)), *s.axes), self.sizes) for s in r.states
        }
        outputs = []
        for t in range(self.sizes[TIME]):
            if r.reset is not None:
                here = self.value(r.reset).at(TIME, t)
                S = {s: where(here, number(0), x) for s, x in S.items()}
            now: dict[Node, Array] = {**S}
            outputs.append(self._now(r.output, t, now))
            S = {s: self._now(u, t, now) for s, u in zip(r.states, r.updates, strict=True)}
        self.states.update({s.name: S[s] for s in r.states})
        return stack(outputs, TIME)

    def _now(self, x: Expr, t: int, now: dict[Node, Array]) -> Array:
        """The value of `x` at step t; `now` holds the old states and what was computed from them."""
        for node in walk(x, (Run,)):
            if not isinstance(node, Expr) or node in now:
                continue
            if not _inside_step(node):
                now[node] = self.value(node).at(TIME, t)
                continue
            match node:
                case e.Call() | e.Contract() | e.Reduce() | e.Rename() | e.Take() | e.Detach():
                    now[node] = Oracle(self.signals, self.sizes, memo=now)._value(node)
                case _:
                    raise DeclarationError(f"{type(node).__name__} of a state inside a recurrence has no meaning")
        return now[x]


def _inside_step(x: Expr) -> bool:
    """Whether `x` reads a recurrence's state, so that it has a value only inside a step."""
    if isinstance(x, State):
        return True
    if isinstance(x, Run):
        return False
    if x not in _READS_STATE:
        _READS_STATE[x] = any(_inside_step(c) for c in x.children() if isinstance(c, Expr))
    return _READS_STATE[x]


_READS_STATE: WeakKeyDictionary[Expr, bool] = WeakKeyDictionary()


# ------------------------------------------------------------------ along an axis


def _reduce(fn: str, x: Array, over: Axes) -> Array:
    dims = [x.axes.index(a) for a in over if a in x.axes]
    reduced = {"sum": lambda: x.data.sum(dims), "max": lambda: x.data.amax(dims), "min": lambda: x.data.amin(dims)}
    return Array(e.without(x.axes, over), reduced[fn]()) if dims else x


def _cumulate(fn: str, x: Array, reset: Array | None, sizes: Mapping[str, int]) -> Array:
    """y_t = fn(y_{t−1}, x_t), from x_t alone where reset is true."""
    join = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}[fn]
    out = [x.at(TIME, 0)]
    for t in range(1, sizes[TIME]):
        new = apply(join, out[-1], x.at(TIME, t))
        out.append(new if reset is None else where(reset.at(TIME, t), x.at(TIME, t), new))
    return stack(out, TIME)


def _delay(x: Array, by: int, reset: Array | None, sizes: Mapping[str, int]) -> Array:
    """y_t = x_{t−by}, zero outside the sequence or the packed piece."""
    T = sizes[TIME]
    piece = None if reset is None else Array(reset.axes, reset.data.long().cumsum(reset.axes.index(TIME)))
    out = []
    for t in range(T):
        if not 0 <= t - by < T:
            out.append(apply("mul", x.at(TIME, t), 0))
            continue
        here = x.at(TIME, t - by)
        same = None if piece is None else apply("eq", piece.at(TIME, t), piece.at(TIME, t - by))
        out.append(here if same is None else where(same, here, number(0)))
    return stack(out, TIME)


def _join(parts: list[Array], axis: str) -> Array:
    """The parts one after the other along `axis`."""
    rest = e.union(*(e.without(p.axes, (axis,)) for p in parts))
    sizes = {a: n for p in parts for a, n in p.sizes.items()}
    data = [p.to((*rest, axis), sizes) for p in parts]
    kind = data[0].dtype
    for x in data[1:]:
        kind = torch.promote_types(kind, x.dtype)
    return Array((*rest, axis), torch.cat([x.to(kind) for x in data], -1))


def _take(table: Array, axis: str, index: Array) -> Array:
    """table[axis = index], shared axes matched entry by entry."""
    rows = table.named(axis, "_row")
    axes = e.union(index.axes, e.without(rows.axes, ("_row",)))
    sizes = {**rows.sizes, **index.sizes}
    chosen = index.to(axes, sizes).unsqueeze(-1).to(torch.int64)
    return Array(axes, torch.gather(rows.to((*axes, "_row"), sizes), -1, chosen).squeeze(-1))
