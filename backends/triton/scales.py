"""Numbers that one side of a loop's products is multiplied with, behind the products: the side is read as it lies.

The scale of a score stands on its queries, (q / √d) · k. Where a loop takes queries in blocks, each block would be
multiplied, rounded and stored in shared memory again before a tensor core reads it, and the scaled queries are rounded
once more than signals are. Behind the product the number is one of an exponent, or of a sum that the loop ends with.
This is done where the loop then multiplies fewer entries.
"""

from __future__ import annotations

from math import prod

from backends.triton.powers import Powers, multiple
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value


def unscaled(program: Program) -> Program:
    """The program with loops that read what is multiplied with numbers for products alone without these."""
    loops = Powers(program).loops
    moved = {v: found for v, (body, _) in loops.items() if (found := _moved(v, body))}
    if not moved:
        return program
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    for v in program.order:
        if v in moved:
            assert isinstance(v.op, p.Scan)
            of = v.op
            args = [done[moved[v][i][0] if i in moved[v] else a] for i, a in enumerate(v.args)]
            body = _behind(of.body, {of.body.inputs[i]: c for i, (_, c) in moved[v].items()})
            op = p.Scan(of.axis, of.length, body, of.carries, of.steps, of.reverse)
            done[v] = b.again(v, args, op=op)
        elif v not in done:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _moved(v: Value, body: Powers) -> dict[int, tuple[Value, float]]:
    """The arguments of a loop that lose a number: which argument, what it is without, the number."""
    assert isinstance(v.op, p.Scan)
    found = {}
    for i, (a, x) in enumerate(zip(v.args, v.op.body.inputs, strict=True)):
        by = multiple(a)
        if by is None or by[0].axes != a.axes or i < v.op.carries or x in v.op.body.outputs:
            continue
        readers = [r for r in v.op.body.order if x in r.args]
        more = sum(prod(r.shape) for r in readers if r not in body.only)
        if all(isinstance(r.op, p.Contract) for r in readers) and more < prod(x.shape):
            found[i] = by
    return found


def _behind(body: Program, numbers: dict[Value, float]) -> Program:
    """A loop's body with products multiplied, whose arguments were."""
    b = Builder()
    done: dict[Value, Value] = {}
    for v in body.order:
        made = v if isinstance(v.op, p.Input) else b.again(v, [done[a] for a in v.args])
        by = prod(numbers[a] for a in v.args if a in numbers)
        with b.named(v.label):
            done[v] = made if by == 1 else b.mul(made, by)
    return Program(inputs=body.inputs, outputs=tuple(done[v] for v in body.outputs), names=body.names)
