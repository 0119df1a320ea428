"""From a program to the steps that run it: kernels, loops around kernels, and calls of a library.

Every result is asked for by a kernel of its own, and evaluated back to what is in memory. Where that fails (`Cut`), a
value on the way is put in memory by a kernel of its own, and it is tried again. At the end kernels of one grid that do
not wait for each other become one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from backends.triton import loops, roots
from backends.triton.evaluate import Buffer, Cut
from backends.triton.kernel import Kernel, Setting
from backends.triton.roots import demands
from backends.triton.sums import WHOLE
from lowering import program as p
from lowering.program import Program, Value
from mixer_ir.errors import BackendError


@dataclass(frozen=True)
class Launch:
    """One kernel."""

    kernel: Kernel


@dataclass(frozen=True)
class Call:
    """A library's operation: a Fourier transform, or a triangular system larger than a tile."""

    buffer: Buffer


@dataclass(frozen=True)
class Repeat:
    """A loop whose body takes kernels of its own, or does not fit into one: run from outside, step by step."""

    scan: Value
    body: Plan
    results: tuple[Buffer, ...]


Step: TypeAlias = Launch | Call | Repeat


@dataclass(frozen=True)
class Plan:
    """The steps in order; `inputs` and `outputs` are the buffers of the program's own (an output may be an input)."""

    program: Program
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    steps: tuple[Step, ...]

    def kernels(self) -> list[Kernel]:
        """All kernels, those of loops' bodies included."""
        found: list[Kernel] = []
        for s in self.steps:
            found += [s.kernel] if isinstance(s, Launch) else s.body.kernels() if isinstance(s, Repeat) else []
        return found


def plan(program: Program, setting: Setting, prefix: str = "") -> Plan:
    """The steps of a program of real numbers (backends/triton/real.py)."""
    return _Partition(program, setting, prefix).plan()


def reads(step: Step) -> tuple[Value, ...]:
    match step:
        case Launch(kernel=kernel):
            return tuple(b.value for b in kernel.reads)
        case Call(buffer=buffer):
            return buffer.value.args
        case Repeat(scan=scan):
            return scan.args


def writes(step: Step) -> tuple[Buffer, ...]:
    match step:
        case Launch(kernel=kernel):
            return kernel.writes
        case Call(buffer=buffer):
            return (buffer,)
        case Repeat(results=results):
            return results


