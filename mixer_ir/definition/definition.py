"""The definition of every expression: its value with plain loops over t, straight from the docstrings of the nodes.

It shares nothing with lowering. Written once for both kinds of entries (named.py): with numbers it is the
oracle that forms are compared with, with symbols it is what a lowered program must equal exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic
from weakref import WeakKeyDictionary

from mixer_ir.definition.entries import entries_of
from mixer_ir.definition.named import A, apply, contract, mul, numbered, running, stack, total, where
from mixer_ir.errors import DeclarationError
from mixer_ir.nodes import expr as e
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Expr
from mixer_ir.nodes.matrix import Apply, Matrix
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.process import Process, Read, Recurrence, Run, State, Transition

JOINS = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


@dataclass
class Definition(Generic[A]):
    """Expressions evaluated on given signals.

    kind     what entries are: numbers or formulas
    initial  states before the first step by name; zero where not given
    mirror   the same definition on signals reversed in time; `backward` says which of the two this is
    """

    kind: type[A]
    signals: Mapping[str, A]
    sizes: dict[str, int]
    initial: Mapping[str, A] = field(default_factory=dict)
    mirror: Definition[A] | None = None
    backward: bool = False
    memo: dict[Node, A] = field(default_factory=dict)
    runs: dict[Node, list[A]] = field(default_factory=dict)

    def flipped(self) -> Definition[A]:
        """This definition on the signals reversed in time."""
        if self.mirror is None:
            signals = {n: x.flip(TIME, SOURCE) for n, x in self.signals.items()}
            self.mirror = Definition(self.kind, signals, self.sizes, self.initial, self, not self.backward)
        return self.mirror

    def filters(self) -> Definition[A]:
        """The definition for parts whose axis counts lags: those are never reversed."""
        return self.flipped() if self.backward else self

    def value(self, x: Expr) -> A:
        """The values of an expression, over all t at once."""
        for node in walk(x):
            if isinstance(node, e.Rename) and node.old in self.sizes:
                self.sizes.setdefault(node.new, self.sizes[node.old])
        for node in walk(x):  # children first, so that deep expressions need no deep stack
            if isinstance(node, Expr) and node not in self.memo and not _inside_step(node):
                self.memo[node] = self._value(node, self.memo)
        return self.memo[x]

    def entries(self, M: Matrix) -> A:
        """The entries of a matrix with the axes t and s among its own; square but for cross mixing."""
        cross = any(SOURCE in n.axes for n in walk(M) if isinstance(n, e.Signal))
        return entries_of(M, self, self.sizes[TIME], self.sizes[SOURCE] if cross else self.sizes[TIME])

    @property
    def steps(self) -> range:
        return range(self.sizes[TIME])

    def _value(self, x: Expr, of: Mapping[Node, A]) -> A:
        match x:
            case e.Literal(value=v):
                return self.kind.number(v)
            case e.Signal(name=name):
                return self.signals[name]
            case e.Call(fn=fn, args=args):
                return apply(fn, *(of[a] for a in args))
            case e.Contract(left=left, right=right, over=over):
                return contract(of[left], of[right], over)
            case e.Reduce(fn=fn, of=part, over=over):
                return of[part].folded(fn, over)
            case e.Cumulate(fn=fn, of=part, reset=reset):
                packed = None if reset is None else of[reset]
                return running(JOINS[fn], of[part], len(self.steps), packed)
            case e.Delay(of=part, by=by, reset=reset):
                return self._delay(of[part], by, None if reset is None else of[reset])
            case e.Reverse(of=part):
                return of[part].flip(TIME)
            case e.Rename(of=part, old=old, new=new):
                return of[part].named(old, new)
            case e.Index(axis=axis):
                return self.kind.places(axis, self.sizes[axis])
            case e.Size(axis=axis):
                return self.kind.number(self.sizes[axis])
            case e.Take(table=table, axis=axis, index=index):
                return of[table].picked(axis, of[index])
            case e.Join(parts=parts, along=along, axis=axis):
                named = [of[p].named(a, axis) if a else of[p] for p, a in zip(parts, along, strict=True)]
                return stack([x.at(axis, i) for x in named for i in range(x.sizes.get(axis, 1))], axis)
            case e.Detach(of=part):
                return of[part].detached()
            case Apply(matrix=M, of=part):
                return self._applied(M, of[part])
            case Read(process=p, query=query, before=before):
                seen = [self._seen(p, t, before) for t in self.steps]
                return stack([contract(of[query].at(TIME, t), S, p.over) for t, S in enumerate(seen)], TIME)
            case Run(recurrence=recurrence):
                return self._run(recurrence)
        raise DeclarationError(f"{type(x).__name__} has no definition")

    def _delay(self, x: A, by: int, reset: A | None) -> A:
        """y_t = x_{t−by}, zero outside the sequence or the packed piece."""
        piece = None if reset is None else numbered(reset, len(self.steps))
        out = []
        for t in self.steps:
            if t - by not in self.steps:
                out.append(apply("mul", x.at(TIME, t), 0))
                continue
            here = x.at(TIME, t - by)
            same = None if piece is None else apply("eq", piece.at(TIME, t), piece.at(TIME, t - by))
            out.append(here if same is None else where(same, here, 0))
        return stack(out, TIME)

    def _applied(self, M: Matrix, v: A) -> A:
        """y_t = Σ_s M[t, s] v_s"""
        v = v.named(TIME, SOURCE)
        return contract(entries_of(M, self, len(self.steps), v.sizes[SOURCE]), v, (SOURCE,))

    # ------------------------------------------------------------------ states

    def entering(self, S: A, reset: Expr | None, t: int) -> A:
        """S_{t−1} as step t finds it: dropped where a packed piece begins."""
        return S if reset is None else where(self.value(reset).at(TIME, t), 0, S)

    def _seen(self, p: Process, t: int, before: bool) -> A:
        """S_t; or what step t found."""
        S = self.states_of(p)
        return self.entering(S[t], p.reset, t) if before else S[t + 1]

    def states_of(self, p: Process) -> list[A]:
        """S_{−1}, S_0, S_1 … of a process."""
        if p in self.runs:
            return self.runs[p]
        parts = [self.value(x) for x in (*p.transition.exprs, *(x for pair in p.inputs for x in pair))]
        sizes = {**self.sizes, **{a: n for x in parts for a, n in x.sizes.items()}}
        states = [self._start(p.name, (*e.without(p.batch, p.axes), *p.axes), sizes)]
        for t in self.steps:
            kept = self.step(p.transition, self.entering(states[-1], p.reset, t), t)
            inputs = [mul(self.value(k).at(TIME, t), self.value(v).at(TIME, t)) for k, v in p.inputs]
            states.append(total([kept, *inputs]))
        self.runs[p] = states
        return states

    def step(self, transition: Transition, S: A, t: int) -> A:
        """A_t S"""

        def at(x: Expr) -> A:
            return self.value(x).at(TIME, t)

        if transition.dense is not None:
            if transition.row is None or transition.along is None:
                raise DeclarationError("a dense transition needs the names of its row and column axes")
            new = contract(at(transition.dense), S, (transition.along,)).named(transition.row, transition.along)
        elif transition.log is not None:
            new = mul(apply("exp", at(transition.log)), S)
        elif transition.factor is not None:
            new = mul(at(transition.factor), S)
        else:
            new = S
        over = (transition.along, *transition.beside) if transition.along else ()
        return total([new, *(mul(at(a), contract(at(b), S, over)) for a, b in transition.low_rank)])

    def _start(self, name: str, axes: Axes, sizes: Mapping[str, int]) -> A:
        if name in self.initial:
            return self.initial[name]
        return self.kind.number(0.0).spread({a: sizes[a] for a in axes})

    def _run(self, r: Recurrence) -> A:
        """The outputs of a traced update at every t, step by step."""
        states = {s: self._start(s.name, (*e.without(r.batch, (TIME,)), *s.axes), self.sizes) for s in r.states}
        outputs = []
        for t in self.steps:
            states, y = self.update(r, states, t)
            outputs.append(y)
        return stack(outputs, TIME)

    def update(self, r: Recurrence, states: Mapping[State, A], t: int) -> tuple[dict[State, A], A]:
        """The states after step t, and the output at t."""
        now: dict[Node, A] = {s: self.entering(x, r.reset, t) for s, x in states.items()}
        y = self._now(r.output, t, now)
        return {s: self._now(u, t, now) for s, u in zip(r.states, r.updates, strict=True)}, y

    def _now(self, x: Expr, t: int, now: dict[Node, A]) -> A:
        """The value of `x` at step t; `now` holds the old states and what was computed from them."""
        for node in walk(x, (Run,)):
            if not isinstance(node, Expr) or node in now:
                continue
            if not _inside_step(node):
                now[node] = self.value(node).at(TIME, t)
                continue
            match node:
                case e.Call() | e.Contract() | e.Reduce() | e.Rename() | e.Take() | e.Detach():
                    now[node] = self._value(node, now)
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
