"""States of an affine scan read in the loop that carries them, where this loop alone fills a device.

    S ← a_c S + x_c,     y_c = what is computed of the S that enters step c

An affine scan stores every state for what is computed of them, for all steps at once. Where a loop has programs enough
without that, and where a step takes few products, the scan becomes a loop that stores what is read instead; products
that a step's reads take are computed in it too. Scans whose states are read together, values and their normaliser, are
carried by one loop. Where the states are stored for other readers, a loop that has them in registers computes for each
row the numbers that another loop waits for: the normaliser, and its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from backends.triton import sinking
from backends.triton.factored import apart, decayed
from backends.triton.lifting import reached
from backends.triton.merges import late
from backends.triton.slices import early
from backends.triton.sums import WHOLE
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

PRODUCTS = 4
"""products of matrices that a step may take: more of them, for all steps at once, are worth the states' memory"""
HELD = 1 << 12
"""entries of a state along what is summed over, up to which its loop reads numbers of rows for other loops"""
LOCAL = p.Map | p.Cast | p.Order | p.Expand | p.Contract | p.Reduce | p.Cumulate | p.Rename | p.Slice | p.Pad


def carried(program: Program) -> Program:
    """The program with affine scans as loops that read their states; itself where no loop is worth it."""
    made, changed = late(early(program)), False
    while (found := next((x for x in _loops(made) if x.worth(made)), None)) is not None:
        made, changed = found.done(made), True
    return made if changed else program


def _loops(program: Program) -> Iterator[_Loop]:
    """What may be a loop: scans together, then each; then again for what other loops wait for alone."""
    every = [*_affine(program)]
    for rows in (False, True):
        for i, x in enumerate(every):
            group = [x]
            for y in every[i + 1 :]:
                alike = (y.op, y.steps.size(y.op.axis)) == (x.op, x.steps.size(x.op.axis))
                if alike and not any(z.scan in reached(y.scan.args) for z in group):
                    group.append(y)
            if len(group) > 1:
                yield _Loop(group, rows)
        yield from (_Loop([x], rows) for x in every)


def _affine(program: Program) -> Iterator[_Affine]:
    """The scans over a first state and the steps' own: S_0, then a_c, x_c; where a_c is 1, sums."""
    for v in program.order:
        op = v.op
        if not isinstance(op, p.AffineScan | p.Cumulate) or not _scans(v, op.axis):
            continue
        *decays, x = v.args
        axis, ends = op.axis, (0, 1) if op.reverse else (1, 0)
        if not isinstance(x.op, p.Concat) or len(x.args) != 2 or not all(op.axis in a.axes for a in v.args):
            continue
        if any(not isinstance(d.op, p.Pad) or (d.op.before, d.op.after, d.op.axis) != (*ends, axis) for d in decays):
            continue
        first, steps = reversed(x.args) if op.reverse else x.args
        if x.op.axis == axis and first.size(axis) == 1 and {*first.axes} == {*steps.axes} == {*v.axes}:
            yield _Affine(v, op, first, steps, decays[0].args[0] if decays else None)


def _scans(v: Value, axis: str) -> bool:
    """Whether v is carried from step to step: by factors, or by sums along this axis."""
    sums = isinstance(v.op, p.Cumulate) and v.op.fn == "sum" and v.op.axis == axis and not v.op.exclusive
    return (sums and v.kind == "real") or isinstance(v.op, p.AffineScan)


@dataclass(frozen=True)
class _Affine:
    """An affine scan: what it starts from, what its steps add, and their factors if they have any."""

    scan: Value
    op: p.AffineScan | p.Cumulate
    first: Value
    steps: Value
    decay: Value | None


