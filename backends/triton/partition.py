"""From a program to the steps that run it: kernels, loops around kernels, and calls of a library.

Every result is asked for by a kernel of its own, and evaluated back to what is in memory. Where that fails (`Cut`), a
value on the way is put in memory by a kernel of its own, and it is tried again; so too where its tiles take far more
registers than there are. At the end kernels of one grid that do not wait for each other become one as long as registers
suffice, and others are launched side by side.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, TypeAlias

from backends.triton import loops, roots
from backends.triton.affine import affine_of
from backends.triton.chains import APART, bare, overlong, repeated, unmasked
from backends.triton.ends import at_the_end, loop_of
from backends.triton.evaluate import Buffer, Cut, computed, hint, meaning, reached, stripped
from backends.triton.factors import between, condenses, drive, factor, little, multiplies, stepwise
from backends.triton.halving import halves
from backends.triton.joining import Joining
from backends.triton.kernel import LIMITS, SPILLED, Kernel, Setting, fitting, shapes
from backends.triton.prepared import prepared
from backends.triton.roots import demands
from backends.triton.stages import apart
from backends.triton.steps import Call, Launch, Learnt, Plan, Repeat, Step, reads
from backends.triton.sums import WHOLE
from backends.triton.tile import word
from lowering import program as p
from lowering.program import Program, Value
from mixer_ir.errors import BackendError

Write: TypeAlias = Callable[[Setting], Kernel]
FAR = 3.0
"""how many times the registers that there are a kernel's tiles may take before it is cut between its products"""


def plan(program: Program, setting: Setting, prefix: str = "", learnt: Learnt | None = None) -> Plan:
    """The steps of a program of real numbers (backends/triton/real.py).

    learnt   of earlier plans of the same program object; the kernels that are written now are added
    """
    return lightest(plans(program, setting, prefix, Learnt() if learnt is None else learnt))


def lightest(made: Sequence[Plan]) -> Plan:
    """That whose tiles take the fewest of the registers that they may take."""
    return min(made, key=lambda x: max((k.held / (k.setting.limit * k.warps) for k in x.kernels()), default=0.0))


def plans(program: Program, setting: Setting, prefix: str, learnt: Learnt) -> list[Plan]:
    """Plans of the ways to prepare a program, the best first, up to one whose tiles fit into registers."""
    made = []
    for one in prepared(program, setting.real == "tl.float32", setting.folded, learnt.stored):
        made.append(_Partition(one, setting, prefix, learnt).plan())
        if all(k.fits for k in made[-1].kernels()):
            break
    return made


