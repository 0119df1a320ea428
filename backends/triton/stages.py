"""Sums of very many entries with few results, in two stages: sums of parts by many programs, then their sum.

One program would take all of such a sum. No two programs add to one number, so what is summed is the same, and in the
same order, each time.

    Σ_{b t p} x y      becomes      Σ_{b T} (Σ_{t p} x y)    with t cut into T parts
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

MANY = 1 << 14
"""entries of a sum that takes two stages"""
PARTS, LEAST = 1 << 16, 256
"""sums of parts altogether, about; the fewest entries of a part"""
AGAIN, LONG = 16, 1 << 11
"""how many times a sum over so long an axis may be computed again instead of being read from memory"""


def staged(program: Program) -> Program:
    """The program with long sums of few results in two stages."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    for v in program.order:
        if v not in done:
            args = [done[a] for a in v.args]
            made = _parted(b, v, args) if _sums(v) and summed(v) > MANY else None
            done[v] = made or b.again(v, args)
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def apart(program: Program) -> Iterator[Value]:
    """The sums that lie in memory whatever reads them: those of parts, and long ones that are read again and again."""
    readers: dict[Value, list[Value]] = {}
    for v in program.order:
        if _sums(v) and _sums(x := v.args[0]) and summed(v) * summed(x) > MANY and prod(x.shape) <= PARTS:
            yield x
        for a in dict.fromkeys(v.args):
            readers.setdefault(a, []).append(v)
    for v in program.order:
        if _sums(v) and _longest(v) >= LONG and _again(v, readers) >= AGAIN:
            yield v


def summed(v: Value) -> int:
    """How many entries a result of a sum sums."""
    sizes = {a: n for x in v.args for a, n in x.sizes.items()}
    return prod(sizes[a] for a in v.op.over) if isinstance(v.op, p.Contract | p.Reduce) else 1


def _longest(v: Value) -> int:
    """The longest axis that a sum runs over."""
    sizes = {a: n for x in v.args for a, n in x.sizes.items()}
    return max((sizes[a] for a in v.op.over), default=1) if isinstance(v.op, p.Contract | p.Reduce) else 1


def _sums(v: Value) -> bool:
    return v.kind == "real" and (isinstance(v.op, p.Contract) or (isinstance(v.op, p.Reduce) and v.op.fn == "sum"))


def _again(v: Value, readers: dict[Value, list[Value]]) -> int:
    """How many entries of what is computed of v, entry by entry or by products, there are for one of v."""
    found, todo, most = {v}, [v], 1
    while todo:
        for x in readers.get(todo.pop(), ()):
            if x not in found and isinstance(x.op, p.Map | p.Expand | p.Order | p.Cast | p.Contract):
                found.add(x)
                todo.append(x)
                most = max(most, prod(n for a, n in x.sizes.items() if a not in v.axes))
    return most


def _parted(b: Builder, v: Value, args: list[Value]) -> Value | None:
    """A sum by parts of what it sums over; None where there are results enough."""
    assert isinstance(v.op, p.Contract | p.Reduce)
    parts = min(PARTS // max(prod(v.shape), 1), summed(v) // LEAST)
    if parts < AGAIN:
        return None
    over, kept = list(v.op.over), []
    for a in sorted(over, key=[*args[0].axes, *args[-1].axes].index):
        n = next(x.size(a) for x in args if a in x.axes)
        count = max((d for d in range(1, min(n, parts) + 1) if n % d == 0), default=1)
        parts //= count
        if count == n:
            over.remove(a)
            kept.append(a)
        elif count > 1:
            outer = f"_{a}_parts"
            args = [b.split(x, a, outer, a, n // count) if a in x.axes else x for x in args]
            kept.append(outer)
    if not kept or not over:
        return None
    with b.named(v.label):
        if isinstance(v.op, p.Contract):
            inner = b.contract(args[0], args[1], tuple(over))
        else:
            inner = b.reduce("sum", args[0], tuple(over))
        return b.order(b.reduce("sum", inner, tuple(kept)), v.axes)
