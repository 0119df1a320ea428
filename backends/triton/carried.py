"""States of an affine scan read in the loop that carries them, where this loop alone fills a device.

    S ← a_c S + x_c,     y_c = what is computed of the S that enters step c

An affine scan stores every state for what is computed of them, for all steps at once. Where a loop has programs enough
without that, where each read hangs on one state, and where a step takes few products, the scan becomes a loop that
stores what is read instead; products that a step's reads take are computed in it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from backends.triton import sinking
from backends.triton.sums import WHOLE
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

PRODUCTS = 4
"""products of matrices that a step may take: more of them, for all steps at once, are worth the states' memory"""
LOCAL = p.Map | p.Cast | p.Order | p.Expand | p.Contract | p.Reduce | p.Cumulate | p.Rename | p.Slice | p.Pad


def carried(program: Program) -> Program:
    """The program with affine scans as loops that read their states; itself where no loop is worth it."""
    made, changed = _early(program), False
    while (found := next((x for x in _loops(made) if x.worth(made)), None)) is not None:
        made, changed = found.done(made), True
    return made if changed else program


def _early(program: Program) -> Program:
    """The program with factors that are one number before axes are named and merged: what is read is scaled so."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    for v in program.order:
        done[v] = done.get(v) or b.again(v, [done[a] for a in v.args])
        moved = [a for a in v.args if a.axes]
        if isinstance(v.op, p.Map) and len(v.args) == 2 and len(moved) == 1 and v.axes == moved[0].axes:
            chain, x = [], done[moved[0]]
            while isinstance(x.op, p.Rename | p.Order | p.Merge):
                chain.append(x)
                x = x.args[0]
            if chain:
                x = b.again(v, [x if a is moved[0] else done[a] for a in v.args], x.sizes, axes=x.axes)
                for move in reversed(chain):
                    x = b.again(move, [x])
                done[v] = x
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _loops(program: Program) -> Iterator[_Loop]:
    """The affine scans over a first state and the steps' own: S_0, then a_c, x_c."""
    for v in program.order:
        if isinstance(v.op, p.AffineScan) and all(v.op.axis in a.axes for a in v.args):
            decay, x = v.args
            ends = (0, 1) if v.op.reverse else (1, 0)
            if not isinstance(x.op, p.Concat) or not isinstance(decay.op, p.Pad) or len(x.args) != 2:
                continue
            first, steps = reversed(x.args) if v.op.reverse else x.args
            own = (decay.op.before, decay.op.after) == ends and decay.op.axis == x.op.axis == v.op.axis
            if own and first.size(v.op.axis) == 1 and {*first.axes} == {*steps.axes} == {*v.axes}:
                yield _Loop(v, v.op, first, steps, decay.args[0])


