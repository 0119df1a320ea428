"""What is computed of a loop's last states, at their places: by the program that ran the loop, from its registers."""

from __future__ import annotations

from collections.abc import Mapping

from backends.triton import tile as t
from backends.triton.evaluate import Buffer, Where
from lowering import program as p
from lowering.program import Value

PLAIN = (p.Constant, p.Iota, p.Map, p.Expand, p.Order, p.Cast, p.Detach, p.Reduce, p.Contract)


def loop_of(v: Value, known: Mapping[Value, Buffer]) -> Value | None:
    """The one loop whose last states v is computed from, of nothing else that waits for it, along its states' axes."""
    loops: set[Value] = set()
    read: list[Value] = []
    for x in at_the_end(v, known):
        if isinstance(x.op, p.Pick):
            loops.add(x.args[0])
            if not isinstance(of := x.args[0].op, p.Scan) or x.op.index >= of.carries or len(loops) > 1:
                return None
        elif x in known and x is not v:
            read.append(x)
        elif not isinstance(x.op, PLAIN) and x not in _moves(v)[:-1]:
            return None
    if isinstance(v.op, p.Pick) or not loops:
        return None
    (loop,) = loops
    assert isinstance(loop.op, p.Scan)
    axes = {a for x in loop.op.body.inputs[: loop.op.carries] for a in x.axes}
    over = {a for x in at_the_end(v, known) if isinstance(x.op, p.Reduce | p.Contract) for a in x.op.over}
    return loop if axes.issuperset(_moves(v)[-1].axes) and axes >= over and not _reaches(read, loop) else None


def moved(v: Value, where: Where) -> Where:
    """Where v's entries are, if those of what it is but for the names and the order of its axes are at `where`."""
    here = dict(where)
    for x in reversed(_moves(v)[:-1]):
        if isinstance(x.op, p.Rename):
            here[x.op.new] = here.pop(x.op.old)
        elif isinstance(x.op, p.Split):
            n = x.size(x.op.inner)
            here[x.op.outer], here[x.op.inner] = t.quotient(here.pop(x.op.axis), n, x.size(x.op.outer))
        elif isinstance(x.op, p.Merge):
            here[x.op.axis] = t.joined(here.pop(x.op.outer), here.pop(x.op.inner), x.args[0].size(x.op.inner))
    return here


def _moves(v: Value) -> list[Value]:
    """v, and what it is before its axes are named, ordered and merged, or cut at the end."""
    made = [v]
    while isinstance(v.op, p.Rename | p.Order | p.Merge | p.Split) or (
        isinstance(v.op, p.Slice) and v.op.start == 0 and v.op.step == 1
    ):
        v = v.args[0]
        made.append(v)
    return made


def at_the_end(v: Value, known: Mapping[Value, Buffer]) -> list[Value]:
    """What is computed on the way to v, up to what is in memory and the results of loops; these included."""
    seen: dict[Value, None] = {}
    todo = [v]
    while todo:
        x = todo.pop()
        if x not in seen:
            seen[x] = None
            here = x is v or x not in known or isinstance(getattr(known[x].of, "op", None), p.Scan)
            todo += x.args if here and not isinstance(x.op, p.Pick) else ()
    return list(seen)


def _reaches(values: list[Value], goal: Value) -> bool:
    """Whether one of the values is computed from `goal`."""
    seen: set[Value] = set()
    todo = list(values)
    while todo:
        x = todo.pop()
        if x is goal:
            return True
        if x not in seen:
            seen.add(x)
            todo += x.args
    return False
