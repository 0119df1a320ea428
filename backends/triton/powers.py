"""Exponentials to the base 2: e^x as 2^(x log₂ e), the factor folded into what exponents are made of.

A device's instruction raises 2; e^x in single precision takes a product, a comparison and two corrections more. Where
an exponent is a sum, a difference, a cumulated sum, a maximum or a choice of something, it is this that takes the
factor: a step's logarithm once, before all the sums of steps that are raised, or a number that is a factor already. A
product of matrices keeps its factors to the last (those of its own arguments too, as the scale of a score): they cost
nothing where something is subtracted.

A value takes the factor if nothing but exponents is made of it, the states of loops included: the running maximum of a
softmax is one of logarithms to the base 2. Where more entries would be multiplied than are raised, exponents are
multiplied as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

LOG2E = math.log2(math.e)
FREE = (p.Constant, p.Pick)
MOVES = (p.Expand, p.Order, p.Rename, p.Split, p.Merge, p.Slice, p.Flip, p.Pad, p.Concat, p.Detach)


def powers(program: Program, *, folded: bool = True) -> Program:
    """The program with powers of 2 in the place of exponentials, in the bodies of loops too.

    folded   whether exponents take the factor in what they are made of; else they are multiplied as they are
    """
    return Powers(program, folded).made()


class Powers:
    """One program, of which some inputs come times log₂ e and some results are wanted so.

    raised   the exponentials whose exponents take the factor     only   what nothing but these is made of
    loops    scan -> its body, and the results that come out times log₂ e
    """

    def __init__(self, program: Program, folded: bool = True, outputs: frozenset[int] = frozenset()) -> None:
        self.program, self.folded, self.outputs = program, folded, outputs
        self.inputs: frozenset[int] = frozenset()
        self.raised = {v for v in program.order if folded and _exponential(v)}
        self.late: set[Value] = set()
        for v in program.order:
            if isinstance(v.op, p.Contract) or any(v.args[i] in self.late for i in _terms(v)):
                self.late.add(v)
        while True:
            self._read()
            if not (dear := self._dear()):
                break
            self.raised -= dear

    # ------------------------------------------------------------------ what takes the factor

    def _read(self) -> None:
        """What exponents alone are made of, results before their arguments."""
        given = {y for i, y in enumerate(self.program.outputs) if i not in self.outputs}
        self.only = {*self.program.order} - given
        self.loops: dict[Value, tuple[Powers, frozenset[int]]] = {}
        picks: dict[Value, list[Value]] = {}
        for v in reversed(self.program.order):
            if isinstance(v.op, p.Pick):
                picks.setdefault(v.args[0], []).append(v)
            takes = set(self._takes(v, picks.get(v, ())))
            self.only -= {a for i, a in enumerate(v.args) if i not in takes}

    def _takes(self, v: Value, picks: Sequence[Value]) -> Sequence[int]:
        """Which arguments of v may come times log₂ e."""
        if isinstance(v.op, p.Pick):
            return (0,) if isinstance(v.args[0].op, p.Scan) else ()
        if isinstance(v.op, p.Scan):
            body, out = self._loop(v.op, {x.op.index: x in self.only for x in picks if isinstance(x.op, p.Pick)})
            self.loops[v] = body, out
            return [*body.inputs]
        if v in self.raised:
            return (0,)
        return self.goes(v) if v in self.only else ()

    def goes(self, v: Value) -> Sequence[int]:
        """Which arguments take the factor of v."""
        if (by := multiple(v)) is not None:
            return (v.args.index(by[0]),) if by[0] in self.late else ()
        if isinstance(v.op, p.Map) and v.op.fn == "mul":
            return [i for i in (0, 1) if 2 * _entries(v.args[i]) <= _entries(v)][:1]
        return _terms(v)

    def _loop(self, op: p.Scan, picked: dict[int, bool]) -> tuple[Powers, frozenset[int]]:
        """The body of a loop, and the results that come times log₂ e: carries if they are given and kept so too."""
        n = op.carries
        out = {i for i, only in picked.items() if only} | {i for i in range(n) if i not in picked}
        while True:
            body = Powers(op.body, self.folded, frozenset(out))
            read = {x for x in op.body.inputs if x in body.only}
            lost = {i for i in out if i < n and {op.body.inputs[i], op.body.outputs[i]} - body.only}
            if not lost:
                break
            out -= lost
        kept = {i for i, x in enumerate(op.body.inputs) if x in read and (i >= n or i in out)}
        body.inputs = frozenset(kept)
        return body, frozenset(out)

    def _dear(self) -> set[Value]:
        """Exponentials whose factor would be multiplied to more entries than they have, with all that share some."""
        groups: list[tuple[set[Value], set[Value]]] = []
        for e in self.raised:
            raised, leaves = {e}, self._leaves(e.args[0])
            for group in [g for g in groups if not leaves.isdisjoint(g[1])]:
                groups.remove(group)
                raised, leaves = raised | group[0], leaves | group[1]
            groups.append((raised, leaves))
        return {
            e for raised, leaves in groups if sum(map(_entries, leaves)) > sum(map(_entries, raised)) for e in raised
        }

    def _leaves(self, v: Value) -> set[Value]:
        """What is multiplied for an exponent v, but for numbers and what is a product already."""
        found: set[Value] = set()
        seen: set[Value] = set()
        todo = [v]
        while todo:
            x = todo.pop()
            if x in seen:
                continue
            seen.add(x)
            if x in self.only and (goes := self.goes(x)):
                todo += [x.args[i] for i in goes]
            elif not (x in self.late or isinstance(x.op, FREE) or multiple(x) is not None or _logarithm(x)):
                found.add(x)
        return found

    # ------------------------------------------------------------------ the program again

    def made(self) -> Program:
        self.b = Builder()
        self.plain: dict[Value, Value] = {}
        self.scaled: dict[Value, tuple[Value, float]] = {}
        scaled = {self.program.inputs[i] for i in self.inputs}
        for v in self.program.order:
            with self.b.named(v.label):
                if v in scaled:
                    self.scaled[v] = v, 1.0
                elif isinstance(v.op, p.Scan):
                    self.plain[v] = self._scan(v, v.op)
                elif isinstance(v.op, p.Pick) and v.op.index in self._out(v):
                    self.scaled[v] = self.b.again(v, [self.plain[v.args[0]]]), 1.0
                elif v not in self.only:
                    self.plain[v] = self._plain(v)
                else:
                    self.power(v)
        outputs = [self.whole(y) if i in self.outputs else self.plain[y] for i, y in enumerate(self.program.outputs)]
        return Program(inputs=self.program.inputs, outputs=tuple(outputs), names=self.program.names)

    def _out(self, pick: Value) -> frozenset[int]:
        return self.loops[pick.args[0]][1] if pick.args[0] in self.loops else frozenset()

    def _plain(self, v: Value) -> Value:
        if isinstance(v.op, p.Input):
            return v
        if v in self.raised:
            return self.b.again(v, [self.whole(v.args[0])], op=p.Map("exp2"))
        if _exponential(v):
            return self.b.again(v, [self.b.mul(self.plain[v.args[0]], LOG2E)], op=p.Map("exp2"))
        return self.b.again(v, [self.plain[a] for a in v.args])

    def _scan(self, v: Value, op: p.Scan) -> Value:
        body, _ = self.loops[v]
        args = [self.whole(a) if i in body.inputs else self.plain[a] for i, a in enumerate(v.args)]
        new = p.Scan(op.axis, op.length, body.made(), op.carries, op.steps, op.reverse)
        return self.b.again(v, args, op=new)

    def whole(self, v: Value) -> Value:
        """v · log₂ e."""
        x, factor = self.power(v)
        return x if factor == 1.0 else self.b.mul(x, factor)

    def power(self, v: Value) -> tuple[Value, float]:
        """v · log₂ e as a value and a positive number to multiply it with."""
        if v not in self.scaled:
            with self.b.named(v.label):
                self.scaled[v] = self._power(v)
        return self.scaled[v]

    def _power(self, v: Value) -> tuple[Value, float]:
        b = self.b
        if isinstance(v.op, p.Constant):
            return b.const(float(v.op.value.real) * LOG2E), 1.0
        if v not in self.only:
            x = self.plain[v]
            return (x, LOG2E) if v in self.late else (self._times(x, LOG2E), 1.0)
        if _logarithm(v):
            return b.again(v, [self.plain[v.args[0]]], op=p.Map("log2")), 1.0
        if isinstance(v.op, p.Contract):
            (x, m), (y, n) = (self._bare(a) for a in v.args)
            return _positive(b, b.again(v, [x, y]), m * n * LOG2E)
        if (by := multiple(v)) is not None:
            x, c = by
            if x not in self.late:
                return self._times(self.plain[x], c * LOG2E), 1.0
            y, factor = self.power(x)
            return _positive(b, y, c * factor)
        if not (goes := self.goes(v)):
            return self._times(self._plain(v), LOG2E), 1.0
        if isinstance(v.op, p.Map) and v.op.fn == "mul":
            return b.again(v, [self.whole(a) if i in goes else self.plain[a] for i, a in enumerate(v.args)]), 1.0
        given = {i: self.power(v.args[i]) for i in goes if _value(v.args[i]) not in FIXED}
        factors = {factor for _, factor in given.values()}
        if len(factors) == 1 and not _adds(v):
            args = [given[i][0] if i in given else self.either(a) for i, a in enumerate(v.args)]
            return b.again(v, args), factors.pop()
        return b.again(v, [self.whole(a) if i in given else self.either(a) for i, a in enumerate(v.args)]), 1.0

    def _times(self, x: Value, factor: float) -> Value:
        with self.b.named("log2"):
            return self.b.mul(x, factor)

    def either(self, v: Value) -> Value:
        """v as it is; numbers that the factor does not change may have been taken for exponents'."""
        return self.plain[v] if v in self.plain else self.whole(v)

    def _bare(self, v: Value) -> tuple[Value, float]:
        """A factor of a product of matrices without the numbers that it was multiplied with, and these."""
        if (by := multiple(v)) is not None and v.axes == by[0].axes:
            x, factor = self._bare(by[0])
            return x, factor * by[1]
        if isinstance(v.op, p.Expand | p.Order | p.Rename | p.Split | p.Merge):
            x, factor = self._bare(v.args[0])
            return (self.plain[v], 1.0) if factor == 1.0 else (self.b.again(v, [x]), factor)
        return self.plain[v], 1.0


