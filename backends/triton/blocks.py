"""One loop over blocks of steps that carries the states of affine scans, and computes what is made of them.

A step is one of a block, and a channel one of a group: tiles hold all states of some channels at some steps. What comes
from outside is cut so, at whatever step it is asked for; what is summed over steps is carried, what is summed over
channels or sequences is left in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from backends.triton.affine import NEUTRAL, Affine, Parts, affine_of, part_of, scanned, times
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

BLOCK, STEP, LANES, LANE = "_block", "_i", "_lanes", "_lane"
"""axes: blocks of steps, steps in one; groups of channels, channels in one"""
LOCAL = p.Map | p.Cast | p.Order | p.Expand | p.Detach


@dataclass
class Sweep:
    """Affine scans of one size whose states meet, with what is computed of them step by step.

    axis, length   that they run along, and its steps
    names     of an axis, what it is called in the scans     parts   states, or a part of complex ones -> their scan
    inside    what is computed in the loops -> the number of the scans' step where it begins
    delayed   states one step before -> the states     last   the states that a scan ends with -> all of them
    final     of `inside` what is summed over steps, channels or sequences     made   of it what is read outside
    states    axes that a tile spans, with the size of their tile     lane   the axis of channels, if there is one
    rest      the other axes     lanes, steps   channels of a tile, steps of a block     count   blocks
    """

    axis: str
    length: int
    scans: list[Value]
    names: dict[str, str] = field(default_factory=dict)
    parts: dict[Value, Value] = field(default_factory=dict)
    inside: dict[Value, int] = field(default_factory=dict)
    delayed: dict[Value, Value] = field(default_factory=dict)
    last: dict[Value, Value] = field(default_factory=dict)
    final: set[Value] = field(default_factory=set)
    made: list[Value] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    lane: str = ""
    rest: list[str] = field(default_factory=list)
    lanes: int = 1
    steps: int = 1
    count: int = 1

    @property
    def sizes(self) -> dict[str, int]:
        """Those of the states, but for the steps."""
        return {a: n for a, n in sizes_of(self.scans[0]).items() if a != self.axis}


def _affine(scan: Value) -> Affine:
    of = affine_of(scan)
    assert of is not None
    return of


def sizes_of(scan: Value) -> Mapping[str, int]:
    """Those of a scan's states."""
    return _affine(scan).sizes


def parts_of(scan: Value) -> range:
    """The numbers of the parts of a scan's states."""
    return range(len(_affine(scan).inputs))


def back(scan: Value) -> bool:
    """Whether an affine scan runs from the end."""
    return _affine(scan).reverse