@dataclass
class _Partition:
    program: Program
    setting: Setting
    prefix: str
    learnt: Learnt
    buffers: dict[Value, Buffer] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    made: dict[Value, Step] = field(default_factory=dict)
    inside_of: dict[Value, set[Value]] = field(default_factory=dict)
    """what was computed in place by the steps that were made: they are made again if it is in memory by now"""
    apart: set[Value] = field(default_factory=set)
    """what a loop's program cannot compute at its end"""
    summed: set[Value] = field(default_factory=set)
    """cumulated sums of what is in memory because their own loop found no registers for it"""
    halved: Counter[frozenset[Value]] = field(default_factory=Counter)
    """how often the products of what one kernel stores were halved"""

    def plan(self) -> Plan:
        for v in self.program.inputs:
            assert isinstance(v.op, p.Input)
            self.buffer(v, v.op.name)
        placed = loops.placed(self.program)
        for name, v in zip(self.program.names, self.program.outputs, strict=True):
            if v not in self.buffers:
                self.buffers[v] = replace(self.buffer(v, name), of=placed.get(v))
        for v in apart(self.program):
            self.between_kernels(v)
        inputs = set(self.program.inputs)
        while True:
            count = len(self.buffers)
            self.complete(inputs)
            if len(self.buffers) == count and not self.halve():
                break
            self.made = {
                v: s
                for v, s in self.made.items()
                if isinstance(s, Repeat) or self.inside_of[v].isdisjoint(self.buffers)
            }
        steps = Joining(self.buffers, self.learnt, self.joint).joined(self.needed())
        return Plan(
            self.program,
            tuple(self.buffers[v] for v in self.program.inputs),
            tuple(self.buffers[v] for v in self.program.outputs),
            tuple(steps),
        )

    def halve(self) -> bool:
        """Sums put in memory that take half of the products of what one kernel stores; whether there are any."""
        found: tuple[Value, ...] = ()
        for own, times in self.learnt.halved.items():
            while self.halved[own] < times and not found:
                self.halved[own] += 1
                found = halves([v for v in own if v in self.buffers], self.buffers, self.program.order)
        for x in found:
            self.between_kernels(x)
        return bool(found)

    def complete(self, inputs: set[Value]) -> None:
        """A step for every buffer, and for those that turn out to be needed on the way."""
        tries = 0
        while missing := [v for v in self.buffers if v not in inputs and self.producer(v) not in self.made]:
            for v in missing:
                if (maker := self.producer(v)) not in self.made:
                    try:
                        if self.ending(v) or self.late(v):
                            continue
                        self.made[maker] = self.step(v)
                        self.inside_of[maker] = {x for a in maker.args for x in computed(a, self.buffers)}
                        for b in self.ends(maker):
                            self.inside_of[maker] |= {*at_the_end(b.value, self.buffers)} - self.buffers.keys()
                    except Cut as cut:
                        self.cut(v, cut)
                        tries += 1
                        if tries > 3 * len(self.program.order) + 100:
                            raise BackendError(f"the triton backend finds no way to compute {v}") from cut

    def buffer(self, v: Value, hint: str) -> Buffer:
        if v not in self.buffers:
            name = base = re.sub(r"\W+", "_", hint)
            i = 1
            while name in self.names:
                i += 1
                name = f"{base}{i}"
            self.names.add(name)
            self.buffers[v] = Buffer(name, v)
            self.made.pop(self.producer(v), None)
        return self.buffers[v]

    def cut(self, root: Value, cut: Cut) -> None:
        """The value that is in the way gets into memory."""
        v = cut.value
        while isinstance(v.op, p.Rename | p.Order) and v.args[0] not in self.buffers:
            v = v.args[0]
        if v in self.buffers:
            raise BackendError(f"the triton backend cannot compute {v.op} as {cut}") from cut
        self.between_kernels(v)

    def ending(self, v: Value) -> bool:
        """Whether v is computed by the program that runs a loop, at its end, and is from now on."""
        b = self.buffers[v]
        if b.of is not None or v in self.apart or (scan := loop_of(v, self.buffers)) is None:
            return False
        self.buffers[v] = replace(b, of=scan)
        try:
            self.loop(scan, b.name)
        except Cut as cut:
            self.buffers[v] = b
            if cut.value in at_the_end(v, self.buffers) or cut.value not in self.program.order:
                self.apart.add(v)
                return False
            raise
        self.made.pop(scan, None)
        return True

    def ends(self, scan: Value) -> list[Buffer]:
        """What is computed at a loop's end beside its last states."""
        return [b for b in self.buffers.values() if b.of is scan]

    # ------------------------------------------------------------------ one step

    def step(self, v: Value) -> Step:
        op = v.op
        buffer = self.buffers[v]
        name = f"{self.prefix}{buffer.name}_kernel"
        title = f"{buffer.name}: {_about(v)}."
        rest = self.rest(v)
        if isinstance(op, p.Transform) or (isinstance(op, p.Solve) and v.size(op.row) > WHOLE):
            self.ask(v.args)
            return Call(buffer)
        if isinstance(self.producer(v).op, p.Scan):
            return self.loop(self.producer(v), name)
        if isinstance(self.producer(v).op, p.Region):
            return self.pairs(self.producer(v), name)
        if isinstance(op, p.AffineScan):
            if (x := stepwise(v, self.program.order, self.buffers)) is not None:
                raise Cut(x, "is made by products of matrices along the steps, which a loop would take one by one")
            return self.alone(v, lambda s: loops.affine(name, buffer, {**rest, v: buffer}, s, title))
        if isinstance(op, p.Cumulate) and (v.size(op.axis) > WHOLE or self.apiece(v)):
            return self.alone(v, lambda s: loops.cumulate(name, buffer, {**rest, v: buffer}, s, title))
        if (x := overlong(v, rest, self.entries(v))) is not None:
            raise Cut(x, "is a factor of a chain of products that is longer than a tile")
        try:
            made = self.launch(self.plain(name, [buffer], title), v)
            if (x := self.repeated(v, made.kernel)) is not None:
                raise Cut(x, "is computed again by every program along an axis that it lacks")
            x = self.same(v) if made.kernel.crowded(CROWDED) else None
            if x is None and made.kernel.crowded(HALVED):
                x = self.middle(v)
            if x is not None:
                raise Cut(x, "takes too many registers with what is computed of it")
            far = made.kernel.crowded(FAR) or roots.too_whole(v, rest, self.setting.tile)
            if far and (x := between(v, rest)) is not None:
                raise Cut(x, "is a factor of what takes far more registers than there are")
            return made
        except Cut as cut:
            if cut.value is v and isinstance(op, p.Solve):
                self.ask(v.args)
                return Call(buffer)
            if cut.value is v and isinstance(op, p.Cumulate):
                return self.launch(lambda s: loops.cumulate(name, buffer, {**rest, v: buffer}, s, title), v)
            raise

    def apiece(self, v: Value) -> bool:
        """Whether what is cumulated wants tiles, but none of the whole axis."""
        wanted = demands(v.args, self.buffers)
        assert isinstance(v.op, p.Cumulate)
        return bool(wanted.tiles) and v.op.axis not in wanted.tiles

    def repeated(self, v: Value, kernel: Kernel) -> Value | None:
        """What a kernel of v computes by products of matrices though it lacks an axis that the programs lie along.

        Little of it is computed again, and by few programs, unless tiles are narrow because larger ones have spilled.
        """
        known, narrow = self.rest(v), kernel.setting.limit < SPILLED
        often = OFTEN // 2 if self.learnt.sharing else OFTEN
        for u, times, single in repeated(v, dict(kernel.grid), known):
            if multiplies(u, known):
                deep = single and (not kernel.fits or self.products(u) >= DEEP)
                if deep or (narrow and times >= often and prod(u.shape) <= prod(v.shape)):
                    return unmasked(u)
        return None

    def same(self, v: Value) -> Value | None:
        """Another result before it is renamed, computed again on the way to v: it gets into memory as it is."""
        own = list(self.inside(v))
        count = {x: self.products(x) for x in own}
        total = self.products(v)
        for other in self.buffers:
            if other is not v and 1 < (n := self.products(other)) < total:
                same = [x for x in computed(other, self.rest(other)) if count.get(x) == n]
                if same:
                    return max(same, key=own.index)
        return None

    def middle(self, v: Value) -> Value | None:
        """A sum that takes about half of the products on the way to v."""
        total = self.products(v)
        sums = [x for x in self.inside(v) if isinstance(x.op, p.Map) and x.op.fn == "add"]
        best = min(sums, key=lambda x: abs(2 * self.products(x) - total), default=None)
        return None if best is None or total < 4 or abs(2 * self.products(best) - total) > total // 2 else best

    def inside(self, v: Value) -> Iterator[Value]:
        """What is computed entry by entry on the way to v, no larger than a result."""
        room = max(prod(x.shape) for x in (v, *self.program.outputs))
        made = {x for a in v.args for x in computed(a, self.buffers)}
        yield from (x for x in self.program.order if x in made and isinstance(x.op, p.Map) and prod(x.shape) <= room)

    def rest(self, v: Value) -> dict[Value, Buffer]:
        return {u: b for u, b in self.buffers.items() if u is not v}

    def products(self, v: Value) -> int:
        """How many products of matrices are computed in place on the way to v, up to what is a step of its own."""
        own = {x: Buffer("", x) for x in self.program.order if isinstance(x.op, APART)}
        return sum(isinstance(x.op, p.Contract) for a in v.args for x in computed(a, {**own, **self.buffers}))

    def dear(self, v: Value, scan: Value) -> bool:
        """Whether v takes functions that many instructions spell, which many programs of a loop would compute again."""
        assert isinstance(scan.op, p.Scan)
        carries = scan.op.body.inputs[: scan.op.carries]
        summed = {a for x in scan.op.body.order if isinstance(x.op, p.Contract | p.Reduce) for a in x.op.over}
        again = min((prod(n for a, n in x.sizes.items() if a not in {*v.axes, *summed}) for x in carries), default=1)
        made = (x for x in computed(v, self.buffers) if isinstance(x.op, p.Map) and x.op.fn in LONG and x.axes)
        fixed = v in scan.args[scan.op.carries + scan.op.steps :] and len(v.axes) > 1
        often = again >= AGAIN or (fixed and scan.op.length >= TURNS)
        return often and any(made) and not multiplies(v, self.buffers)

    def launch(self, write: Write, *stored: Value) -> Launch:
        short = not self.learnt.short.isdisjoint(stored)
        return Launch(fitting(write, shapes(replace(self.setting, limit=self.limit(stored)), short=short)))

    def alone(self, v: Value, write: Write) -> Launch:
        """A loop along the axis of v; small sums of products that it finds no registers for are in memory before."""
        made = self.launch(write, v)
        if (x := little(v, dict(made.kernel.grid), self.rest(v))) is not None:
            raise Cut(x, "is made by products that every program of a loop would take again")
        small = [] if made.kernel.fits else [a for a in v.args if a not in self.buffers and condenses(a, self.buffers)]
        if small:
            if isinstance(v.op, p.Cumulate):
                self.summed.add(v)
            raise Cut(bare(small[0]), "is made by products that a loop finds no registers for")
        return made

    def late(self, v: Value) -> bool:
        """Whether v, cumulated sums of little that is in memory, is summed by what reads it from now on."""
        if v not in self.summed or v in self.program.outputs:
            return False
        self.summed.remove(v)  # once: it may have to be in memory after all
        assert isinstance(v.op, p.Cumulate)
        n = v.size(v.op.axis)
        if n > WHOLE or n * prod(v.shape) > MUCH * max(prod(x.shape) for x in self.program.outputs):
            return False
        del self.buffers[v]
        self.made = {x: s for x, s in self.made.items() if v not in reads(s)}
        return True

    def pairs(self, scan: Value, name: str) -> Launch:
        """A scan of pairs: the parts of its states that are read."""
        picked = self.picked(scan)
        title = f"{', '.join(b.name for b in picked.values())}: {_about(scan)}."
        stored = (b.value for b in picked.values())
        return self.launch(lambda s: loops.pairs(name, scan, picked, self.buffers, s, title), *stored)

    def plain(self, name: str, stored: Sequence[Buffer], title: str) -> Write:
        """A kernel that stores some values of one grid, for a setting."""
        args = [a for b in stored for a in b.value.args]
        return self.once((name, title, *stored), args, lambda s: roots.plain(name, stored, self.buffers, s, title))

    def joint(self, name: str, stored: Sequence[Buffer]) -> Write:
        """The same with what each is in its title."""
        return self.plain(name, stored, "\n".join(f"{b.name}: {_about(b.value)}." for b in stored))

    def once(self, what: tuple[Any, ...], args: Sequence[Value], write: Write) -> Write:
        """`write`, but for what was written of the same arrays before: an earlier try, or an earlier plan.

        args   what the kernel computes, down to what is in memory
        """
        known = frozenset(reached(args, self.buffers))

        def once(setting: Setting) -> Kernel:
            key = (*what, setting, known)
            if key not in self.learnt.written:
                try:
                    self.learnt.written[key] = write(setting)
                except (Cut, roots.Mismatch) as no:
                    self.learnt.written[key] = no
            if isinstance(made := self.learnt.written[key], Kernel):
                return made
            raise made.with_traceback(None)

        return once

    def limit(self, stored: Sequence[Value]) -> int:
        """The registers of a thread for the kernel that stores some values."""
        return min((self.learnt.limits.get(v, self.setting.limit) for v in stored), default=self.setting.limit)

    def entries(self, v: Value) -> int:
        """Those of a tile that a chain of products on the way to v may span."""
        return self.setting.tile * 3 // 8 * self.limit([v]) // LIMITS[0]

    def ask(self, values: Sequence[Value]) -> None:
        """These lie in memory in the order of their axes."""
        for x in values:
            if self.buffer(x, hint(x)).layout is not None:
                self.buffers[x] = replace(self.buffers[x], layout=None)
                self.made = {v: s for v, s in self.made.items() if not isinstance(s, Launch)}

    def between_kernels(self, v: Value) -> None:
        """v lies in memory with what kernels have as tiles next to each other."""
        if v in self.buffers:
            return
        made = self.buffer(v, hint(v))
        tiles = () if isinstance(v.op, APART) else demands([v], self.rest(v)).tiles  # a library may compute these
        layout = tuple(sorted(v.axes, key=lambda a: a in tiles))
        if layout != v.axes:
            self.buffers[v] = replace(made, layout=layout)

    def loop(self, scan: Value, name: str) -> Step:
        """A loop as one kernel, or from outside where its body does not fit into one."""
        assert isinstance(scan.op, p.Scan)
        blocks = any(affine_of(x) is not None for x in scan.op.body.order)
        for x in scan.args:  # what a step does not wait for is computed for all at once
            if (y := stripped(x)) not in self.buffers and (loop_of(y, self.buffers) or self.dear(x, scan)):
                self.between_kernels(y)
            if x not in self.buffers and ((count := self.products(x)) > 1 or condenses(x, self.buffers)):
                pick = drive if blocks else factor if count == 2 else None
                self.between_kernels(x if pick is None else pick(x, self.buffers))
        picked = self.picked(scan)
        for b in self.ends(scan):
            if loop_of(b.value, self.buffers) is None:  # by now it waits for what waits for the loop
                self.buffers[b.value] = replace(b, of=None)
        ends = self.ends(scan)
        stored = [*picked.values(), *ends]
        title = f"{', '.join(b.name for b in stored)}: a loop over {word(scan.op.axis)} that carries a state."
        try:
            write = self.once(
                (name, title, *((i, b, b.of) for i, b in picked.items()), *ends),
                [*scan.args, *(a for b in ends for a in b.value.args)],
                lambda s: loops.scan(name, scan, picked, self.buffers, s, title, ends),
            )
            return self.launch(write, *(b.value for b in stored))
        except Cut as cut:
            if ends or (cut.value in self.program.order and cut.value not in self.buffers):
                raise
        self.ask(scan.args)
        for b in picked.values():
            if b.of is not None:  # a loop from outside stores its results as they are
                self.buffer(b.of, hint(b.of))
                self.buffers[b.value] = replace(b, of=None)
        picked = self.picked(scan)
        body = plan(scan.op.body, self.setting, f"{name}_", self.learnt)
        return Repeat(scan, body, tuple(picked.values()))

    def picked(self, scan: Value) -> dict[int, Buffer]:
        """The buffers of a loop's results, by their number."""
        picks = ((b.of or v, b) for v, b in self.buffers.items())
        return {v.op.index: b for v, b in picks if isinstance(v.op, p.Pick) and v.args[0] is scan}

    def producer(self, v: Value) -> Value:
        """What v's step computes: v, or the loop that it is a result of."""
        b = self.buffers.get(v)
        v = v if b is None or b.of is None else b.of
        return v.args[0] if isinstance(v.op, p.Pick) else v

    # ------------------------------------------------------------------ all steps

    def needed(self) -> list[Step]:
        """The steps that results wait for, each after those that it reads."""
        done: dict[Value, Step] = {}

        def visit(v: Value) -> None:
            key = self.producer(v)
            if key in done or key not in self.made:
                return
            for x in reads(self.made[key]):
                visit(x)
            done[key] = self.made[key]

        for v in self.program.outputs:
            visit(v)
        return list(done.values())


CROWDED, HALVED = 1.25, 2.5
"""what tiles may take of the registers that they may take, before something is put in memory instead; and before that
is half of a result
"""
LONG, AGAIN, TURNS = ("sin", "cos"), 1 << 10, 16
"""functions that loops read the values of, where so many rows, or turns, would compute them again"""
MUCH = 2
"""times the entries of the largest result that sums may read where they are read, instead of being in memory"""
OFTEN = 8
"""programs of narrow tiles that compute the same products, from which on these are in memory instead"""
DEEP = 4
"""products on the way to a value that programs do not compute again, however few their registers"""


def _about(v: Value) -> str:
    """What a kernel of v computes, in words: the step of the derivation, or at least the operation."""
    made = stripped(v)
    return meaning(made)[1] or f"a {type(made.op).__name__}"
