"""Triangular systems in the bodies of loops as products with inverses, which are computed for all steps at once.

A step of a loop is small, and a triangular system is many small operations; where its matrix is given per step, or the
same for all, none of them need wait for the step before.
"""

from __future__ import annotations

from dataclasses import replace

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

SIDE = "_w"
"""the columns of an inverse"""


def inverted(program: Program) -> Program:
    """The same program with such systems as products."""
    b = Builder()
    done: dict[Value, Value] = {}
    for v in program.order:
        if isinstance(v.op, p.Input):
            done[v] = v
        elif isinstance(v.op, p.Scan):
            done[v] = _loop(b, v, v.op, [done[a] for a in v.args])
        elif isinstance(v.op, p.Region):
            done[v] = b.again(v, [done[a] for a in v.args], op=replace(v.op, body=inverted(v.op.body)))
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _loop(b: Builder, v: Value, op: p.Scan, args: list[Value]) -> Value:
    """The loop with the inverses of its matrices as further steps or constants."""
    body, first, last = inverted(op.body), op.carries, op.carries + op.steps
    where = {x: i for i, x in enumerate(body.inputs) if i >= first}
    systems = {x: x.op for x in body.order if isinstance(x.op, p.Solve) and x.args[0] in where}
    if not systems:
        return b.again(v, args, op=replace(op, body=body))
    inner = Builder()
    inverses: dict[tuple[int, p.Solve], tuple[Value, Value]] = {}
    done: dict[Value, Value] = {}
    for x in body.order:
        if isinstance(x.op, p.Input):
            done[x] = x
        elif x in systems:
            i, solve = where[x.args[0]], systems[x]
            if (i, solve) not in inverses:
                outer = inverse(b, args[i], solve)
                axes = tuple(a for a in outer.axes if a != op.axis)
                name = f"inverse{len(inverses)}"
                given = inner.input(name, axes, tuple(outer.size(a) for a in axes), outer.kind)
                inverses[i, solve] = (outer, given)
            side = inner.rename(done[x.args[1]], solve.row, SIDE)
            made = inner.expand(inner.contract(inverses[i, solve][1], side, (SIDE,)), x.sizes)
            done[x] = inner.order(made, x.axes)
        else:
            done[x] = inner.again(x, [done[a] for a in x.args])
    moving = [pair for (i, _), pair in inverses.items() if i < last]
    fixed = [pair for (i, _), pair in inverses.items() if i >= last]
    inputs = (*body.inputs[:last], *(x for _, x in moving), *body.inputs[last:], *(x for _, x in fixed))
    given_to = (*args[:last], *(x for x, _ in moving), *args[last:], *(x for x, _ in fixed))
    outputs = tuple(done[x] for x in body.outputs)
    new = replace(op, body=Program(inputs=inputs, outputs=outputs, names=body.names), steps=op.steps + len(moving))
    return b.again(v, given_to, op=new)


def inverse(b: Builder, lower: Value, op: p.Solve) -> Value:
    """(I − L)⁻¹, its columns along `_w`: the solution for every unit vector."""
    n = lower.size(op.row)
    unit = b.cast(b.map("eq", b.iota(op.row, n), b.iota(SIDE, n)), "real")
    return b.solve(lower, unit, op.row, op.col, upper=op.upper)


def is_inverse(v: Value) -> bool:
    """Whether v is what `inverse` makes."""
    side = v.args[1]
    while isinstance(side.op, p.Order | p.Cast):
        side = side.args[0]
    return isinstance(side.op, p.Map) and side.op.fn == "eq" and SIDE in side.axes
