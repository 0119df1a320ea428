"""The region `decay` for tiles: all blocks of one size at once, as whole products of matrices behind a mask.

lowering/decay.py builds the products of a segment's decays on a binary tree. The same products, level by level: between
the halves of the blocks of 2m steps, a row carries what it spans since the middle, a column what is left up to it,

    P_m[i] = Σ of the steps from the start of i's block of m, up to i
    Q_m[s] = Σ of the steps after s, to the end of s's block of m
    scores[i, s] += (x_i e^{P_m[i]}) · (y_s e^{Q_m[s]})     if the blocks are two such halves

so that every exponent is a sum of steps that the entry spans. A row that reads before its step leaves that step out.
A step is in the right half of its block of 2m, or in the left: one array of exponentials a level does for both.
"""

from __future__ import annotations

from lowering import program as p
from lowering.build import Builder
from lowering.decay import SOURCE, STEP
from lowering.decay_region import back_of
from lowering.parts import KEY
from lowering.program import Program, Value

BLOCK, HALF = "_n", "_h"


def levels(program: Program) -> Program:
    """The program as tiles want it, in the bodies of loops too: regions `decay` by levels, triangular systems apart."""
    b = Builder()
    done: dict[Value, Value] = {}
    picked: dict[Value, list[Value]] = {}
    for v in program.order:
        op = v.op
        if isinstance(op, p.Input):
            done[v] = v
        elif isinstance(op, p.Region) and op.label == "decay":
            spelled = _by_levels(op.body)
            picked[v] = b.region("decay by levels", spelled, [done[a] for a in v.args], back_of)
        elif isinstance(op, p.Pick) and v.args[0] in picked:
            made = b.expand(picked[v.args[0]][op.index], v.sizes)
            done[v] = b.order(made, v.axes)
        elif isinstance(op, p.Scan):
            new = p.Scan(op.axis, op.length, levels(op.body), op.carries, op.steps, op.reverse)
            done[v] = b.again(v, [done[a] for a in v.args], op=new)
        elif (right := _of_part(v)) is not None:
            solve = v.args[0]
            assert isinstance(solve.op, p.Solve)
            lower = done[solve.args[0]]
            done[v] = b.order(b.solve(lower, done[right], solve.op.row, solve.op.col, upper=solve.op.upper), v.axes)
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _of_part(v: Value) -> Value | None:
    """x_j, where v is the part of (I − L)⁻¹ [x_1 x_2 …] that comes of it: systems of one L are solved side by side."""
    if not isinstance(v.op, p.Slice) or not isinstance((solve := v.args[0]).op, p.Solve):
        return None
    sides, axis = solve.args[1], v.op.axis
    if not isinstance(sides.op, p.Concat) or sides.op.axis != axis or axis in solve.args[0].axes:
        return None
    start = 0
    for x in sides.args:
        if (v.op.start, v.op.stop, v.op.step) == (start, start + x.size(axis), 1):
            return x
        start += x.size(axis)
    return None


def _by_levels(body: Program) -> Program:
    """The tree `body` by levels: the same results of the same inputs."""
    b = Builder()
    made = _spelled(b, body, list(body.inputs))
    results = [b.order(b.expand(x, v.sizes), v.axes) for x, v in zip(made, body.outputs, strict=True)]
    return Program(inputs=body.inputs, outputs=tuple(results), names=body.names)


def _spelled(b: Builder, body: Program, args: list[Value]) -> list[Value]:
    """The results of the tree `body` (lowering/decay_region.py says their names) on `args`."""
    given = dict(zip(body.input_names, args, strict=True))
    length = next(v for v in body.outputs if STEP in v.axes).size(STEP)
    spans = Spans(b, b.expand(given["step"], {STEP: length}), length)
    rows = {n: b.expand(x, {STEP: length}) for n, x in given.items() if n.startswith("row:")}
    columns = {n: b.expand(x, {STEP: length}) for n, x in given.items() if n.startswith("column:")}
    made = []
    for name in body.names:
        what, *of = name.split(" ")
        if what == "entering":
            with b.named("entering: rows carried back to the chunk's entry: x e^(logarithms up to the step)"):
                made.append(b.mul(rows[of[0]], spans.decay(spans.since(early=of[0].endswith(":before")))))
        elif what == "leaving":
            with b.named("leaving: columns carried on to the chunk's end: y e^(logarithms after the step)"):
                made.append(b.rename(b.mul(columns[of[0]], spans.decay(spans.until())), STEP, SOURCE))
        elif what == "whole":
            with b.named("whole: the decay of a whole chunk"):
                made.append(b.sum(spans.step, (STEP,)))
        else:
            made.append(_scores(b, spans, rows[of[0]], columns[of[1]], early=of[0].endswith(":before")))
    return made


