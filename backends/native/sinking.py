"""Sums over what a loop results in, taken in the loop: what only they would read is not stored for all steps.

A sum along the axis of the loop becomes one more carry; a sum along other axes, one more result that is smaller. What
works entry by entry between a result and a sum goes with them. Zeros that were put around a result are not summed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backends.native.fusing import entries, is_product
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value
from lowering.prune import prune

SMALLER = 4
"""how much smaller than a result its sums have to be"""


@dataclass(frozen=True)
class Sunk:
    """What goes into one loop, in order, and which of it comes out as sums."""

    members: tuple[Value, ...]
    ends: tuple[Value, ...]


def sunk(program: Program) -> Program:
    """The same results, with sums over what loops result in taken in the loops."""
    before = program = _trimmed(program)
    settled: set[Value] = set()
    while (
        whole := next((v for v in program.order if isinstance(v.op, p.Scan) and v not in settled), None)
    ) is not None:
        assert isinstance(whole.op, p.Scan)
        op = replace(whole.op, body=sunk(whole.op.body))
        found = _found(program, whole, op)
        settled.add(whole)
        if found.ends or op.body is not whole.op.body:
            replaced = _rebuilt(program, whole, op, found)
            settled.add(replaced[whole])
            program = _with(program, replaced)
    return program if program is before else prune(program)


def _with(program: Program, replaced: Mapping[Value, Value]) -> Program:
    """The program with other values in place of some."""
    b, done = Builder(), dict(replaced)
    for v in program.order:
        if v not in done:
            done[v] = b.again(v, [done[a] for a in v.args]) if any(done[a] is not a for a in v.args) else v
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _trimmed(program: Program) -> Program:
    """Zeros around a value put around what it is renamed to, or around the sums of its products, if at all."""
    b = Builder()
    done: dict[Value, Value] = {}
    for v in program.order:
        args = [done[a] for a in v.args]
        done[v] = v if args == list(v.args) else b.again(v, args)
        for x in args:
            if isinstance(x.op, p.Pad) and x.op.value == 0 and isinstance(v.op, p.Rename | p.Contract):
                done[v] = _around(b, v, args, x, x.op)
                break
    changed = any(done[v] is not v for v in program.outputs)
    outputs = tuple(done[v] for v in program.outputs)
    return Program(inputs=program.inputs, outputs=outputs, names=program.names) if changed else program


def _around(b: Builder, v: Value, args: list[Value], x: Value, pad: p.Pad) -> Value:
    """v of a value x that is put between zeros."""
    axis, core = pad.axis, x.args[0]
    if isinstance(v.op, p.Rename):
        after = v.op.new if axis == v.op.old else axis
        return b.pad(b.rename(core, v.op.old, v.op.new), after, pad.before, pad.after)
    assert isinstance(v.op, p.Contract)
    y = args[1] if args[0] is x else args[0]
    if axis in y.axes:
        y = b.slice(y, axis, pad.before, pad.before + core.size(axis))
    made = b.order(b.contract(core, y, v.op.over), v.axes)
    return made if axis in v.op.over else b.pad(made, axis, pad.before, pad.after)


def _found(program: Program, whole: Value, op: p.Scan) -> Sunk:
    """What can go into a loop so that one of its results need not be stored."""
    readers: defaultdict[Value, list[Value]] = defaultdict(list)
    after = {whole}
    for v in program.order:
        for a in v.args:
            readers[a].append(v)
        if any(a in after for a in v.args):
            after.add(v)
    stacks = {v for v in readers[whole] if isinstance(v.op, p.Pick) and v.op.index >= op.carries}
    members: dict[Value, None] = {}
    ends: dict[Value, None] = {}
    for stack in stacks:
        inside: dict[Value, None] = {}
        sums: dict[Value, None] = {}
        if _goes_in(stack, program, op.axis, readers, inside, sums) and sums:
            known = {*members, *inside, *stacks}
            reads = [a for v in inside for a in v.args if a in after]
            if all(a in known for a in reads) and SMALLER * sum(map(entries, sums)) <= entries(stack):
                members |= inside
                ends |= sums
    return Sunk(tuple(v for v in program.order if v in members), tuple(ends))


def _goes_in(
    x: Value,
    program: Program,
    axis: str,
    readers: Mapping[Value, Sequence[Value]],
    inside: dict[Value, None],
    sums: dict[Value, None],
) -> bool:
    """Whether all that reads x can go into the loop; that is added to `inside`, and to `sums` where it ends."""
    if x in program.outputs:
        return False
    for v in readers[x]:
        if v in inside:
            continue
        inside[v] = None
        if isinstance(v.op, p.Contract) or (isinstance(v.op, p.Reduce) and v.op.fn == "sum"):
            if is_product(v):
                return False
            sums[v] = None
        elif not (_between(v, axis) and _goes_in(v, program, axis, readers, inside, sums)):
            return False
    return True


def _between(v: Value, axis: str) -> bool:
    """Whether v works entry by entry along an axis."""
    if isinstance(v.op, p.Rename):
        return axis not in (v.op.old, v.op.new)
    return isinstance(v.op, p.Map | p.Cast | p.Expand | p.Order | p.Detach)


def _rebuilt(program: Program, whole: Value, op: p.Scan, found: Sunk) -> dict[Value, Value]:
    """The loop with more carries and results, and what takes the place of its results and of the sums."""
    b, axis = Builder(), op.axis
    carried = [v for v in found.ends if axis not in v.axes]
    stacked = [v for v in found.ends if axis in v.axes]
    steps: dict[Value, Value] = {}
    fixed: dict[Value, Value] = {}
    inner: dict[Value, Value] = {}
    names = _names(whole, found)

    def entering(a: Value) -> Value:
        if a in inner:
            return inner[a]
        if isinstance(a.op, p.Pick) and a.args[0] is whole:
            return op.body.outputs[a.op.index]
        a = _named(b, a, names)
        known = steps if axis in a.axes else fixed
        axes = tuple(n for n in a.axes if n != axis)
        sizes = tuple(a.size(n) for n in axes)
        return known.setdefault(
            a, b.input(f"{'step' if axis in a.axes else 'const'}'{len(known)}", axes, sizes, a.kind)
        )

    for v in found.members:
        inner[v] = _one_step(b, v, axis, [entering(a) for a in v.args], names)
    sums = [b.input(f"carry'{i}", inner[v].axes, inner[v].shape, v.kind) for i, v in enumerate(carried)]
    totals = [b.order(b.add(c, inner[v]), c.axes) for c, v in zip(sums, carried, strict=True)]
    c, s = op.carries, op.carries + op.steps
    inputs, outputs = op.body.inputs, op.body.outputs
    body = Program(
        inputs=(*inputs[:c], *sums, *inputs[c:s], *steps.values(), *inputs[s:], *fixed.values()),
        outputs=(*outputs[:c], *totals, *outputs[c:], *(inner[v] for v in stacked)),
        names=tuple(f"y{i}" for i in range(len(outputs) + len(found.ends))),
    )
    new = replace(op, body=body, carries=c + len(carried), steps=op.steps + len(steps))
    zeros = [b.full({"int": 0, "real": 0.0, "complex": 0j}[v.kind], v.sizes) for v in sums]
    picks = b.picks(new, (*whole.args[:c], *zeros, *whole.args[c:s], *steps, *whole.args[s:], *fixed))
    n = len(carried)
    back = {new: old for old, new in names.items()}
    replaced = {whole: picks[0].args[0]}
    for v, y in zip((*carried, *stacked), (*picks[c : c + n], *picks[len(outputs) + n :]), strict=True):
        replaced[v] = b.order(_named(b, y, back), v.axes)
    for v in program.order:
        if isinstance(v.op, p.Pick) and v.args[0] is whole:
            replaced[v] = picks[v.op.index + (n if v.op.index >= c else 0)]
    return replaced


def _names(whole: Value, found: Sunk) -> dict[str, str]:
    """Axis -> its name in the loop, where what goes in renames it: with one name for an axis, all is one nest."""
    renamed = [v for v in found.members if isinstance(v.op, p.Rename)]
    names = {v.op.new: v.op.old for v in renamed if isinstance(v.op, p.Rename)}
    rest = [v for v in found.members if v not in renamed]
    touched = {a for v in rest for x in (v, *v.args) for a in x.axes}
    direct = all(isinstance(v.args[0].op, p.Pick) and v.args[0].args[0] is whole for v in renamed)
    return names if direct and not touched & set(names.values()) and len(set(names.values())) == len(names) else {}


def _named(b: Builder, v: Value, names: Mapping[str, str]) -> Value:
    for old, new in names.items():
        if old in v.axes:
            v = b.rename(v, old, new)
    return v


def _one_step(b: Builder, v: Value, axis: str, args: list[Value], names: Mapping[str, str]) -> Value:
    """v's operation at one place of an axis, with other names of axes; without a sum over that axis."""
    op = v.op
    if isinstance(op, p.Rename) and names.get(op.new) == op.old:
        return args[0]
    if not isinstance(op, p.Contract | p.Reduce):
        sizes = {names.get(a, a): n for a, n in v.sizes.items()}
        return b.again(v, args, sizes, axes=tuple(names.get(a, a) for a in v.axes if a != axis))
    over = tuple(names.get(a, a) for a in op.over if a != axis)
    if all(args[0].size(a) == 1 for a in over):
        return b.mul(*(b.sum(a, over) for a in args))
    return b.contract(args[0], args[1], over) if isinstance(op, p.Contract) else b.sum(args[0], over)
