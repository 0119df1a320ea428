"""Affine scans along the time of the signals as loops over blocks of steps, with all that is computed of their states.

    h_t = a_t h_{t−1} + x_t,     y_t = Σ_n c_t h_t,     ȳ, ā, x̄ the same way

What a_t and x_t are made of is computed in the loop, and so are the reads: a tile holds some steps of all states that a
read sums, for some channels; an associative scan runs along the steps, and the last state is carried to the next
block. Signals and results go through memory, states do not. Where states of both directions meet, as in an adjoint, a
first loop stores the state that enters each block, and the second one computes the states of the block again from it.
Sums over steps are carried, sums over channels or sequences are left in parts for a kernel after the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from backends.triton.affine import affine_of, scan_of
from backends.triton.blocks import BLOCK, LANE, LANES, LOCAL, STEP, Loop, Sweep, back, over, parts_of, sizes_of
from backends.triton.sums import padded
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

WHOLE, WIDE = 64, 128
"""the longest axis of states that a tile spans, and the most states of a channel"""
MOST, CHANNELS, ALONE = 64, 16, 32
"""the most steps of a block; channels of a tile, and where a channel is one state"""
FULL = 128
"""programs that fill a device"""
ENTRIES = (1 << 13, 1 << 12)
"""of a tile; fewer where the first finds no registers"""


def swept(program: Program, entries: int) -> Program:
    """The program with its affine scans as loops over blocks; itself where none is worth it."""
    made = _summed(program)
    changed = False
    while (found := next(_sweeps(made, entries), None)) is not None:
        made, changed = found.done(), True
    return made if changed else program


def _summed(program: Program) -> Program:
    """The program with a sum of sums of products as one sum, where nothing else reads the inner ones: Σ (x y ± u v)."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    readers: dict[Value, int] = dict.fromkeys(program.outputs, 2)
    for v in program.order:
        for a in v.args:
            readers[a] = readers.get(a, 0) + 1
    for v in program.order:
        if isinstance(v.op, p.Reduce) and v.op.fn == "sum":
            with b.named(v.label):
                made = _sum_of(b, v.args[0], v.op.over, readers, done)
            if made is not None:
                done[v] = b.order(made, v.axes)
                continue
        done[v] = done.get(v) or b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _sum_of(
    b: Builder, x: Value, over: tuple[str, ...], readers: Mapping[Value, int], done: Mapping[Value, Value]
) -> Value | None:
    """Σ of a sum of products, or of sums and differences of such."""
    if readers[x] > 1:
        return None
    if isinstance(x.op, p.Contract):
        return b.contract(done[x.args[0]], done[x.args[1]], (*x.op.over, *over))
    if not isinstance(x.op, p.Map) or x.op.fn not in ("add", "sub", "neg") or any(a.axes != x.axes for a in x.args):
        return None
    terms = [_sum_of(b, a, over, readers, done) for a in x.args]
    return None if None in terms else b.map(x.op.fn, *(y for y in terms if y is not None))


def _sweeps(program: Program, entries: int) -> Iterator[_Found]:
    for v in program.order:
        if (of := affine_of(v)) is not None and not of.axis.startswith("_"):
            made = _Found(of.axis, of.sizes[of.axis], [v])
            made.program = program
            if made.worth(entries):
                yield made


