"""Sums that a loop carries beside others, kept apart along the axes that the others' programs lie along.

    D_q[t] ← D_q[t] + x_t,  D ← D + Σ_t f(x_t)      becomes      D_t ← D_t + f(x_t),  and then  D = Σ_t D_t

The gradient of what all rows of scores share, a slope or a temperature, is such a sum: as it is written, one program
would have to compute the scores of all rows again. What is kept has no more entries than what is carried beside it.

What a step gives is summed after the loop too, where it sums over an axis along which states are apart, as the gradient
of a key that all heads share does; of that there are no more entries than of what steps read.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeAlias

from backends.triton.totals import added, summed
from lowering import program as p
from lowering.build import Builder
from lowering.fused import zeros
from lowering.program import Program, Value

Axes: TypeAlias = frozenset[str]
Partial: TypeAlias = tuple[Value, Axes]
"""(a sum that lacks some of its axes' sums, these axes)"""

TILE, PROGRAMS = 1 << 14, 64
"""entries of states that one program may hold for the sake of sums, and how many programs there are to be then"""


def partial(program: Program) -> Program:
    """The program with such sums taken after their loops; itself where there are none."""
    scans = [(v, v.op) for v in program.order if isinstance(v.op, p.Scan)]
    found = {v: x for v, op in scans if (x := _partials(op) | _given(op))}
    if not found:
        return program
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    results: dict[Value, list[Value]] = {}
    for v in program.order:
        if v in found:
            assert isinstance(v.op, p.Scan)
            with b.named(v.label):
                results[v] = _loop(b, v.op, found[v], [done[a] for a in v.args])
        elif isinstance(v.op, p.Pick) and v.args[0] in results:
            done[v] = results[v.args[0]][v.op.index]
        elif v not in done:
            done[v] = b.again(v, [done[a] for a in v.args])
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _partials(op: p.Scan) -> dict[int, Partial]:
    """What each step adds to carries, kept apart, by their number."""
    n, body = op.carries, op.body
    steps = [added(body, i) for i in range(n)]
    if n < 2 or any(x is None for x in steps):
        return {}
    alone = [_alone(x) for x in steps if x is not None]
    b = Builder()
    found: dict[int, Partial] = {}
    for i, x in enumerate(steps):
        assert x is not None
        apart = frozenset().union(*(a for j, a in enumerate(alone) if j != i))
        with b.named(x.label):
            made, kept = _kept(b, x, apart)
        if kept and prod(made.shape) <= max(prod(y.shape) for y in body.inputs[:n]):
            found[i] = made, kept
    return found


def _given(op: p.Scan) -> dict[int, Partial]:
    """What each step gives, kept apart along the axes along which states are, by its number."""
    n, body = op.carries, op.body
    apart = _apart(op)
    most = max((prod(x.shape) for x in body.inputs[: n + op.steps]), default=0)
    b = Builder()
    found: dict[int, Partial] = {}
    for i, x in enumerate(body.outputs[n:], n):
        with b.named(x.label):
            made, kept = _kept(b, x, apart)
        if kept and prod(made.shape) <= most:
            found[i] = made, kept
    return found


def _apart(op: p.Scan) -> Axes:
    """The axes of states that one program does not hold whole: what steps sum over is held where tiles allow it."""
    body = op.body
    sizes = {a: m for x in body.inputs[: op.carries] for a, m in x.sizes.items() if m > 1}
    free = sizes.keys() - summed(body.outputs[: op.carries])
    held = prod(m for a, m in sizes.items() if a not in free)
    for a in reversed([a for a in sizes if a in free and a in summed(body.outputs)]):
        if held * sizes[a] <= TILE and prod(sizes.values()) >= held * sizes[a] * PROGRAMS:
            held *= sizes[a]
            free -= {a}
    return frozenset(free)


def _alone(x: Value) -> Axes:
    """The axes of a value that nothing it is computed from is summed over: each place is a program's."""
    return frozenset(a for a, n in x.sizes.items() if n > 1) - summed([x])


def _kept(b: Builder, v: Value, axes: Axes) -> Partial:
    """v without its sums over some of those axes; the axes."""
    axes -= {*v.axes}
    match v.op:
        case p.Contract(over=over):
            here = axes & {*over}
            args, more = _one(b, v.args, axes - {*over})
            if not here | more:
                return v, here
            return b.contract(args[0], args[1], tuple(a for a in over if a not in here)), here | more
        case p.Reduce(fn="sum", over=over):
            here = axes & {*over}
            x, more = _kept(b, v.args[0], axes - {*over})
            rest = tuple(a for a in over if a not in here)
            return (b.sum(x, rest) if rest else x), here | more
        case p.Map(fn="mul" | "neg" as fn):
            args, more = _one(b, v.args, axes)
            return (b.map(fn, *args) if more else v), more
        case p.Map(fn="add" | "sub" as fn):
            (x, kept), (y, also) = (_kept(b, z, axes) for z in v.args)
            return (b.map(fn, x, y), kept) if kept and kept == also else (v, frozenset())
        case p.Map(fn="where") if zeros(v.args[2]):
            x, more = _kept(b, v.args[1], axes - {*v.args[0].axes})
            return (b.where(v.args[0], x, 0.0) if more else v), more
        case p.Order():
            return _kept(b, v.args[0], axes)
    return v, frozenset()


def _one(b: Builder, args: Sequence[Value], axes: Axes) -> tuple[list[Value], Axes]:
    """The arguments of what is linear in each, one of them with axes kept that the others lack; the axes."""
    best, most = list(args), frozenset[str]()
    for i, x in enumerate(args):
        others = {a for j, y in enumerate(args) if j != i for a in y.axes}
        made, kept = _kept(b, x, axes - others)
        if len(kept) > len(most):
            best, most = [made if j == i else y for j, y in enumerate(args)], kept
    return best, most


def _loop(b: Builder, op: p.Scan, partials: dict[int, Partial], args: Sequence[Value]) -> list[Value]:
    """The loop's results as they were, of one that carries the sums apart."""
    body, inner = op.body, Builder()
    inputs, outputs, start = [*body.inputs], [*body.outputs], [*args]
    for i, (x, _) in partials.items():
        if i >= op.carries:
            outputs[i] = inner.order(x, x.axes)
            continue
        inputs[i] = inner.input(f"carry{i}", x.axes, x.shape)
        outputs[i] = inner.order(inner.add(inputs[i], x), x.axes)
        start[i] = b.full(0.0, x.sizes)
    new = Program(inputs=tuple(inputs), outputs=tuple(outputs), names=body.names)
    picks = b.picks(p.Scan(op.axis, op.length, new, op.carries, op.steps, op.reverse), tuple(start))
    for i, (_, kept) in partials.items():
        made = b.sum(picks[i], tuple(sorted(kept)))
        like = args[i].axes if i < op.carries else (op.axis, *body.outputs[i].axes)
        picks[i] = b.order(b.add(args[i], made) if i < op.carries else made, like)
    return picks
