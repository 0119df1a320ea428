"""A long sequence as a loop over stretches of it, so that memory stays bounded forward and backward, and in the cache.

The loop carries the state. What the process' arrays are computed from, entry by entry, is computed inside the loop
as well: only the inputs and the results are ever held whole, and the adjoint of a scan recomputes its body.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowering import program as p
from lowering.build import Builder
from lowering.parts import Parts, as_state, zero_state
from lowering.program import Value
from mixer_ir.nodes.expr import TIME

STRETCH = "_g"
HELD = 1 << 18
"""Entries of one array that are held at once, if nothing else is chosen: what stays in a CPU's cache."""

SHORT = 64
"""steps of which a loop's states are all kept for the way back, whatever they take"""

Lower = Callable[[Builder, Parts], tuple[list[Value], Value]]


def of_steps(n: int, entries: int, held: int | None) -> int:
    """How many of n steps one loop takes, whose adjoint keeps the states (of so many entries) that enter each.

    held   entries that may be kept; None: those of √n steps, so that loops of loops keep 2 √n states, not n
    """
    most = math.isqrt(n) if held is None else held // entries
    if n <= max(most, SHORT):
        return n
    most = max(most, math.isqrt(n))
    return next((m for m in range(most, most // 2, -1) if n % m == 0), most)


def in_stretches(b: Builder, parts: Parts, length: int, lower: Lower) -> tuple[list[Value], Value]:
    """`lower` on stretches of `length` steps, one after the other; the last one may be shorter."""
    count = parts.steps // length
    main = count * length
    if count == 0:
        return lower(b, parts)
    if count == 1:
        reads, state = lower(b, parts.cut(b, 0, main, parts.initial))
    else:
        reads, state = _loop(b, parts, count, length, lower)
    if main == parts.steps:
        return reads, state
    more, state = lower(b, parts.cut(b, main, parts.steps, as_state(b, parts, state)))
    return [b.concat([y, z], TIME) for y, z in zip(reads, more, strict=True)], state


def _loop(b: Builder, parts: Parts, count: int, length: int, lower: Lower) -> tuple[list[Value], Value]:
    arrays = parts.arrays
    leaves = _leaves(arrays)
    steps = [x for x in leaves if TIME in x.axes]
    constants = [x for x in leaves if TIME not in x.axes]

    def body(
        inner: Builder, carries: list[Value], here: list[Value], fixed: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        known = {**dict(zip(steps, here, strict=True)), **dict(zip(constants, fixed, strict=True))}
        made = [_again(inner, x, known, length) for x in arrays]
        reads, state = lower(inner, parts.with_arrays(made, steps=length, initial=carries[0]))
        full = {TIME: length}
        return [as_state(inner, parts, state)], [inner.expand(y, full) for y in reads]

    initial = parts.initial if parts.initial is not None else zero_state(b, parts)
    cut = [b.split(b.slice(x, TIME, 0, count * length), TIME, STRETCH, TIME, length) for x in steps]
    (state,), reads = b.scan(STRETCH, body, [initial], cut, constants, length=count)
    return [b.merge(y, STRETCH, TIME, TIME) for y in reads], state


def _local(x: Value) -> bool:
    """Whether x is computed step by step from its arguments, and cheaply."""
    if TIME not in x.axes:
        return False
    match x.op:
        case p.Map() | p.Expand() | p.Order() | p.Cast() | p.Detach():
            return True
        case p.Reduce():
            return True  # not over t, which the result has
        case p.Pad(axis=axis) | p.Concat(axis=axis):
            return axis != TIME
        case p.Rename(old=old, new=new):
            return TIME not in (old, new)
        case p.Merge(outer=outer, inner=inner, axis=axis) | p.Split(outer=outer, inner=inner, axis=axis):
            return TIME not in (outer, inner, axis)
        case _:
            return False


def _leaves(arrays: Sequence[Value]) -> list[Value]:
    """What the arrays are computed from, entry by entry."""
    found: dict[Value, None] = {}
    seen: set[Value] = set()
    stack = list(reversed(arrays))
    while stack:
        x = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        if _local(x):
            stack.extend(reversed(x.args))
        else:
            found[x] = None
    return list(found)


def _again(b: Builder, x: Value, known: dict[Value, Value], length: int) -> Value:
    """x computed from known leaves, for `length` steps."""
    if x not in known:
        known[x] = b.again(x, [_again(b, a, known, length) for a in x.args], sizes={TIME: length})
    return known[x]