@dataclass
class _Partition:
    program: Program
    setting: Setting
    prefix: str
    buffers: dict[Value, Buffer] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    made: dict[Value, Step] = field(default_factory=dict)

    def plan(self) -> Plan:
        for v in self.program.inputs:
            assert isinstance(v.op, p.Input)
            self.buffer(v, v.op.name)
        for name, v in zip(self.program.names, self.program.outputs, strict=True):
            self.buffer(v, name)
        inputs = set(self.program.inputs)
        while True:
            count = len(self.buffers)
            self.complete(inputs)
            if len(self.buffers) == count:
                break
            self.made = {v: s for v, s in self.made.items() if isinstance(s, Repeat)}
        steps = self.fused(self.needed())
        return Plan(
            self.program,
            tuple(self.buffers[v] for v in self.program.inputs),
            tuple(self.buffers[v] for v in self.program.outputs),
            tuple(steps),
        )

    def complete(self, inputs: set[Value]) -> None:
        """A step for every buffer, and for those that turn out to be needed on the way."""
        tries = 0
        while missing := [v for v in self.buffers if v not in inputs and _producer(v) not in self.made]:
            for v in missing:
                if _producer(v) not in self.made:
                    try:
                        self.made[_producer(v)] = self.step(v)
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
            self.made.pop(_producer(v), None)
        return self.buffers[v]

    def cut(self, root: Value, cut: Cut) -> None:
        """The value that is in the way gets into memory."""
        v = cut.value
        if v in self.buffers:
            raise BackendError(f"the triton backend cannot compute {v.op} as {cut}") from cut
        self.buffer(v, _hint(v))

    # ------------------------------------------------------------------ one step

    def step(self, v: Value) -> Step:
        op = v.op
        buffer = self.buffers[v]
        name = f"{self.prefix}{buffer.name}_kernel"
        title = f"{buffer.name} ({' '.join(v.axes)}), by {type(op).__name__}."
        rest = {u: b for u, b in self.buffers.items() if u is not v}
        if isinstance(op, p.Transform) or (isinstance(op, p.Solve) and v.size(op.row) > WHOLE):
            self.ask(v.args)
            return Call(buffer)
        if isinstance(op, p.Pick):
            return self.loop(v.args[0], name)
        if isinstance(op, p.AffineScan):
            return Launch(loops.affine(name, buffer, {**rest, v: buffer}, self.setting, title))
        if isinstance(op, p.Cumulate) and (v.size(op.axis) > WHOLE or demands(v.args, self.buffers).tiles):
            return Launch(loops.cumulate(name, buffer, {**rest, v: buffer}, self.setting, title))
        try:
            return Launch(roots.plain(name, [buffer], {**rest, v: buffer}, self.setting, title))
        except Cut as cut:
            if cut.value is v and isinstance(op, p.Solve):
                self.ask(v.args)
                return Call(buffer)
            if cut.value is v and isinstance(op, p.Cumulate):
                return Launch(loops.cumulate(name, buffer, {**rest, v: buffer}, self.setting, title))
            raise

    def ask(self, values: Sequence[Value]) -> None:
        for x in values:
            self.buffer(x, _hint(x))

    def loop(self, scan: Value, name: str) -> Step:
        """A loop as one kernel, or from outside where its body does not fit into one."""
        assert isinstance(scan.op, p.Scan)
        picked = {v.op.index: b for v, b in self.buffers.items() if isinstance(v.op, p.Pick) and v.args[0] is scan}
        title = f"{', '.join(b.name for b in picked.values())}: a loop over {scan.op.axis}."
        try:
            return Launch(loops.scan(name, scan, picked, self.buffers, self.setting, title))
        except Cut as cut:
            if cut.value in self.program.order and cut.value not in self.buffers:
                raise
        self.ask(scan.args)
        body = plan(scan.op.body, self.setting, f"{name}_")
        return Repeat(scan, body, tuple(picked.values()))

    # ------------------------------------------------------------------ all steps

    def needed(self) -> list[Step]:
        """The steps that results wait for, each after those that it reads."""
        done: dict[Value, Step] = {}

        def visit(v: Value) -> None:
            key = _producer(v)
            if key in done or key not in self.made:
                return
            for x in reads(self.made[key]):
                visit(x)
            done[key] = self.made[key]

        for v in self.program.outputs:
            visit(v)
        return list(done.values())

    def fused(self, steps: list[Step]) -> list[Step]:
        """Kernels of one grid and one level made one; a level is one more than those of what is read."""
        level: dict[Value, int] = {}
        groups: dict[tuple[object, ...], list[Step]] = {}
        for s in steps:
            depth = 1 + max((level.get(x, 0) for x in reads(s)), default=0)
            for b in writes(s):
                level[b.value] = depth
            key: tuple[object, ...] = (depth, id(s))
            if isinstance(s, Launch) and len(s.kernel.writes) == 1 and not _loops(s.kernel.writes[0].value):
                key = (depth, tuple(sorted(s.kernel.grid)))
            groups.setdefault(key, []).append(s)
        made: list[Step] = []
        for key in sorted(groups, key=lambda k: k[0] if isinstance(k[0], int) else 0):
            made += self.one(groups[key])
        return made

    def one(self, group: list[Step]) -> list[Step]:
        kernels = [s.kernel for s in group if isinstance(s, Launch)]
        if len(kernels) < 2:
            return group
        stored = [b for k in kernels for b in k.writes]
        title = f"{', '.join(b.name for b in stored)} together."
        name = kernels[0].name
        try:
            return [Launch(roots.plain(name, stored, self.buffers, self.setting, title))]
        except Cut:
            return group


def _producer(v: Value) -> Value:
    return v.args[0] if isinstance(v.op, p.Pick) else v


def _loops(v: Value) -> bool:
    return isinstance(v.op, p.AffineScan | p.Pick) or (isinstance(v.op, p.Cumulate) and v.size(v.op.axis) > WHOLE)


def _hint(v: Value) -> str:
    return {p.Pick: "state", p.AffineScan: "states", p.Contract: "dot", p.Solve: "w"}.get(
        type(v.op), type(v.op).__name__.lower()
    )
