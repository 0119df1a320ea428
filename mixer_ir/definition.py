"""The definition of an expression with symbols for entries: what a lowered program must equal, exactly.

Plain loops over t, straight from the docstrings of the nodes, on a few steps; it shares nothing with lowering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mixer_ir import expr as e
from mixer_ir.cells import Cells, apply, contract, mul, number, stack
from mixer_ir.definition_entries import Entries
from mixer_ir.errors import DeclarationError
from mixer_ir.expr import SOURCE, TIME, Expr
from mixer_ir.matrix import Apply
from mixer_ir.node import Node, walk
from mixer_ir.process import Process, Read, Recurrence, Run, State, Transition


@dataclass
class Definition:
    """Expressions evaluated on given cells.

    states   what states are before the first step: symbols where given, else zero
    given    expressions that stand for themselves, with their values at every t
    """

    signals: Mapping[str, Cells]
    sizes: dict[str, int]
    states: Mapping[str, Cells] = field(default_factory=dict)
    memo: dict[Node, Cells] = field(default_factory=dict)
    backward: Definition | None = None

    def flipped(self) -> Definition:
        """The same with every signal reversed in time."""
        if self.backward is None:
            signals = {n: x.flip(TIME, SOURCE) for n, x in self.signals.items()}
            self.backward = Definition(signals, self.sizes, self.states, backward=self)
        return self.backward

    def of(self, x: Expr) -> Cells:
        """The values of an expression at all t."""
        for here in walk(x):
            if isinstance(here, Expr) and here not in self.memo and not reads_state(here):
                self.memo[here] = self._of(here, self.memo)
        return self.memo[x]

    def _of(self, x: Expr, memo: Mapping[Node, Cells]) -> Cells:
        match x:
            case e.Literal(value=value):
                return number(value)
            case e.Signal(name=name):
                return self.signals[name]
            case e.Call(fn=fn, args=args):
                return apply(fn, *(memo[a] for a in args))
            case e.Contract(left=left, right=right, over=over):
                return contract(memo[left], memo[right], over)
            case e.Reduce(fn=fn, of=of, over=over):
                return memo[of].fold({"sum": "add"}.get(fn, fn), over)
            case e.Rename(of=of, old=old, new=new):
                return memo[of].named(old, new)
            case e.Index(axis=axis):
                return stack([number(i) for i in range(self.sizes[axis])], axis)
            case e.Size(axis=axis):
                return number(self.sizes[axis])
            case e.Take(table=table, axis=axis, index=index):
                return _taken(memo[table], axis, memo[index])
            case e.Join(parts=parts, along=along, axis=axis):
                named = [memo[p].named(a, axis) for p, a in zip(parts, along, strict=True)]
                return stack([x.at(axis, i) for x in named for i in range(x.sizes[axis])], axis)
            case e.Detach(of=of):
                return memo[of]
            case e.Reverse(of=of):
                return memo[of].flip(TIME)
            case e.Cumulate(fn=fn, of=of, reset=reset):
                return self._cumulate(fn, memo[of], None if reset is None else memo[reset])
            case e.Delay(of=of, by=by, reset=reset):
                return self._delay(memo[of], by, None if reset is None else memo[reset])
            case Apply(matrix=M, of=of):
                return self._apply(M, memo[of])
            case Read():
                return self._read(x)
            case Run(recurrence=recurrence):
                return self._run(recurrence)
        raise DeclarationError(f"{type(x).__name__} has no symbolic meaning")

    @property
    def steps(self) -> range:
        return range(self.sizes[TIME])

    # ------------------------------------------------------------------ along time

    def _cumulate(self, fn: str, x: Cells, reset: Cells | None) -> Cells:
        join = {"sum": "add", "prod": "mul"}.get(fn, fn)
        out = [x.at(TIME, 0)]
        for t in self.steps[1:]:
            new = apply(join, out[-1], x.at(TIME, t))
            out.append(new if reset is None else apply("where", reset.at(TIME, t), x.at(TIME, t), new))
        return stack(out, TIME)

    def _delay(self, x: Cells, by: int, reset: Cells | None) -> Cells:
        out = []
        for t in self.steps:
            here = x.at(TIME, t - by) if t - by in self.steps else apply("mul", x.at(TIME, t), 0)
            if reset is not None and t - by in self.steps:
                for crossed in range(min(t, t - by) + 1, max(t, t - by) + 1):
                    here = apply("where", reset.at(TIME, crossed), 0, here)
            out.append(here)
        return stack(out, TIME)

    def _apply(self, M: Node, v: Cells) -> Cells:
        column = TIME if TIME in v.axes else SOURCE
        n = self.sizes[column]
        entries = Entries(self, len(self.steps), n)
        rows = []
        for t in self.steps:
            terms = [mul(entries.of(M, t, s), v.at(column, s)) for s in range(n)]
            rows.append(_sum(terms))
        return stack(rows, TIME)

    def _read(self, r: Read) -> Cells:
        states = self.states_of(r.process)
        query = self.of(r.query)
        at = 0 if r.before else 1
        return stack([contract(query.at(TIME, t), states[t + at], r.process.over) for t in self.steps], TIME)

    def states_of(self, p: Process) -> list[Cells]:
        """S_{−1}, S_0 …"""
        S = self.states.get(p.name, number(0))
        found = [S]
        for t in self.steps:
            if p.reset is not None:
                S = apply("where", self.of(p.reset).at(TIME, t), 0, S)
            S = self.step(p.transition, S, t)
            for k, v in p.inputs:
                S = apply("add", S, mul(self.of(k).at(TIME, t), self.of(v).at(TIME, t)))
            found.append(S)
        return found

    def step(self, A: Transition, S: Cells, t: int) -> Cells:
        """A_t S."""

        def at(x: Expr) -> Cells:
            return self.of(x).at(TIME, t)

        if A.dense is not None:
            if A.row is None or A.along is None:
                raise DeclarationError("a dense transition names its row and its column axis")
            return contract(at(A.dense), self._full(S, A.along), (A.along,)).named(A.row, A.along)
        new = S
        if A.log is not None:
            new = mul(apply("exp", at(A.log)), S)
        elif A.factor is not None:
            new = mul(at(A.factor), S)
        over = (A.along,) if A.along else ()
        for a, b in A.low_rank:
            new = apply("add", new, mul(at(a), contract(at(b), S, over)))
        return new

    def _full(self, S: Cells, axis: str) -> Cells:
        return S if axis in S.axes else stack([S] * self.sizes[axis], axis)

    def _run(self, r: Recurrence) -> Cells:
        states = {s: self.states.get(s.name, _zeros(s, self.sizes)) for s in r.states}
        out = []
        for t in self.steps:
            if r.reset is not None:
                here = self.of(r.reset).at(TIME, t)
                states = {s: apply("where", here, 0, x) for s, x in states.items()}
            new, y = self.update(r, states, t)
            states = new
            out.append(y)
        return stack(out, TIME)

    def update(self, r: Recurrence, states: Mapping[State, Cells], t: int) -> tuple[dict[State, Cells], Cells]:
        """The states after step t, and the output at t."""
        memo: dict[Node, Cells] = dict(states.items())

        def now(x: Expr) -> Cells:
            for here in walk(x):
                if isinstance(here, Expr) and here not in memo:
                    memo[here] = self._of(here, memo) if reads_state(here) else self.of(here).at(TIME, t)
            return memo[x]

        y = now(r.output)
        return {s: now(u) for s, u in zip(r.states, r.updates, strict=True)}, y


def _zeros(s: State, sizes: Mapping[str, int]) -> Cells:
    made = number(0)
    for axis in s.axes:
        made = stack([made] * sizes[axis], axis)
    return made


def _taken(table: Cells, axis: str, index: Cells) -> Cells:
    axes = e.union(index.axes, e.without(table.axes, (axis,)))
    sizes = {**table.sizes, **index.sizes}
    rows, chosen = table.to((*axes, axis), sizes), index.to(axes, sizes)
    data = np.empty(chosen.shape, dtype=object)
    for i in np.ndindex(*chosen.shape):
        data[i] = rows[(*i, int(chosen[i]))]
    return Cells(axes, data)


def _sum(terms: list[Cells]) -> Cells:
    total = terms[0]
    for x in terms[1:]:
        total = apply("add", total, x)
    return total


def reads_state(x: Node) -> bool:
    """Whether an expression has a value only inside a step of a recurrence."""
    if isinstance(x, State):
        return True
    if isinstance(x, Run):
        return False
    return any(reads_state(c) for c in x.children() if isinstance(c, Expr))
