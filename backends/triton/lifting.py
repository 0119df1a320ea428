"""What a step of a loop computes, computed outside the loop for all steps at once."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from lowering import program as p
from lowering.build import Builder
from lowering.program import Value

LIFTED = (
    p.Input, p.Constant, p.Iota, p.Map, p.Expand, p.Order, p.Cast, p.Contract, p.Reduce, p.Cumulate, p.Solve, p.Slice,
    p.Pad, p.Concat, p.Flip, p.Rename, p.Split, p.Merge,
)  # fmt: skip


def reached(values: Sequence[Value], known: Container[Value] = ()) -> set[Value]:
    """What the values are computed from, themselves included, where nothing that is known is computed again."""
    found: set[Value] = set()
    todo = list(values)
    while todo:
        v = todo.pop()
        if v not in found:
            found.add(v)
            todo += () if v in known else v.args
    return found


def liftable(y: Value, known: Container[Value] | None = None) -> bool:
    """Whether y can be computed outside, of such inputs as are known there if they are given."""
    used = reached([y])
    ready = known is None or all(x in known for x in used if isinstance(x.op, p.Input))
    return ready and all(isinstance(x.op, LIFTED) for x in used)


def lifted(b: Builder, v: Value, known: dict[Value, Value], found: Mapping[Value, Value]) -> Value:
    """v for all steps at once: known values may have the loop's axis, and what is found is there already."""
    if v not in known:
        made = _again(b, v, [lifted(b, a, known, found) for a in v.args])
        known[v] = found.get(made, made)
    return known[v]


def _again(b: Builder, v: Value, args: list[Value]) -> Value:
    """v's operation on arguments that may have one more axis."""
    with b.named(v.label):
        return _on(b, v, args)


def _on(b: Builder, v: Value, args: list[Value]) -> Value:
    match v.op:
        case p.Map(fn=fn):
            return b.map(fn, *args)
        case p.Expand():
            return b.expand(args[0], v.sizes)
        case p.Order():
            return args[0]
        case p.Cast(kind=kind):
            return b.cast(args[0], kind)
        case p.Contract(over=over):
            return b.contract(args[0], args[1], over)
        case p.Reduce(fn=fn, over=over):
            return b.reduce(fn, args[0], over)
        case p.Cumulate(fn=fn, axis=axis, reverse=reverse, exclusive=exclusive):
            x = b.expand(args[0], {axis: v.size(axis)})
            return b.cumulate(fn, x, axis, reverse=reverse, exclusive=exclusive)
        case p.Solve(row=row, col=col, upper=upper):
            return b.solve(args[0], args[1], row, col, upper=upper)
        case p.Slice(axis=axis, start=start, stop=stop, step=step):
            return b.slice(args[0], axis, start, stop, step)
        case p.Pad(axis=axis, before=before, after=after, value=value):
            return b.pad(args[0], axis, before, after, value)
        case p.Concat(axis=axis):
            return b.concat(args, axis)
        case p.Flip(axis=axis):
            return b.flip(args[0], axis)
        case p.Rename(old=old, new=new):
            return b.rename(args[0], old, new)
        case p.Split(axis=axis, outer=outer, inner=inner):
            return b.split(args[0], axis, outer, inner, v.size(inner))
        case p.Merge(outer=outer, inner=inner, axis=axis):
            return b.merge(args[0], outer, inner, axis)
        case _:
            return b.again(v, args)