def _scores(b: Builder, spans: Spans, x: Value, y: Value, *, early: bool) -> Value:
    i, s = b.iota(STEP, spans.length), b.iota(SOURCE, spans.length)
    terms: list[Value] = []
    if not early:
        with b.named("scores: scores of each step with itself"):
            own = b.contract(x, y, (KEY,))
            terms.append(b.where(b.map("eq", i, s), own, 0.0))
    m = 1
    while m < spans.length:
        with b.named(f"scores: scores between the halves of blocks of {2 * m} steps"):
            row, column = (b.mul(z, spans.across(m, early=early)) for z in (x, y))
            with b.named("half"):
                left, right = b.map("floordiv", s, m), b.map("floordiv", i, m)
            with b.named("partner"):
                partner = b.where(b.map("eq", b.map("mod", left, 2), 0), b.add(left, 1), -1)
            both = b.contract(row, b.rename(column, STEP, SOURCE), (KEY,))
            terms.append(b.where(b.map("eq", right, partner), both, 0.0))
        m *= 2
    with b.named("scores: scores within the chunk, of all levels"):
        return b.add(*terms) if terms else b.full(0.0, {STEP: spans.length, SOURCE: spans.length})


class Spans:
    """Sums of steps inside blocks of m, from those inside blocks of m / 2: a block's total goes to its other half.

    since₂ₘ = sinceₘ + the total of the left half, in the right half
    until₂ₘ = untilₘ + the total of the right half, in the left half          totalₘ = sinceₘ + untilₘ
    """

    def __init__(self, b: Builder, step: Value, length: int) -> None:
        self.b, self.step, self.length = b, step, length
        self.size = 1 << (length - 1).bit_length()
        self.place = b.iota(STEP, self.size)
        self.full = b.pad(step, STEP, 0, self.size - length)
        self._of: dict[int, tuple[Value, Value, Value]] = {1: (self.full, b.const(0.0), b.const(0.0))}

    def across(self, m: int, *, early: bool) -> Value:
        """exp of the steps between each step and the middle of its block of 2m: what a row and a column both need."""
        b = self.b
        since, before, until = self._inside(m)
        with b.named("span"):
            spanned = b.where(self._right(m), before if early else since, until)
        return self.decay(b.slice(b.expand(spanned, {STEP: self.size}), STEP, 0, self.length))

    def decay(self, log: Value) -> Value:
        with self.b.named("decay"):
            return self.b.map("exp", log)

    def since(self, *, early: bool) -> Value:
        """The steps of the whole from the start to each step (before it with `early`)."""
        x = self.b.delay(self.step, STEP, 1) if early else self.step
        with self.b.named("since"):
            return self.b.cumulate("sum", x, STEP)

    def until(self) -> Value:
        """The steps of the whole after each step."""
        with self.b.named("until"):
            return self.b.cumulate("sum", self.b.delay(self.step, STEP, -1), STEP, reverse=True)

    def _right(self, m: int) -> Value:
        b = self.b
        with b.named("right"):
            return b.map("eq", b.map("mod", b.map("floordiv", self.place, m), 2), 1)

    def _inside(self, m: int) -> tuple[Value, Value, Value]:
        """The steps of each step's block of m up to it, before it, and after it."""
        if m not in self._of:
            b, half = self.b, m // 2
            since, before, until = self._inside(half)
            with b.named(f"other: logarithms up to each step and after it inside blocks of {m}, from those of {half}"):
                right = self._right(half)
                other = self._swapped(b.add(since, until), half)
                left_total, right_total = b.where(right, other, 0.0), b.where(right, 0.0, other)
                with b.named("since"):
                    made = b.add(since, left_total), b.add(before, left_total)
                with b.named("until"):
                    self._of[m] = (*made, b.add(until, right_total))
        return self._of[m]

    def _swapped(self, x: Value, m: int) -> Value:
        """The halves of every block of 2m in each other's place."""
        b = self.b
        x = b.split(b.split(x, STEP, BLOCK, STEP, 2 * m), STEP, HALF, STEP, m)
        return b.merge(b.merge(b.flip(x, HALF), HALF, STEP, STEP), BLOCK, STEP, STEP)
