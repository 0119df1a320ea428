"""Loops made small: results of a step that the next one does not wait for are computed after the loop, for all at once.

What remains is the change of the carries. The others read the carries that entered each step, which the loop stores;
that is done where this takes no more room than about what the results themselves take. What is a result twice is one,
and what a loop stores is not computed again after another one, as the adjoint of a loop would.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from backends.triton.lifting import liftable, lifted, reached
from backends.triton.rows import Rows
from backends.triton.sums import WHOLE
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

ROOM = 2
"""how many times the results' entries may be stored of carries"""


def fissioned(program: Program) -> Program:
    """The program with loops that do no more than they must."""
    b = Builder()
    done: dict[Value, Value] = {}
    results: dict[Value, list[Value]] = {}
    stored: dict[Value, Value] = {}
    for v in program.order:
        op = v.op
        if isinstance(op, p.Input):
            done[v] = v
        elif isinstance(op, p.Scan):
            with b.named(v.label):
                found = _loop(b, op, [done[a] for a in v.args], stored)
            first = {y: i for i, y in reversed([*enumerate(op.body.outputs)]) if i >= op.carries}
            results[v] = [found[first[y] if i >= op.carries else i] for i, y in enumerate(op.body.outputs)]
        elif isinstance(op, p.Pick) and v.args[0] in results:
            done[v] = results[v.args[0]][op.index]
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _loop(b: Builder, op: p.Scan, args: Sequence[Value], found: dict[Value, Value]) -> list[Value]:
    """The results of a loop, some of them computed after it.

    found   what loops store, by how it would be computed for all steps at once
    """
    body, n = op.body, op.carries
    carries = body.inputs[:n]
    needed = reached(body.outputs[:n])
    free = [i for i, y in enumerate(body.outputs) if i >= n and y not in needed and liftable(y)]
    late = [i for i in free if any(isinstance(x.op, p.Contract) for x in reached([body.outputs[i]]) - needed)]
    sums = [i for i in free if i not in late and _long(reached([body.outputs[i]]) - needed)]
    wide = [i for i in free if i not in (*late, *sums) and _across(reached([body.outputs[i]]), needed, carries)]
    rows = Rows.of(body, carries, [body.outputs[i] for i in sorted((*late, *sums))]) if sums else None
    if rows is not None and all(rows.axis not in body.outputs[i].axes for i in sums):
        late = sorted((*late, *sums))  # of what is too large for memory, sums need the loop over rows as products do
    room = ROOM * sum(_entries(body.outputs[i]) for i in late)
    late = sorted((*late, *wide))
    read = reached([body.outputs[i] for i in late])
    stored = [x for x in read if x in needed and _stored(x, read - needed)]
    carried = [x for x in stored if not reached([x]).isdisjoint(carries)]
    offers = (
        _extra(body, n, late, set(kept)) for kept in (stored, carried)
    )  # what hangs on no carry can be made again
    extra = next((x for x in offers if sum(map(_entries, x)) <= room), None)
    if not late or extra is None:
        picks = b.picks(op, tuple(args))
        _remember(b, op, picks, args, found)
        return picks
    kept = [i for i in range(len(body.outputs)) if i not in late]
    outputs = [*(body.outputs[i] for i in kept), *extra]
    smaller = Program(inputs=body.inputs, outputs=tuple(outputs), names=tuple(f"out{i}" for i in range(len(outputs))))
    scan = p.Scan(op.axis, op.length, smaller, n, op.steps, op.reverse)
    picks = b.picks(scan, tuple(args))
    _remember(b, scan, picks, args, found)
    known = dict(zip(outputs[n:], picks[n:], strict=True)) | dict(zip(body.inputs[n:], args[n:], strict=True))
    made = dict(zip(kept, picks, strict=False))
    if (rows := Rows.of(body, carries, [body.outputs[i] for i in late])) is not None:
        names = {a for x in body.order for a in x.axes} | {op.axis}
        along = next(a for a in (f"_{rows.axis}" + "_" * n for n in range(len(names) + 1)) if a not in names)
        known |= rows.loop(b, op, dict(zip(body.inputs, args, strict=True)), along)
    for i in late:
        y = body.outputs[i]
        x = b.expand(lifted(b, y, known, found), {**y.sizes, op.axis: op.length})
        made[i] = b.order(b.cast(x, y.kind), (op.axis, *y.axes))
    return [made[i] for i in range(len(body.outputs))]


def _extra(body: Program, carries: int, late: Sequence[int], stored: set[Value]) -> list[Value]:
    """What the loop is to store for the results that are computed after it."""
    found = reached([body.outputs[i] for i in late], stored)
    order = [
        x for x in (*body.inputs[:carries], *body.order) if x in found and (x in stored or x in body.inputs[:carries])
    ]
    return [x for x in dict.fromkeys(order) if x not in body.outputs[carries:]]


def _stored(x: Value, readers: set[Value]) -> bool:
    """Whether a value of the loop that a later result reads is worth storing: one that took a product."""
    return any(x in r.args for r in readers) and any(isinstance(u.op, p.Contract) for u in reached([x]))


def _across(values: set[Value], needed: set[Value], carries: Sequence[Value]) -> bool:
    """Whether what hangs on no carry sums along an axis of one: no program of the loop would have all of it."""
    axes = {a for x in carries for a in x.axes}
    reduced = [x for x in values - needed if isinstance(x.op, p.Reduce) and x.op.fn == "sum"]
    return values.isdisjoint(carries) and any(not axes.isdisjoint(x.op.over) for x in reduced)  # type: ignore[union-attr]


def _long(values: set[Value]) -> bool:
    """Whether something sums over a long axis entry by entry."""
    reduced = [x for x in values if isinstance(x.op, p.Reduce) and x.op.fn == "sum"]
    return any(x.args[0].size(a) > WHOLE for x in reduced for a in x.op.over)  # type: ignore[union-attr]


def _entries(v: Value) -> int:
    return prod(v.shape)


def _remember(b: Builder, op: p.Scan, picks: Sequence[Value], args: Sequence[Value], found: dict[Value, Value]) -> None:
    """What the loop stores, by how it would be computed of the carries that entered each step, if they are stored."""
    body, n = op.body, op.carries
    known = dict(zip(body.inputs[n:], args[n:], strict=True))
    for y, pick in reversed([*zip(body.outputs[n:], picks[n:], strict=True)]):
        if y in body.inputs[:n]:
            known[y] = pick
    for y, pick in zip(body.outputs[n:], picks[n:], strict=True):
        inputs = {x for x in reached([y]) if isinstance(x.op, p.Input)}
        if y not in known and inputs <= known.keys() and liftable(y):
            found.setdefault(lifted(b, y, dict(known), found), pick)
