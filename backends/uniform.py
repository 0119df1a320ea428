"""Programs made plain before they are planned: kinds are converted in the open, and axes lie as the work leaves them.

After this, whoever spells an operation meets arguments of one kind, and a conversion that several operations need is
done once. The order of a value's axes is a matter of memory alone, so each operation's result keeps the order in which
it comes out (a matrix product: batch, rows, columns), entry-by-entry operations follow their largest argument, and
nothing is transposed on the way but where the program says so, where it ends, or where a loop hands on its state.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value
from mixer_ir.nodes.functions import WIDTH, Kind

Axes = tuple[str, ...]


def uniform(program: Program, free: int | None = None) -> Program:
    """The same program with casts written out and axes as they come.

    free   outputs from this one on may have their axes in any order
    """
    b = Builder()
    done: dict[Value, Value] = {}
    fixed: set[Value] = set()  # those that depend on no input
    for v in program.order:
        done[v] = v if isinstance(v.op, p.Input) else _laid(b, v, [done[a] for a in v.args], fixed)
        if not isinstance(v.op, p.Input | p.Scan | p.Region) and all(a in fixed for a in done[v].args):
            fixed.add(done[v])
    count = len(program.outputs) if free is None else free
    outputs = [b.order(done[v], v.axes) if i < count else done[v] for i, v in enumerate(program.outputs)]
    return Program(inputs=program.inputs, outputs=tuple(outputs), names=program.names)


def _laid(b: Builder, v: Value, args: list[Value], fixed: set[Value]) -> Value:
    """v's operation on arguments whose axes may lie otherwise than those of v.args."""
    args = [b.cast(a, kind) for a, kind in zip(args, argument_kinds(v), strict=True)]
    fixed.update(a for a in args if a.args and all(x in fixed for x in a.args))
    op = v.op
    if isinstance(op, p.Scan | p.Region):
        return _part(b, v, op, args)
    if isinstance(op, p.Order):
        return b.order(args[0], v.axes, packed=True) if op.packed else args[0]
    if isinstance(op, p.Pick):
        return _picked(b, v, op, args[0])
    if isinstance(op, p.Map):
        axes = _followed(v, args, fixed)
        return b.again(v, [b.order(a, _among(axes, a)) for a in args], axes=axes)
    if isinstance(op, p.Merge):
        return b.merge(args[0], op.outer, op.inner, op.axis)
    if isinstance(op, p.Concat):
        axes = max(args, key=lambda a: prod(a.shape)).axes
        return b.again(v, [b.order(a, axes) for a in args], axes=axes)
    return b.again(v, args, axes=_left(v, args))


def _left(v: Value, args: list[Value]) -> Axes:
    """The order of axes in which an operation leaves its result."""
    op = v.op
    if isinstance(op, p.Rename):
        return tuple(op.new if a == op.old else a for a in args[0].axes)
    if isinstance(op, p.Split):
        return tuple(x for a in args[0].axes for x in ((op.outer, op.inner) if a == op.axis else (a,)))
    if isinstance(op, p.Contract):
        x, y = args
        batch = tuple(a for a in x.axes if a in y.axes and a not in op.over)
        return (*batch, *(a for a in x.axes if a not in y.axes), *(a for a in y.axes if a not in x.axes))
    if isinstance(op, p.Solve):
        columns = tuple(a for a in args[1].axes if a != op.row and a not in args[0].axes)
        others = dict.fromkeys(a for x in (args[1], args[0]) for a in x.axes)
        return (*(a for a in others if a in v.axes and a != op.row and a not in columns), op.row, *columns)
    if isinstance(op, p.Iota | p.Constant | p.Take | p.Put) or not args:
        return v.axes
    return tuple(dict.fromkeys(a for x in reversed(args) for a in x.axes if a in v.axes)) + tuple(
        a for a in v.axes if not any(a in x.axes for x in args)
    )


def _followed(v: Value, args: list[Value], fixed: set[Value]) -> Axes:
    """The order of the first argument that has all axes, products before others; else data lead and masks follow."""
    full = [a for a in args if len(a.axes) == len(v.axes)]
    for a in full:
        if isinstance(a.op, p.Contract | p.Solve | p.Pick):
            return a.axes
    data = [a for a in (full or args) if a not in fixed] or args
    return tuple(dict.fromkeys(axis for a in (*data, *args) for axis in a.axes))


def _among(axes: Axes, x: Value) -> Axes:
    return tuple(a for a in axes if a in x.axes)


def _part(b: Builder, v: Value, op: p.Scan | p.Region, args: list[Value]) -> Value:
    """A loop or a region: the arguments as its body declares them, its results as they come but for the carries."""
    inputs = op.body.inputs
    if isinstance(op, p.Region):
        args = [b.order(a, x.axes) for a, x in zip(args, inputs, strict=True)]
        return b.again(v, args, op=replace(op, body=uniform(op.body, 0)))
    steps = range(op.carries, op.carries + op.steps)
    declared = [(op.axis, *x.axes) if i in steps else x.axes for i, x in enumerate(inputs)]
    args = [b.order(a, axes) for a, axes in zip(args, declared, strict=True)]
    return b.again(v, args, op=replace(op, body=uniform(op.body, op.carries)))


def _picked(b: Builder, v: Value, op: p.Pick, whole: Value) -> Value:
    part = whole.op
    assert isinstance(part, p.Scan | p.Region)
    axes = part.body.outputs[op.index].axes
    stacked = isinstance(part, p.Scan) and op.index >= part.carries
    return b.again(v, [whole], axes=(part.axis, *axes) if isinstance(part, p.Scan) and stacked else axes)


def argument_kinds(v: Value) -> list[Kind]:
    """As what kinds of numbers an operation takes its arguments."""
    kinds = [a.kind for a in v.args]
    if isinstance(v.op, p.Map):
        return _map_kinds(v.op.fn, kinds, v.kind)
    if isinstance(v.op, p.Contract | p.Reduce | p.Cumulate | p.AffineScan | p.Solve):
        return [v.kind] * len(kinds)
    return kinds


def _map_kinds(fn: str, kinds: list[Kind], result: Kind) -> list[Kind]:
    """The widest of the arguments and the result; conditions are truth values, parts of complex numbers real."""
    if fn in ("and", "or", "not"):
        return ["bool"] * len(kinds)
    if fn == "where":
        return ["bool", result, result]
    if fn == "complex":
        return ["real", "real"]
    widest = max(kinds, key=WIDTH.__getitem__)
    if result != "bool" and fn not in ("real", "imag", "abs"):
        widest = max(widest, result, key=WIDTH.__getitem__)
    return [widest] * len(kinds)
