"""Axes of two places whose entries are treated apart, as rotations do: one array, as it is or flipped.

    where(r = 0, f(x_1), g(x_0))  =  where(r = 0, f(x̃), g(x̃))          x̃: x with both entries in each other's place
    Σ_r where(r = i, x, 0)  =  x_i
    where(r = 0, x, 0) + where(r = 1, y, 0)  =  where(r = 0, x, y)

What takes both entries for every place so takes the one that it needs: one tile is loaded, or moved in registers, where
two were. The other two lines are what the adjoint of the first one's right side, read backwards, comes down to.
"""

from __future__ import annotations

from lowering import program as p
from lowering.build import Builder
from lowering.fused import zeros
from lowering.program import Program, Value


def paired(program: Program) -> Program:
    """The program with choices between the entries of a pair as choices by place alone; itself where there are none."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    changed = False
    for v in program.order:
        if v not in done:
            made = b.again(v, [done[a] for a in v.args])
            with b.named(v.label):
                done[v] = b.order(_simpler(b, made), v.axes)
            changed |= done[v] is not made
    if not changed:
        return program
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _simpler(b: Builder, v: Value) -> Value:
    match v.op:
        case p.Map(fn="where"):
            return _chosen(b, v)
        case p.Map(fn="add"):
            halves = [_half(a) for a in v.args]
            if all(halves):
                (axis, i, x), (other, j, y) = (h for h in halves if h)
                if axis == other and i != j:
                    return _chosen(b, b.where(b.map("eq", b.iota(axis, 2), i), x, y))
        case p.Reduce(fn="sum", over=(axis,)) if (half := _half(v.args[0])) and half[0] == axis in half[2].axes:
            return b.at(half[2], axis, half[1])
    return v


def _chosen(b: Builder, v: Value) -> Value:
    """A choice between entries by their place, as one of what lies there."""
    condition, *branches = v.args
    if (place := _place(condition)) is None:
        return v
    axis, i = place
    if all(axis not in x.axes and _taken(x, axis) for x in branches):
        return b.where(condition, *(_laid(b, x, axis, at) for x, at in zip(branches, (i, 1 - i), strict=True)))
    return v


def _place(condition: Value) -> tuple[str, int] | None:
    """(axis of two places, the place at which a condition holds)."""
    if not isinstance(condition.op, p.Map) or condition.op.fn != "eq" or condition.shape != (2,):
        return None
    found = [a.op.value for a in condition.args if isinstance(a.op, p.Constant)]
    places = [a for a in condition.args if isinstance(a.op, p.Iota)]
    return (condition.axes[0], int(found[0].real)) if places and found and found[0] in (0, 1) else None


def _half(v: Value) -> tuple[str, int, Value] | None:
    """(axis, place, x) if v is x at one of two places, and 0 at the other."""
    while isinstance(v.op, p.Order):
        v = v.args[0]
    if not isinstance(v.op, p.Map) or v.op.fn != "where" or (place := _place(v.args[0])) is None:
        return None
    axis, i = place
    _, yes, no = v.args
    return (axis, i, yes) if zeros(no) else (axis, 1 - i, no) if zeros(yes) else None


def _entry(v: Value, axis: str) -> tuple[Value, int] | None:
    """(x, i) if v is the entry i of two along an axis of x."""
    match v.op:
        case p.Take(axis=along):
            x, index = v.args
            i = index.op.value if isinstance(index.op, p.Constant) else None
        case p.Reduce(fn="sum", over=(along,)) if isinstance(v.args[0].op, p.Slice) and v.args[0].size(along) == 1:
            x, i = v.args[0].args[0], v.args[0].op.start if v.args[0].op.axis == along else None
        case _:
            return None
    return (x, int(i.real)) if along == axis and i in (0, 1) and x.size(axis) == 2 else None


def _taken(v: Value, axis: str) -> bool:
    """Whether v is computed of one entry along an axis."""
    return _entry(v, axis) is not None or (isinstance(v.op, p.Map | p.Cast) and any(_taken(a, axis) for a in v.args))


def _laid(b: Builder, v: Value, axis: str, i: int) -> Value:
    """v along the axis, as it is at place i, with all that it is computed of read where it lies or flipped."""
    if (entry := _entry(v, axis)) is not None:
        x, at = entry
        return x if at == i else _flipped(b, x, axis)
    if not _taken(v, axis):
        return v
    args = [_laid(b, a, axis, i) for a in v.args]
    return b.cast(args[0], v.kind) if isinstance(v.op, p.Cast) else b.map(v.op.fn, *args)  # type: ignore[union-attr]


def _flipped(b: Builder, v: Value, axis: str) -> Value:
    """v with both entries in each other's place, seen where it is read: what lacks the axis stays as it is."""
    along = [a for a in v.args if axis in a.axes]
    if isinstance(v.op, p.Map) and len(along) == 1:
        return b.map(v.op.fn, *(_flipped(b, a, axis) if a in along else a for a in v.args))
    return b.flip(v, axis)