@dataclass
class _Loop:
    """An affine scan with what is computed of its states, step by step.

    entering, last   the states that enter the steps, and the one after them, as the program slices them
    inside           what is computed in the loop     made   of it what is read outside
    """

    scan: Value
    op: p.AffineScan
    first: Value
    steps: Value
    decay: Value
    entering: set[Value] = field(default_factory=set)
    last: set[Value] = field(default_factory=set)
    inside: dict[Value, None] = field(default_factory=dict)

    def worth(self, program: Program) -> bool:
        """Whether the loop fills a device, and stores less than the states."""
        axis, n = self.op.axis, self.steps.size(self.op.axis)
        begin = int(self.op.reverse)
        for v in program.order:
            if self.scan in v.args:
                if not isinstance(v.op, p.Slice) or v.op.axis != axis or v.op.step != 1:
                    return False
                if (v.op.start, v.op.stop) == (begin, begin + n):
                    self.entering.add(v)
                elif (v.op.start, v.op.stop) == ((0, 1) if self.op.reverse else (n, n + 1)):
                    self.last.add(v)
                else:
                    return False
        after = {self.scan, *self.entering, *self.last}
        self.inside = dict.fromkeys(self.entering)
        for v in program.order:
            behind = [a for a in v.args if a in after]
            if behind and v not in after:
                after.add(v)
                if all(a in self.inside for a in behind) and self.local(v):
                    self.inside[v] = None
        outside = [v for v in program.order if v not in self.inside and v not in (*self.entering, *self.last)]
        read = {a for v in outside for a in v.args} | {*program.outputs}
        self.made = [v for v in self.inside if v in read and v not in self.entering]
        if not self.made or any(v in read for v in self.entering) or not self.small():
            return False
        products = [x for x in self.step() if isinstance(x.op, p.Contract)]
        summed = {a for x in products for a in x.op.over}  # type: ignore[union-attr]
        long = any(x.args[0].size(a) > WHOLE for x in products for a in x.op.over)  # type: ignore[union-attr]
        free = prod(m for a, m in self.steps.sizes.items() if a != axis and a not in summed)
        return free >= sinking.LANES and len(products) <= PRODUCTS and not long

    def small(self) -> bool:
        """Whether what is stored takes less than the states."""
        return sum(prod(v.shape) for v in self.made) < prod(self.scan.shape)

    def local(self, v: Value) -> bool:
        """Whether v is computed step by step."""
        named = {getattr(v.op, name, None) for name in ("axis", "old", "new")} | {*getattr(v.op, "over", ())}
        return isinstance(v.op, LOCAL) and self.op.axis in v.axes and self.op.axis not in named

    def step(self) -> list[Value]:
        """What a step computes: of the states, and the products that this and the next state take."""
        found: dict[Value, None] = {}
        todo = [*self.inside, self.steps]
        while todo:
            v = todo.pop()
            if v not in found and v not in self.entering and (v in self.inside or self.multiplied(v)):
                found[v] = None
                todo += v.args
        return [*found]

    def multiplied(self, v: Value) -> bool:
        """Whether v is a product of matrices of this step, or computed of some in it."""
        return self.local(v) and (isinstance(v.op, p.Contract) or any(self.multiplied(a) for a in v.args))

    def done(self, program: Program) -> Program:
        b = Builder()
        axis, inside = self.op.axis, {*self.step()}
        order = [v for v in program.order if v in inside]
        given = dict.fromkeys(a for v in order for a in v.args if a not in inside and a not in self.entering)
        given |= dict.fromkeys([self.decay, *(() if self.steps in inside else (self.steps,))])
        new: dict[Value, Value] = {v: v for v in program.inputs}

        def make(v: Value) -> Value:
            """v of the program, where it does not hang on the loop."""
            return b.remade(v, new)

        moving = [a for a in given if axis in a.axes]
        fixed = [a for a in given if axis not in a.axes]
        axes = tuple(a for a in self.scan.axes if a != axis)
        start = b.order(b.reduce("sum", make(self.first), (axis,)), axes)

        def body(
            inner: Builder, carries: list[Value], steps: list[Value], constants: list[Value]
        ) -> tuple[list[Value], list[Value]]:
            here = dict(zip((*moving, *fixed), (*steps, *constants), strict=True))
            here |= dict.fromkeys(self.entering, inner.order(carries[0], axes))
            for v in order:
                here[v] = inner.again(v, [here[a] for a in v.args], axes=tuple(a for a in v.axes if a != axis))
            with inner.named(self.scan.label):
                after = inner.add(inner.mul(here[self.decay], carries[0]), here[self.steps])
            return [after], [here[v] for v in self.made]

        count = self.steps.size(axis)
        with b.named(self.scan.label):
            (state,), results = b.scan(
                axis, body, [start], [*map(make, moving)], [*map(make, fixed)], length=count, reverse=self.op.reverse
            )
        new |= {v: b.order(x, v.axes) for v, x in zip(self.made, results, strict=True)}
        new |= {v: b.order(b.expand(state, {**state.sizes, axis: 1}), v.axes) for v in self.last}
        outputs = tuple(map(make, program.outputs))
        return Program(inputs=program.inputs, outputs=outputs, names=program.names)
