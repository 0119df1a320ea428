"""The region `decay` for tiles: all blocks of one size at once, as whole products of matrices behind a mask.

lowering/decay.py builds the products of a segment's decays on a binary tree. The same products, level by level: between
the halves of the blocks of 2m steps, a row carries what it spans since the middle, a column what is left up to it,

    P_m[i] = Σ of the steps from the start of i's block of m, up to i
    Q_m[s] = Σ of the steps after s, to the end of s's block of m
    scores[i, s] += (x_i e^{P_m[i]}) · (y_s e^{Q_m[s]})     if the blocks are two such halves

so that every exponent is a sum of steps that the entry spans. A row that reads before its step leaves that step out.
"""

from __future__ import annotations

from lowering import program as p
from lowering.build import Builder
from lowering.decay import SOURCE, STEP
from lowering.parts import KEY
from lowering.program import Program, Value

BLOCK = "_n"


def levels(program: Program) -> Program:
    """The program with every region `decay` spelled by levels, in the bodies of loops too."""
    b = Builder()
    done: dict[Value, Value] = {}
    picked: dict[Value, list[Value]] = {}
    for v in program.order:
        op = v.op
        if isinstance(op, p.Input):
            done[v] = v
        elif isinstance(op, p.Region) and op.label == "decay":
            picked[v] = _spelled(b, op.body, [done[a] for a in v.args])
        elif isinstance(op, p.Pick) and v.args[0] in picked:
            made = b.expand(picked[v.args[0]][op.index], v.sizes)
            done[v] = b.order(made, v.axes)
        elif isinstance(op, p.Scan):
            new = p.Scan(op.axis, op.length, levels(op.body), op.carries, op.steps, op.reverse)
            done[v] = b.again(v, [done[a] for a in v.args], op=new)
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _spelled(b: Builder, body: Program, args: list[Value]) -> list[Value]:
    """The results of the tree `body` (lowering/decay.py says their names) on `args`."""
    given = dict(zip(body.input_names, args, strict=True))
    length = next(v for v in body.outputs if STEP in v.axes).size(STEP)
    spans = Spans(b, b.expand(given["step"], {STEP: length}), length)
    rows = {n: b.expand(x, {STEP: length}) for n, x in given.items() if n.startswith("row:")}
    columns = {n: b.expand(x, {STEP: length}) for n, x in given.items() if n.startswith("column:")}
    made = []
    for name in body.names:
        what, *of = name.split(" ")
        if what == "entering":
            made.append(b.mul(rows[of[0]], spans.since(spans.size, early=of[0].endswith(":before"))))
        elif what == "leaving":
            made.append(b.rename(b.mul(columns[of[0]], spans.until(spans.size)), STEP, SOURCE))
        elif what == "whole":
            made.append(b.sum(spans.step, (STEP,)))
        else:
            made.append(_scores(b, spans, rows[of[0]], columns[of[1]], early=of[0].endswith(":before")))
    return made


def _scores(b: Builder, spans: Spans, x: Value, y: Value, *, early: bool) -> Value:
    i, s = b.iota(STEP, spans.length), b.iota(SOURCE, spans.length)
    terms: list[Value] = []
    if not early:
        own = b.contract(x, b.rename(y, STEP, SOURCE), (KEY,))
        terms.append(b.where(b.map("eq", i, s), own, 0.0))
    m = 1
    while m < spans.length:
        row = b.mul(x, spans.since(m, early=early))
        column = b.rename(b.mul(y, spans.until(m)), STEP, SOURCE)
        left, right = b.map("floordiv", s, m), b.map("floordiv", i, m)
        halves = b.map("and", b.map("eq", right, b.add(left, 1)), b.map("eq", b.map("mod", left, 2), 0))
        terms.append(b.where(halves, b.contract(row, column, (KEY,)), 0.0))
        m *= 2
    return b.add(*terms) if terms else b.full(0.0, {STEP: spans.length, SOURCE: spans.length})


class Spans:
    """Exponentials of sums of steps inside blocks of m."""

    def __init__(self, b: Builder, step: Value, length: int) -> None:
        self.b, self.step, self.length = b, step, length
        self.size = 1 << (length - 1).bit_length()

    def since(self, m: int, *, early: bool) -> Value:
        """exp of the steps from the start of each step's block to it (before it with `early`)."""
        return self._exp(m, reverse=False, exclusive=early)

    def until(self, m: int) -> Value:
        """exp of the steps after each step to the end of its block."""
        return self._exp(m, reverse=True, exclusive=True)

    def _exp(self, m: int, *, reverse: bool, exclusive: bool) -> Value:
        b = self.b
        if m == 1:
            return b.const(1.0) if exclusive else b.map("exp", self.step)
        if m >= self.length:
            return b.map("exp", b.cumulate("sum", self.step, STEP, reverse=reverse, exclusive=exclusive))
        x = b.split(b.pad(self.step, STEP, 0, self.size - self.length), STEP, BLOCK, STEP, m)
        x = b.merge(b.cumulate("sum", x, STEP, reverse=reverse, exclusive=exclusive), BLOCK, STEP, STEP)
        return b.map("exp", b.slice(x, STEP, 0, self.length))