@dataclass
class _Loop:
    """Affine scans that do not wait for each other, with what is computed of their states, step by step.

    rows             whether only numbers for each row are read that other loops wait for, the states being stored
    entering, last   the states that enter the steps, and the one after them, as the program slices them, by their scan
    inside           what is computed in the loop     made   of it what is read outside     stored   states that are
    """

    of: list[_Affine]
    rows: bool = False
    entering: dict[Value, int] = field(default_factory=dict)
    last: dict[Value, int] = field(default_factory=dict)
    inside: dict[Value, None] = field(default_factory=dict)

    @property
    def op(self) -> p.AffineScan | p.Cumulate:
        return self.of[0].op

    def worth(self, program: Program) -> bool:
        """Whether the loop fills a device, and stores less than the states or what other loops wait for."""
        if not self.sliced(program):
            return False
        hangs = {v: {i} for v, i in self.entering.items()}
        after = {*(x.scan for x in self.of), *self.entering, *self.last}
        self.inside = dict.fromkeys(self.entering)
        for v in program.order:
            behind = [a for a in v.args if a in after]
            if behind and v not in after:
                after.add(v)
                if all(a in self.inside for a in behind) and self.local(v):
                    self.inside[v] = None
                    hangs[v] = {i for a in behind for i in hangs[a]}
        if max(map(len, hangs.values()), default=0) < len(self.of):
            return False  # nothing is computed of all of them
        if self.rows:
            self.waited(program)
        for v in reversed([*self.inside]):  # what is only called otherwise in the end is so after the loop
            if isinstance(v.op, p.Rename | p.Order) and not any(v in u.args for u in self.inside):
                del self.inside[v]
        outside = [v for v in program.order if v not in self.inside and v not in (*self.entering, *self.last)]
        read = {a for v in outside for a in v.args} | {*program.outputs}
        self.made = [v for v in self.inside if v in read and v not in self.entering]
        self.stored = [v for v in self.entering if v in read]
        return bool(self.made) and (bool(self.stored) == self.rows) and self.filled()

    def sliced(self, program: Program) -> bool:
        """Whether of the states only those that enter the steps are read, and the last."""
        axis, n = self.op.axis, self.of[0].steps.size(self.op.axis)
        begin = int(self.op.reverse)
        for i, x in enumerate(self.of):
            for v in program.order:
                if x.scan in v.args:
                    if not isinstance(v.op, p.Slice) or v.op.axis != axis or v.op.step != 1:
                        return False
                    if (v.op.start, v.op.stop) == (begin, begin + n):
                        self.entering[v] = i
                    elif (v.op.start, v.op.stop) == ((0, 1) if self.op.reverse else (n, n + 1)):
                        self.last[v] = i
                    else:
                        return False
        return True

    def waited(self, program: Program) -> None:
        """Of what is computed of the states, the numbers of rows that other loops wait for, and what they take."""
        own = {x.scan for x in self.of}
        others = (v for v in program.order if (isinstance(v.op, p.Scan) or _scans(v, self.op.axis)) and v not in own)
        wanted = reached([a for v in others for a in v.args])
        summed: dict[Value, set[str]] = {}  # over what, on the way
        for v in self.inside:
            before = (summed[a] for a in v.args if a in summed)
            summed[v] = set(getattr(v.op, "over", ())).union(*before)
        rows = [v for v in self.inside if v in wanted and v not in self.entering and summed[v].isdisjoint(v.axes)]
        kept = reached(rows)
        self.inside = {v: None for v in self.inside if v in kept}

    def filled(self) -> bool:
        """Whether the loop alone fills a device, with few products."""
        products = [x for x in self.step() if isinstance(x.op, p.Contract)]
        summed = {a for x in products for a in x.op.over}  # type: ignore[union-attr]
        summed |= {x.op.old for x in self.step() if isinstance(x.op, p.Rename) and x.op.new in summed}
        long = any(x.args[0].size(a) > WHOLE for x in products for a in x.op.over)  # type: ignore[union-attr]
        sizes = max((x.steps.sizes for x in self.of), key=lambda sizes: prod(sizes.values()))
        free = prod(m for a, m in sizes.items() if a != self.op.axis and a not in summed)
        held = prod(m for a, m in sizes.items() if a != self.op.axis) // free
        count = sum(map(_matrices, products)) if len(self.of) > 1 else len(products)
        if count > PRODUCTS or long:
            return False
        return (free >= sinking.LANES // 64 and held <= HELD) if self.rows else free >= sinking.LANES and self.small()

    def small(self) -> bool:
        """Whether what is stored takes less than the states."""
        return sum(prod(v.shape) for v in self.made) < sum(prod(x.scan.shape) for x in self.of)

    def local(self, v: Value) -> bool:
        """Whether v is computed step by step."""
        named = {getattr(v.op, name, None) for name in ("axis", "old", "new")} | {*getattr(v.op, "over", ())}
        return isinstance(v.op, LOCAL) and self.op.axis in v.axes and self.op.axis not in named

    def step(self) -> list[Value]:
        """What a step computes: of the states, and the products that this and the next state take."""
        found: dict[Value, None] = {}
        todo = [*self.inside, *(x.steps for x in self.of)]
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
        given |= dict.fromkeys(x.decay for x in self.of if x.decay is not None)
        given |= dict.fromkeys(x.steps for x in self.of if x.steps not in inside)
        parts = {a: of for a in given if (of := decayed(a, given, order))}
        given = dict.fromkeys(x for a in given for x in parts.get(a, (a,)))
        new: dict[Value, Value] = {v: v for v in program.inputs}

        def make(v: Value) -> Value:
            """v of the program, where it does not hang on the loop."""
            return b.remade(v, new)

        moving = [a for a in given if axis in a.axes]
        fixed = [a for a in given if axis not in a.axes]
        axes = [tuple(a for a in x.scan.axes if a != axis) for x in self.of]
        starts = [b.order(b.reduce("sum", make(x.first), (axis,)), own) for x, own in zip(self.of, axes, strict=True)]

        def body(
            inner: Builder, carries: list[Value], steps: list[Value], constants: list[Value]
        ) -> tuple[list[Value], list[Value]]:
            here = dict(zip((*moving, *fixed), (*steps, *constants), strict=True))
            for v, i in self.entering.items():
                here[v] = inner.order(carries[i], axes[i])
            for v in order:
                left = tuple(a for a in v.axes if a != axis)
                if parts.keys().isdisjoint(v.args):
                    here[v] = inner.again(v, [here[a] for a in v.args], axes=left)
                else:
                    here[v] = inner.order(apart(inner, v, parts, here), left)
            after = []
            for x, state in zip(self.of, carries, strict=True):
                with inner.named(x.scan.label):
                    kept = state if x.decay is None else inner.mul(here[x.decay], state)
                    after.append(inner.add(kept, here[x.steps]))
            return after, [here[v] for v in (*self.made, *self.stored)]

        count = self.of[0].steps.size(axis)
        with b.named(self.of[0].scan.label):
            states, results = b.scan(
                axis, body, starts, [*map(make, moving)], [*map(make, fixed)], length=count, reverse=self.op.reverse
            )
        new |= {v: b.order(x, v.axes) for v, x in zip((*self.made, *self.stored), results, strict=True)}
        for v, i in self.last.items():
            new[v] = b.order(b.expand(states[i], {**states[i].sizes, axis: 1}), v.axes)
        outputs = tuple(map(make, program.outputs))
        return Program(inputs=program.inputs, outputs=outputs, names=program.names)


def _matrices(v: Value) -> bool:
    """Whether a sum of products is one of matrices: both factors have rows of their own."""
    x, y = v.args
    left, right = ({a for a, n in u.sizes.items() if a not in w.axes and n > 1} for u, w in ((x, y), (y, x)))
    return bool(left and right)