FIXED = (0.0, math.inf, -math.inf)
"""numbers that a positive factor leaves as they are"""


def _positive(b: Builder, x: Value, factor: float) -> tuple[Value, float]:
    return (x, factor) if factor > 0 else (b.mul(x, factor), 1.0)


def _terms(v: Value) -> Sequence[int]:
    """The arguments that take a positive factor of v, if v is linear in them, or one of them."""
    every = range(len(v.args))
    if any(a.kind not in ("real", "bool") for a in v.args) or v.kind != "real":
        return ()
    match v.op:
        case p.Map(fn="where"):
            return every[1:]
        case p.Map(fn="mul") if (by := multiple(v)) is not None:
            return (v.args.index(by[0]),)
        case p.Map(fn=fn):
            return every if fn in ("add", "sub", "neg", "max", "min") else ()
        case p.Reduce(fn=fn) | p.Cumulate(fn=fn):
            return every if fn in ("sum", "max", "min") else ()
        case p.Pad(value=value):
            return every if float(value.real) in FIXED else ()
    return every if isinstance(v.op, MOVES) else ()


def _adds(v: Value) -> bool:
    """Whether v adds several numbers up: its arguments are then multiplied before."""
    return isinstance(v.op, p.Map | p.Reduce | p.Cumulate) and v.op.fn in ("add", "sub", "sum")


def _exponential(v: Value) -> bool:
    return isinstance(v.op, p.Map) and v.op.fn == "exp"


def _logarithm(v: Value) -> bool:
    return isinstance(v.op, p.Map) and v.op.fn == "log"


def multiple(v: Value) -> tuple[Value, float] | None:
    """(x, c), where v is x times a number."""
    if isinstance(v.op, p.Map) and v.op.fn == "mul" and v.kind == "real":
        for x, y in (v.args, v.args[::-1]):
            if (c := _value(y)) is not None and _value(x) is None and x.kind == "real":
                return x, c
    return None


def _value(v: Value) -> float | None:
    """The number that v is."""
    while isinstance(v.op, p.Expand | p.Cast | p.Order):
        v = v.args[0]
    if isinstance(v.op, p.Map) and v.op.fn == "pow" and v.kind == "real":
        x, y = map(_value, v.args)
        return None if x is None or y is None or x <= 0 else math.pow(x, y)
    return float(v.op.value.real) if isinstance(v.op, p.Constant) else None


def _entries(v: Value) -> int:
    return prod(v.shape)