@dataclass
class Loop:
    """One loop over blocks: the scans that it carries, and what it computes of them.

    entered   states that enter each block, of scans that run the other way     made   its results
    opening   whether it stores the states that enter its own blocks
    """

    of: Sweep
    b: Builder
    make: Callable[[Value], Value]
    scans: list[Value]
    entered: Mapping[tuple[Value, int], Value]
    made: list[Value]
    reverse: bool
    opening: bool
    inner: Builder = field(default_factory=Builder)
    given: dict[object, Value] = field(default_factory=dict)
    steps: list[tuple[Value, Value]] = field(default_factory=list)
    fixed: list[tuple[Value, Value]] = field(default_factory=list)
    tiles: dict[Value, Value] = field(default_factory=dict)
    states: dict[tuple[str, Value], Parts] = field(default_factory=dict)
    entering: dict[tuple[Value, int], Value] = field(default_factory=dict)

    def run(self) -> dict[Value, Value]:
        """What the program has as results of the loop."""
        of, b, inner = self.of, self.b, self.inner
        self.before = {of.parts[of.delayed[v]] for v in self.needed() if v in of.delayed}
        carried = [(s, i) for s in self.scans for i in parts_of(s)]
        axes = [*of.rest, *((LANES,) if of.lane else ()), *of.states, *((LANE,) if of.lane else ())]
        sizes = {a: self.size(a) for a in axes}
        self.carries = {s: inner.input(f"carry{i}", tuple(axes), tuple(sizes.values())) for i, s in enumerate(carried)}
        start = [b.full(0.0, sizes) for _ in carried]
        given: list[Value] = [*self.carries.values()]
        new = []
        for s, i in carried:
            with inner.named(s.label):
                h = inner.where(self.edge(s, last=True), self.state(s)[i], 0.0)
                new.append(inner.order(inner.sum(h, (STEP,)), tuple(axes)))
        stacked: list[Value] = [*self.carries.values()] if self.opening else []
        kept: list[Value] = []
        for v in self.made:
            x = self.value(v)
            if of.axis in v.axes:
                inside = [a for a in (STEP, LANES) if a in x.axes]
                inside = inside if LANE in x.axes else inside[::-1]
                first = [a for a in x.axes if a not in (STEP, LANES, LANE, *of.states)]
                order = (*first, *inside, *(a for a in x.axes if a in of.states), *((LANE,) if LANE in x.axes else ()))
                kept.append(v)
                stacked.append(inner.order(x, order))
        for v in self.made:
            if of.axis not in v.axes:
                x = self.value(v)
                carry = inner.input(f"carry{len(given)}", x.axes, x.shape)
                given.append(carry)
                start.append(b.full(0.0, x.sizes))
                with inner.named(v.label):
                    new.append(inner.add(carry, x))
        names = tuple(f"out{i}" for i in range(len(new) + len(stacked)))
        inputs = (*given, *(x for x, _ in self.steps), *(x for x, _ in self.fixed))
        body = Program(inputs=inputs, outputs=(*new, *stacked), names=names)
        scan = p.Scan(BLOCK, of.count, body, len(new), len(self.steps), self.reverse)
        args = (*start, *(y for _, y in self.steps), *(y for _, y in self.fixed))
        with b.named(self.scans[0].label):
            picked = b.picks(scan, args)
        ends, results = picked[: len(new)], picked[len(new) :]
        if self.opening:
            self.entering = dict(zip(carried, results, strict=False))
            results = results[len(carried) :]
        sums = [v for v in self.made if of.axis not in v.axes]
        found = dict(zip((*sums, *kept), (*ends[len(carried) :], *results), strict=True))
        made = {v: self.outside(v, x) for v, x in found.items()}
        for v, h in of.last.items():
            if of.parts[h] in self.scans:
                x = self.named(ends[carried.index((of.parts[h], part_of(h)))], v)
                made[v] = b.order(b.expand(x, {of.axis: 1}), v.axes)
        return made

    def needed(self) -> set[Value]:
        """What the loop computes on the way to its results."""
        found: set[Value] = set()
        todo = [*self.made]
        while todo:
            v = todo.pop()
            if v in self.of.inside and v not in found:
                found.add(v)
                todo += () if v in self.of.delayed or v in self.of.parts else v.args
        return found

    def size(self, axis: str) -> int:
        """That of an axis inside the loop."""
        of = self.of
        own = {STEP: of.steps, LANE: of.lanes, LANES: of.sizes.get(of.lane, 1) // of.lanes}
        return own[axis] if axis in own else of.sizes[axis]

    # ------------------------------------------------------------------ inside

    def arg(self, x: Value, start: int, by: int = 0, beyond: float = 0.0) -> Value:
        """A value from outside, `by` steps later, on the steps of this block; `beyond` where it has none."""
        of, b = self.of, self.b
        key = (x, start + by if of.axis in x.axes else 0, beyond)
        if key in self.given:
            return self.given[key]
        y = self.make(x)
        for a in y.axes:
            y = b.rename(y, a, of.names[a])
        if of.lane in y.axes:
            y = b.split(y, of.lane, LANES, LANE, of.lanes)
        stepped = of.axis in y.axes
        if stepped:
            first, total = start + by, of.count * of.steps
            y = b.slice(y, of.axis, max(-first, 0), min(y.size(of.axis), total - first))
            value = {"real": beyond, "int": 0, "bool": False}[x.kind]
            before = max(first, 0)
            y = b.pad(y, of.axis, before, total - before - y.size(of.axis), value)
            y = b.split(y, of.axis, BLOCK, STEP, of.steps)
        axes = tuple(a for a in y.axes if a != BLOCK)
        made = self.inner.input(f"given{len(self.given)}", axes, tuple(y.size(a) for a in axes), x.kind)
        (self.steps if stepped else self.fixed).append((made, y))
        self.given[key] = made
        return made

    def place(self) -> Value:
        """The number of each step, of all."""
        of, inner = self.of, self.inner
        if "block" not in self.given:
            self.given["block"] = inner.input("block", (), (), "int")
            self.steps.append((self.given["block"], self.b.iota(BLOCK, of.count)))
        return inner.add(inner.mul(self.given["block"], of.steps), inner.iota(STEP, of.steps))

    def edge(self, scan: Value, last: bool = False) -> Value:
        """Whether a step is the first that the scan comes to in a block, or the last."""
        place = self.of.steps - 1 if back(scan) is not last else 0
        return self.inner.map("eq", self.inner.iota(STEP, self.of.steps), place)

    def factors(self, scan: Value, by: int) -> tuple[Parts, Parts]:
        """a and x of a scan, `by` steps later."""
        of, inner, one = self.of, self.inner, _affine(scan)
        ends = any(of.parts[h] is scan for h in of.last.values())
        decay = []
        for a, beyond in zip(one.factors, NEUTRAL, strict=False):
            if (same := self.steady(a, one.reverse)) is not None:
                made = self.arg(same, 0)
                if of.count * of.steps > of.length and ends and not by:
                    made = inner.where(inner.map("lt", self.place(), of.length), made, beyond)
            else:
                made = self.arg(a, 0, by, beyond)
            decay.append(inner.expand(made, {STEP: of.steps}))
        return tuple(decay), tuple(self.arg(x, 0, by) for x in one.inputs)

    def steady(self, a: Value, reverse: bool) -> Value | None:
        """The factor of a scan if it is the same at every step; at the first one it meets no state, so is any."""
        axis = self.of.axis
        if axis not in a.axes:
            return a
        if isinstance(a.op, p.Slice) and isinstance(a.args[0].op, p.Pad) and a.op.axis == a.args[0].op.axis == axis:
            n, pad = a.size(axis), a.args[0].op
            way = (pad.before, pad.after, a.op.start, a.op.stop, a.op.step)
            if way == ((0, 1, 1, n + 1, 1) if reverse else (1, 0, 0, n, 1)):
                a = a.args[0].args[0]
        return a.args[0] if isinstance(a.op, p.Expand) and axis not in a.args[0].axes else None

    def enters(self, scan: Value, part: int) -> Value:
        """The state that enters the block, or a part of it."""
        key = scan, part
        if key in self.carries:
            return self.carries[key]
        if key not in self.given:
            y = self.entered[key]
            axes = tuple(a for a in y.axes if a != BLOCK)
            made = self.inner.input(f"given{len(self.given)}", axes, tuple(y.size(a) for a in axes))
            self.steps.append((made, y))
            self.given[key] = made
        return self.given[key]

    def earlier(self, scan: Value) -> Parts:
        """The states one step before."""
        if ("earlier", scan) not in self.states:
            inner = self.inner
            a, x = self.factors(scan, -1 if back(scan) else 1)
            x = tuple(inner.where(self.edge(scan), self.enters(scan, i), y) for i, y in enumerate(x))
            self.states["earlier", scan] = scanned(inner, a, x, STEP, back(scan))
        return self.states["earlier", scan]

    def state(self, scan: Value) -> Parts:
        """The states after each step."""
        if ("state", scan) not in self.states:
            inner = self.inner
            a, x = self.factors(scan, 0)
            with inner.named(scan.label):
                if scan in self.before:
                    made = tuple(map(inner.add, times(inner, a, self.earlier(scan)), x))
                else:
                    first = times(inner, a, [self.enters(scan, i) for i in parts_of(scan)])
                    x = tuple(inner.where(self.edge(scan), inner.add(h, y), y) for h, y in zip(first, x, strict=True))
                    made = scanned(inner, a, x, STEP, back(scan))
            self.states["state", scan] = made
        return self.states["state", scan]

    def value(self, v: Value) -> Value:
        """What v is in a block."""
        of = self.of
        if v in of.parts:
            return self.state(of.parts[v])[part_of(v)]
        if (h := of.delayed.get(v)) is not None:
            with self.inner.named(h.label):
                return self.earlier(of.parts[h])[part_of(h)]
        if v not in self.tiles:
            args = [self.value(a) if a in of.inside else self.arg(a, of.inside[v]) for a in v.args]
            with self.inner.named(v.label):
                self.tiles[v] = self.again(v, args)
        return self.tiles[v]

    def again(self, v: Value, args: list[Value]) -> Value:
        of, inner, op = self.of, self.inner, v.op
        if isinstance(op, p.Map):
            return inner.map(op.fn, *args)
        if isinstance(op, p.Cast):
            return inner.cast(args[0], op.kind)
        if isinstance(op, p.Expand):
            axes = [of.names[a] for a in v.axes]
            inside = {of.axis: (STEP,), of.lane: (LANES, LANE)}
            return inner.expand(args[0], {x: self.size(x) for a in axes for x in inside.get(a, (a,))})
        if not isinstance(op, p.Contract | p.Reduce):
            return args[0]
        over = {of.names[a] for a in op.over}
        mapped = [*(a for a in of.states if a in over), *((LANE,) if of.lane in over else ())]
        if of.axis in over:
            length, start = v.args[0].size(of.axis), of.inside[v]
            if length < of.count * of.steps:
                within = inner.map("lt", self.place(), start + length)
                if start:
                    within = inner.map("and", within, inner.map("le", start, self.place()))
                args[0] = inner.where(within, args[0], 0.0)
                args[1:] = [inner.where(within, x, 0.0) for x in args[1:]]
            mapped.insert(0, STEP)
        if len(mapped) == 1 and len(args) == 2:
            return inner.contract(args[0], args[1], tuple(mapped))
        made = inner.mul(*args)
        for a in mapped:
            made = inner.sum(made, (a,))
        return made

    # ------------------------------------------------------------------ outside

    def outside(self, v: Value, x: Value) -> Value:
        """v of the program, from what the loop has stored of it."""
        of, b = self.of, self.b
        with b.named(v.label):
            if of.axis in v.axes:
                x = b.merge(x, BLOCK, STEP, of.axis)
                x = b.slice(x, of.axis, of.inside[v], of.inside[v] + v.size(of.axis))
            if v in of.final:
                summed = {of.names[a] for a in over(v)}
                x = b.sum(x, tuple(a for a in x.axes if a in of.rest and a in summed))
                x = b.sum(x, (LANES,)) if of.lane in summed else x
            return b.order(self.named(x, v), v.axes)

    def named(self, x: Value, v: Value) -> Value:
        """x with the channels as one axis, and the names of v's axes."""
        x = self.b.merge(x, LANES, LANE, self.of.lane) if LANE in x.axes else x
        for a in v.axes:
            x = self.b.rename(x, self.of.names[a], a)
        return x


def within(carry: Value) -> tuple[str, ...]:
    """The axes that one tile of a loop over blocks spans, by a state that the loop carries."""
    return (STEP, *carry.axes[carry.axes.index(LANES) + 1 if LANES in carry.axes else 0 :])


def over(v: Value) -> tuple[str, ...]:
    return v.op.over if isinstance(v.op, p.Contract | p.Reduce) else ()
