"""Sums over the rows of a long axis that each step of a loop takes, for all steps: one loop over blocks of rows.

    for s: d_q += f(q, k_s), d_k_s = Σ_t g(q_t, k_s)    becomes    for s: d_q += f(q, k_s) and for t: d_k += g(q_t, k)

as long as such a sum does not read what the first loop carries. What is summed over is a product of matrices along
rows and columns, so it is never in memory; all sums over the same rows share one loop, and with it the products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backends.triton.powers import multiple
from backends.triton.sums import WHOLE
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

ROWS = 64
"""of a block"""
FLAT = (
    p.Input, p.Constant, p.Iota, p.Map, p.Expand, p.Order, p.Cast, p.Detach, p.Contract, p.Reduce,
)  # fmt: skip
"""what is the same for a block of rows as for all of them"""


@dataclass(frozen=True)
class Rows:
    """The results of a loop's step that are computed from sums over the rows of one axis.

    sums   over the axis     inside   what is summed, with the axis, arguments before results
    """

    axis: str
    sums: tuple[Value, ...]
    inside: tuple[Value, ...]

    @classmethod
    def of(cls, body: Program, carries: Sequence[Value], late: Sequence[Value]) -> Rows | None:
        """Those of `late`, results of a loop's body, that are such sums over one long axis: all that lack it."""
        sizes = {a: n for x in body.inputs for a, n in x.sizes.items()}
        for axis in sorted(sizes, key=lambda a: (-sizes[a], a)):
            if sizes[axis] > WHOLE and (made := cls._along(axis, late, set(carries))) is not None:
                return made
        return None

    @classmethod
    def _along(cls, axis: str, late: Sequence[Value], carries: set[Value]) -> Rows | None:
        late = [y for y in late if axis not in y.axes]
        reached = Program(inputs=(), outputs=tuple(late), names=()).order
        if not carries.isdisjoint(reached):
            return None
        sums = [v for v in reached if axis not in v.axes and any(axis in a.axes for a in v.args)]
        inside = Program(inputs=(), outputs=tuple(sums), names=()).order
        flat = all(isinstance(v.op, FLAT) and not (isinstance(v.op, p.Iota) and axis in v.axes) for v in inside)
        summed = all(isinstance(v.op, p.Contract) or (isinstance(v.op, p.Reduce) and v.op.fn == "sum") for v in sums)
        alone = not any(x is not y and y in inside[: inside.index(x)] and _reads(x, y) for x in sums for y in sums)
        real = all(v.kind == "real" for v in sums)
        multiplies = any(isinstance(v.op, p.Contract) and axis in v.axes for v in inside)
        return cls(axis, tuple(sums), inside) if sums and flat and summed and alone and real and multiplies else None

    def loop(self, b: Builder, loop: p.Scan, given: Mapping[Value, Value], along: str) -> dict[Value, Value]:
        """The sums for all steps of `loop` at once; `along`: a new axis, of the blocks of rows."""
        inputs = [v for v in self.inside if isinstance(v.op, p.Input)]
        columns: dict[str, int] = {}
        if (inner := self._columns(loop, given, inputs)) is not None:
            given = {x: _joined(b, given[x], loop.axis) for x in inputs}
            columns = {inner: next(given[x].size(inner) for x in inputs if inner in given[x].axes)}
        blocks = {x: self._cut(b, given[x], along) for x in inputs}
        stepped = [x for x in inputs if along in blocks[x].axes]
        fixed = [x for x in inputs if x not in stepped]
        rows = next(given[x].size(self.axis) for x in stepped)
        ragged = [self._cut(b, b.map("lt", b.iota(self.axis, -(-rows // ROWS) * ROWS), rows), along)] * bool(
            rows % ROWS
        )
        sizes = {
            v: {**v.sizes, **columns} if inner in v.axes else {loop.axis: loop.length, **v.sizes} for v in self.sums
        }

        def step(
            i: Builder, carry: Sequence[Value], steps: Sequence[Value], constants: Sequence[Value]
        ) -> tuple[list[Value], list[Value]]:
            known = dict(zip((*stepped, *fixed), (*steps[: len(stepped)], *constants), strict=True))
            kept = steps[len(stepped)] if ragged else None
            made = []
            for v, total in zip(self.sums, carry, strict=True):
                with i.named(v.label):
                    args = [self._again(i, a, known, columns) for a in v.args]
                    if kept is not None:
                        args = [
                            x if self.axis not in x.axes or _given(a) else i.where(kept, x, 0.0)
                            for a, x in zip(v.args, args, strict=True)
                        ]
                    made.append(i.add(total, i.order(i.expand(_on(i, v, args), sizes[v]), total.axes)))
            return made, []

        start = [b.full(0.0, sizes[v]) for v in self.sums]
        values, _ = b.scan(along, step, start, [*(blocks[x] for x in stepped), *ragged], [blocks[x] for x in fixed])
        made = dict(zip(self.sums, values, strict=True))
        for v in loop.body.order:  # numbers that sums are multiplied with, while these are where the loop left them
            if (by := multiple(v)) is not None and by[0] in made and by[0].axes == v.axes:
                made[v] = b.mul(made[by[0]], by[1])
        if inner is not None:
            made = {
                v: b.split(x, inner, loop.axis, inner, v.size(inner)) if inner in v.axes else x for v, x in made.items()
            }
        return made

    def _columns(self, loop: p.Scan, given: Mapping[Value, Value], inputs: Sequence[Value]) -> str | None:
        """The axis that the loop takes in blocks, if it takes all so that it goes along, and no sum is over it."""
        cut = [_split(given[x], loop.axis) for x in inputs if loop.axis in given[x].axes]
        names = {"" if found is None else found[1].inner for found in cut}
        over = {a for v in self.inside if isinstance(v.op, p.Contract | p.Reduce) for a in v.op.over}
        over |= {a for v in self.inside if isinstance(v.op, p.Iota) for a in v.axes}
        (inner,) = names if len(names) == 1 else ("",)
        alone = all(loop.axis in given[x].axes or inner not in given[x].axes for x in inputs)
        return inner if inner and inner not in over and alone and all(inner in v.axes for v in self.sums) else None

    def _cut(self, b: Builder, x: Value, along: str) -> Value:
        """A value in blocks of rows, if it has rows."""
        if self.axis not in x.axes:
            return x
        x = b.longer(x, self.axis, -x.size(self.axis) % ROWS)
        return b.split(x, self.axis, along, self.axis, ROWS)

    def _again(self, b: Builder, v: Value, known: dict[Value, Value], columns: Mapping[str, int]) -> Value:
        """v on a block of rows, for all steps at once."""
        if v not in known:
            args = [self._again(b, a, known, columns) for a in v.args]
            with b.named(v.label):
                known[v] = _on(
                    b, v, args, v.sizes | {a: n for a, n in {**columns, self.axis: ROWS}.items() if a in v.axes}
                )
        return known[v]


def _given(x: Value) -> bool:
    """Whether a value is an input of real numbers: of blocks, what fills up the last one is 0."""
    while isinstance(x.op, p.Order | p.Expand | p.Detach):
        x = x.args[0]
    return isinstance(x.op, p.Input) and x.kind == "real"


def _split(x: Value, outer: str) -> tuple[Value, p.Split] | None:
    """(a value before an axis was cut into blocks along `outer`, how it was), if it is nothing else."""
    while isinstance(x.op, p.Order):
        x = x.args[0]
    return (x.args[0], x.op) if isinstance(x.op, p.Split) and x.op.outer == outer else None


def _joined(b: Builder, x: Value, outer: str) -> Value:
    """A value before an axis was cut into blocks along `outer`."""
    if (found := _split(x, outer)) is None:
        return x
    whole, cut = found
    return whole if cut.axis == cut.inner else b.rename(whole, cut.axis, cut.inner)


def _on(b: Builder, v: Value, args: list[Value], sizes: Mapping[str, int] | None = None) -> Value:
    """v's operation on arguments that may have one more axis."""
    match v.op:
        case p.Map(fn=fn):
            return b.map(fn, *args)
        case p.Expand():
            return b.expand(args[0], sizes or v.sizes)
        case p.Order():
            return args[0]
        case p.Cast(kind=kind):
            return b.cast(args[0], kind)
        case p.Detach():
            return b.detach(args[0])
        case p.Contract(over=over):
            return b.contract(args[0], args[1], over)
        case p.Reduce(fn=fn, over=over):
            return b.reduce(fn, args[0], over)
    return b.again(v, args)


def _reads(v: Value, other: Value) -> bool:
    """Whether v is computed from the other."""
    return v is other or any(_reads(a, other) for a in v.args)
