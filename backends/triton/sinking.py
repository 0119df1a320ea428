"""Reads sunk into the loop whose states they read, where this loop alone fills a device: its states are not stored.

Read-outs after a loop are computed for all steps at once, which is what a small batch needs: a loop has no more
programs than sequences and values. Where these are many, nothing is gained by it, and every state, and whatever else a
step hands on, is written once and read once. In the loop both lie in registers.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from math import prod

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

LANES = 1 << 13
"""entries along what a loop's steps do not sum over, from which it fills a device: 64 values in each of 128 programs"""


def sunk(program: Program) -> Program:
    """The program with reads in their loops, where a loop then stores less."""
    while (found := next((x for x in map(_Sinking, _scans(program)) if x.of(program)), None)) is not None:
        program = found.done(program)
    return program


def _scans(program: Program) -> list[Value]:
    return [v for v in program.order if isinstance(v.op, p.Scan)]


@dataclass
class _Sinking:
    """A loop with what is computed of its results, step by step.

    inside    its results along the axis of the loop, and what is to be computed in it
    after     whatever hangs on the loop     kept, made   of `inside` what is read outside: results of the loop, and new
    """

    scan: Value

    def of(self, program: Program) -> bool:
        """Whether there is anything that is worth it."""
        op = self.scan.op
        assert isinstance(op, p.Scan)
        body = op.body
        summed = {a for x in body.order if isinstance(x.op, p.Contract | p.Reduce) for a in x.op.over}
        carries = body.inputs[: op.carries]
        free = {a for x in carries for a in x.axes} - summed
        if not carries or min(prod(n for a, n in x.sizes.items() if a in free) for x in carries) < LANES:
            return False
        self.inside: dict[Value, None] = {}
        self.after: set[Value] = {self.scan}
        for v in program.order:
            behind = [a for a in v.args if a in self.after]
            if not behind:
                continue
            self.after.add(v)
            if behind == [self.scan]:
                sinks = isinstance(v.op, p.Pick) and v.op.index >= op.carries
            else:
                sinks = all(a in self.inside for a in behind) and _local(v, op.axis, free)
            if sinks:
                self.inside[v] = None
        read = {a for v in self.after if v not in self.inside for a in v.args} | {*program.outputs}
        picks = [v for v in self.inside if isinstance(v.op, p.Pick)]
        self.kept = [v for v in picks if v in read]
        self.made = [v for v in self.inside if v in read and v not in picks]
        spared = sum(prod(v.shape) for v in picks if v not in read)
        return bool(self.made) and spared > sum(prod(v.shape) for v in self.made)

    def done(self, program: Program) -> Program:
        b = Builder()
        new: dict[Value, Value] = {v: v for v in program.inputs}
        for v in program.order:
            if v not in self.after and v not in new:
                new[v] = b.again(v, [new[a] for a in v.args])
        with b.named(self.scan.label):
            new |= self.loop(b, [new[a] for a in self.scan.args], new)
        for v in program.order:
            if v in self.after and v not in new and v not in self.inside and v is not self.scan:
                new[v] = b.again(v, [new[a] for a in v.args])
        return Program(inputs=program.inputs, outputs=tuple(new[v] for v in program.outputs), names=program.names)

    def loop(self, b: Builder, args: Sequence[Value], outside: dict[Value, Value]) -> dict[Value, Value]:
        """The loop's results that are read after it, as the program calls them, from the loop with all of `inside`."""
        op = self.scan.op
        assert isinstance(op, p.Scan)
        body, n, last = op.body, op.carries, op.carries + op.steps
        inner = Builder()
        done = {v: body.outputs[v.op.index] for v in self.inside if isinstance(v.op, p.Pick)}
        added = [a for v in self.inside if v not in done for a in v.args if a not in self.inside]
        given: dict[Value, Value] = {}
        for a in dict.fromkeys(added):
            axes = tuple(x for x in a.axes if x != op.axis)
            given[a] = inner.input(f"read{len(given)}", axes, tuple(a.size(x) for x in axes), a.kind)
        for v in self.inside:
            if v not in done:
                of = [given[a] if a in given else done[a] for a in v.args]
                done[v] = inner.again(v, of, axes=tuple(x for x in v.axes if x != op.axis))
        results = [*self.kept, *self.made]
        each = (inner.order(done[v], tuple(x for x in v.axes if x != op.axis)) for v in results)
        outputs = [*body.outputs[:n], *each]
        moving = [a for a in given if op.axis in a.axes]
        fixed = [a for a in given if op.axis not in a.axes]
        new = Program(
            inputs=_placed(body.inputs, last, [given[a] for a in moving], [given[a] for a in fixed]),
            outputs=tuple(outputs),
            names=tuple(f"out{i}" for i in range(len(outputs))),
        )
        scan = p.Scan(op.axis, op.length, new, n, op.steps + len(moving), op.reverse)
        picks = b.picks(scan, _placed(args, last, [outside[a] for a in moving], [outside[a] for a in fixed]))
        made = {v: b.order(x, v.axes) for v, x in zip(results, picks[n:], strict=True)}
        finals = [v for v in self.after if isinstance(v.op, p.Pick) and v.args[0] is self.scan and v.op.index < n]
        return made | {v: picks[v.op.index] for v in finals if isinstance(v.op, p.Pick)}


def _placed(given: Sequence[Value], last: int, moving: list[Value], fixed: list[Value]) -> tuple[Value, ...]:
    """A loop's arguments with more arrays along its axis, and more constants."""
    return (*given[:last], *moving, *given[last:], *fixed)


def _local(v: Value, axis: str, free: Set[str]) -> bool:
    """Whether v is computed step by step, and apart for each place along the free axes."""
    if axis not in v.axes:
        return False
    match v.op:
        case p.Map() | p.Cast() | p.Order() | p.Expand():
            return True
        case p.Contract(over=over) | p.Reduce(over=over):
            used = {*over}
        case p.Rename(old=old, new=new):
            used = {old, new}
        case p.Split(axis=whole, outer=outer, inner=inner) | p.Merge(axis=whole, outer=outer, inner=inner):
            used = {whole, outer, inner}
        case p.Slice(axis=along) | p.Pad(axis=along) | p.Flip(axis=along):
            used = {along}
        case _:
            return False
    return used.isdisjoint({axis, *free})
