"""Sums that a loop carries for several of its programs, taken after it: each step's share is a result of the step.

    D ← D + x_c      becomes      D_0 + Σ_c x_c

The gradient of what all steps share is such a sum. Where it lacks an axis along which the loop's states are apart, say
the batch, one program would have to hold all states to carry it.
"""

from __future__ import annotations

from collections.abc import Sequence

from backends.triton.lifting import reached
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value


def totalled(program: Program) -> Program:
    """The program with such sums after their loops, in the bodies of loops too; itself where there are none."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    results: dict[Value, list[Value]] = {}
    changed = False
    for v in program.order:
        if v in done:
            continue
        if isinstance(v.op, p.Scan):
            body = totalled(v.op.body)
            shares = _shares(v.op, body)
            changed |= bool(shares) or body is not v.op.body
            with b.named(v.label):
                results[v] = _loop(b, v.op, body, shares, [done[a] for a in v.args])
        elif isinstance(v.op, p.Pick) and v.args[0] in results:
            done[v] = results[v.args[0]][v.op.index]
        else:
            done[v] = b.again(v, [done[a] for a in v.args])
    if not changed:
        return program
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _shares(op: p.Scan, body: Program) -> dict[int, Value]:
    """What each step adds to carries that lack an axis along which states are apart, by their number."""
    n = op.carries
    sums = {i: x for i in range(n) if (x := added(body, i)) is not None}
    states = [i for i in range(n) if i not in sums]
    apart = {a for i in states for a, m in body.inputs[i].sizes.items() if m > 1}
    apart -= summed([body.outputs[i] for i in states])
    return {i: x for i, x in sums.items() if not apart <= {*body.inputs[i].axes}}


def summed(values: Sequence[Value]) -> set[str]:
    """The axes over which anything is summed on the way to the values."""
    return {a for x in reached(values) if isinstance(x.op, p.Contract | p.Reduce) for a in x.op.over}


def added(body: Program, i: int) -> Value | None:
    """What a step adds to carry i, if that is all that is done with it."""
    carry, y = body.inputs[i], body.outputs[i]
    while isinstance(y.op, p.Order):
        y = y.args[0]
    if carry.kind != "real" or not isinstance(y.op, p.Map) or y.op.fn != "add" or y.args.count(carry) != 1:
        return None
    (x,) = (a for a in y.args if a is not carry)
    others = [x, *(z for j, z in enumerate(body.outputs) if j != i)]
    return None if carry in reached(others) else x


def _loop(b: Builder, op: p.Scan, body: Program, shares: dict[int, Value], args: Sequence[Value]) -> list[Value]:
    """The loop's results as they were, of the loop that carries the other states alone."""
    inner, n = Builder(), op.carries
    kept = [i for i in range(n) if i not in shares]
    each = [inner.order(inner.expand(x, body.inputs[i].sizes), body.inputs[i].axes) for i, x in shares.items()]
    outputs = (*(body.outputs[i] for i in kept), *body.outputs[n:], *each)
    new = Program(
        inputs=(*(body.inputs[i] for i in kept), *body.inputs[n:]),
        outputs=outputs,
        names=tuple(f"out{i}" for i in range(len(outputs))),
    )
    scan = p.Scan(op.axis, op.length, new, len(kept), op.steps, op.reverse)
    picks = b.picks(scan, (*(args[i] for i in kept), *args[n:]))
    made = dict(zip([*kept, *range(n, len(body.outputs))], picks, strict=False))
    for i, x in zip(shares, picks[len(picks) - len(shares) :], strict=True):
        made[i] = b.order(b.add(args[i], b.sum(x, (op.axis,))), args[i].axes)
    return [made[i] for i in range(len(body.outputs))]