class _Found(Sweep):
    """Scans of a program, with all that is computed of their states.

    looked   paddings that delays alone read
    """

    program: Program
    looked: set[Value]

    def worth(self, entries: int) -> bool:
        """Whether the loops compute all that is computed of whole states."""
        self.close()
        self.shape(entries)
        while (more := self.met()) is not None:
            if {*sizes_of(more).items()} != {*sizes_of(self.scans[0]).items()}:
                return False
            self.scans.append(more)
            self.close()
        self.close()
        after = self.after()
        if any(a in after for s in self.scans for a in s.args):
            return False
        self.beside(after)
        read = {a for v in self.program.order if v not in self.inside for a in self.reads(v)} | {*self.program.outputs}
        self.made = [v for v in self.inside if v in read and v not in self.delayed]
        if any(v in read for v in self.delayed) or not self.made:
            return False
        own = (BLOCK, STEP, LANES, LANE)
        return not any(self.large(v) for v in self.made) and self.names.keys().isdisjoint(own)

    def beside(self, after: set[Value]) -> None:
        """Sums over all steps of what the loops read anyway."""
        args = [a for v in (*self.scans, *self.inside) for a in v.args if a not in after]
        known = {x for a in args for x in _leaves(a) or () if self.axis in x.axes}
        for v in self.program.order:
            if v in after or self.axis not in over(v) or not isinstance(v.op, p.Contract):
                continue
            axes = {self.names.get(a, a): n for x in v.args for a, n in x.sizes.items()}
            read = [_leaves(x) for x in v.args]
            if any(x is None or not known >= {y for y in x if self.axis in y.axes} for x in read):
                continue
            if axes == {a: n for a, n in {**self.sizes, self.axis: self.length}.items() if a not in self.states}:
                self.inside[v] = 0
                self.final.add(v)

    def reads(self, v: Value) -> Sequence[Value]:
        """What v reads, but for what the loops know of it."""
        return () if v in self.last or v in self.looked else v.args

    def large(self, v: Value) -> bool:
        """Whether v has a number for every state of every step."""
        own = {self.names.get(a, a) for a in v.axes}
        return bool(self.states) and {self.axis, *self.states, self.lane or self.axis} <= own

    def shape(self, entries: int) -> None:
        """Which axes a tile spans: those of the states that reads sum, and one of channels."""
        sizes = self.sizes
        summed = dict.fromkeys(self.names[a] for v in self.inside if self.axis in v.axes for a in over(v))
        for a in sorted((a for a in summed if a in sizes), key=lambda a: sizes[a]):
            if sizes[a] <= WHOLE and padded(sizes[a]) * prod(self.states.values()) <= WIDE:
                self.states[a] = padded(sizes[a])
        rest = [a for a in sizes if a not in self.states]
        last = [v.axes[-1] for v in self.program.inputs if self.axis in v.axes]
        last = [self.names.get(a, a) for a in last]
        self.lane = max(rest, key=lambda a: (last.count(a), sizes[a]), default="")
        self.rest = [a for a in rest if a != self.lane]
        most = CHANNELS if self.states else ALONE
        self.lanes = max(d for d in range(1, most + 1) if sizes.get(self.lane, 1) % d == 0)
        room = entries // (prod(self.states.values()) * padded(self.lanes) * max(len(parts_of(s)) for s in self.scans))
        few = not self.states and self.lanes % 2 == 0 and prod(sizes.values()) < FULL * self.lanes
        self.lanes //= 2 if few else 1  # where programs wait for each turn anyway, turns are long and tiles narrow
        self.steps = min(max(room, 8), 2 * MOST if few else MOST, self.length)
        self.count = -(-self.length // self.steps)

    def after(self) -> set[Value]:
        """All that hangs on the scans."""
        found = {*self.scans}
        for v in self.program.order:
            if any(a in found for a in v.args):
                found.add(v)
        return found

    def close(self) -> None:
        """All that is computed of the scans step by step."""
        self.names = {a: a for a in sizes_of(self.scans[0])}
        self.parts = {v: s for s in self.scans for v in self.program.order if scan_of(v) is s and v.axes}
        self.inside = dict.fromkeys(self.parts, 0)
        self.delayed, self.last, self.final = {}, {}, set()
        self.looked: set[Value] = set()
        after = self.after()
        for v in self.program.order:
            if v not in self.inside and any(a in after for a in v.args):
                self.join(v, after)
        pads = {v.args[0] for v in self.delayed if isinstance(v.args[0].op, p.Pad)}
        readers = {a for v in self.program.order if v not in self.delayed for a in v.args} | {*self.program.outputs}
        self.looked = {x for x in pads if x not in readers}

    def join(self, v: Value, after: set[Value]) -> None:
        """v, computed in the loops if it can be."""
        op, x = v.op, v.args[0]
        if isinstance(op, p.Slice) and (scan := self.moved(v)) is not None:
            self.delayed[v] = scan
            self.inside[v] = int(scan is x)
            return
        if isinstance(op, p.Slice) and x in self.parts and self.ends(v):
            self.last[v] = x
            return
        own = [a for a in v.args if a in self.inside]
        if not own or any(a in self.final for a in own) or any(a in after for a in v.args if a not in own):
            return
        offset = {self.inside[a] for a in own if self.axis in a.axes}
        if len(offset) != 1:
            return
        (start,) = offset
        if isinstance(op, p.Slice):
            if op.axis == self.axis and op.step == 1:
                self.inside[v] = start + op.start
            return
        if isinstance(op, p.Rename):
            name = self.names.get(op.old, "")
            if op.old != self.axis and self.names.setdefault(op.new, name) == name:
                self.inside[v] = start
            return
        if any(self.names.get(a) is None for y in (v, *v.args) for a in y.axes):
            return
        lengths = {y.size(self.axis) for y in v.args if self.axis in y.axes}
        if len(lengths) != 1 or not isinstance(op, LOCAL | p.Contract | p.Reduce):
            return
        if isinstance(op, p.Contract | p.Reduce):
            if isinstance(op, p.Reduce) and op.fn != "sum":
                return
            over = {self.names[a] for a in op.over}
            if self.lane and (self.axis in over or self.lane in over or over & {*self.rest}):
                if self.axis not in over and over & {*self.rest}:
                    return
                self.final.add(v)
            elif self.axis in over:
                self.final.add(v)
        self.inside[v] = start

    def moved(self, v: Value) -> Value | None:
        """The states of which v is that one step before: 0 or the first state where there is none."""
        op, x = v.op, v.args[0]
        assert isinstance(op, p.Slice)
        n = self.length
        if op.axis != self.axis or op.step != 1:
            return None
        if isinstance(x.op, p.Pad) and x.args[0] in self.parts and x.op.value == 0 and x.op.axis == self.axis:
            way = (x.op.before, x.op.after, op.start, op.stop)
            return x.args[0] if way == ((0, 1, 1, n + 1) if back(self.parts[x.args[0]]) else (1, 0, 0, n)) else None
        if x in self.parts and not back(self.parts[x]) and (op.start, op.stop) == (0, n - 1) and n > 2:
            return x
        return None

    def ends(self, v: Value) -> bool:
        """Whether v is the state that a scan ends with."""
        op, n = v.op, self.length
        assert isinstance(op, p.Slice)
        return op.axis == self.axis and (op.start, op.stop) == ((0, 1) if back(self.parts[v.args[0]]) else (n - 1, n))

    def met(self) -> Value | None:
        """A scan whose states meet those of the others entry by entry."""
        for v in self.program.order:
            if isinstance(v.op, p.Map | p.Contract) and any(
                a in self.inside and self.large_or_alone(a) for a in v.args
            ):
                todo = [a for a in v.args if a not in self.inside]
                seen: set[Value] = set()
                while todo:
                    x = todo.pop()
                    if x in seen or self.axis not in x.axes or not self.large_or_alone(x):
                        continue
                    seen.add(x)
                    if (of := affine_of(scan_of(x))) is not None and of.axis == self.axis:
                        if scan_of(x) not in self.scans:
                            return scan_of(x)
                    elif isinstance(x.op, LOCAL | p.Pad | p.Slice | p.Rename):
                        todo += x.args
        return None

    def large_or_alone(self, v: Value) -> bool:
        return self.large(v) or (not self.states and self.axis in v.axes)

    # ------------------------------------------------------------------ the loops

    def done(self) -> Program:
        """The program with the loops."""
        b = Builder()
        new: dict[Value, Value] = {v: v for v in self.program.inputs}

        def make(v: Value) -> Value:
            return b.remade(v, new)

        first = all(map(back, self.scans))
        early = [s for s in self.scans if back(s) is first]
        late = [s for s in self.scans if s not in early]
        hangs = {s: {s} for s in self.scans}
        for v in self.inside:
            if v not in hangs:
                hangs[v] = set().union(*(hangs[a] for a in self.args_of(v) if a in hangs))
        ahead = [v for v in self.made if hangs[v] <= {*early}] if late else self.made
        loop = Loop(self, b, make, early, {}, ahead, first, bool(late))
        new |= loop.run()
        if late:
            rest = [v for v in self.made if v not in ahead]
            needed = set().union(*(hangs[v] for v in rest))
            entered = {(s, i): x for (s, i), x in loop.entering.items() if s in needed}
            new |= Loop(self, b, make, late, entered, rest, not first, False).run()
        outputs = tuple(map(make, self.program.outputs))
        return Program(inputs=self.program.inputs, outputs=outputs, names=self.program.names)

    def args_of(self, v: Value) -> Sequence[Value]:
        return (self.delayed[v],) if v in self.delayed else v.args


def _leaves(v: Value) -> set[Value] | None:
    """The inputs that v is computed from entry by entry; None if it is not."""
    found, todo = set(), [v]
    while todo:
        x = todo.pop()
        if x not in found:
            if not isinstance(x.op, LOCAL | p.Input | p.Constant | p.Rename):
                return None
            found.add(x)
            todo += x.args
    return {x for x in found if isinstance(x.op, p.Input)}
