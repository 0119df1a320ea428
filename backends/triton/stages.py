"""Sums of very many entries with few results, in two stages: sums of parts by many programs, then their sum.

One program would take all of such a sum. No two programs add to one number, so what is summed is the same, and in the
same order, each time.

    Σ_{b t p} x y      becomes      Σ_{b T} (Σ_{t p} x y)    with t cut into T parts
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from backends.triton.narrow import multiplies
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

MANY = 1 << 14
"""entries of a sum that takes two stages"""
PARTS, LEAST = 1 << 16, 256
"""sums of parts altogether, about; the fewest entries of a part"""
TILES, FEW = 1 << 18, 4
"""sums of parts of products of matrices; the fewest parts"""
AGAIN, LONG = 16, 1 << 11
"""how many times a sum over so long an axis may be computed again instead of being read from memory"""


def staged(program: Program) -> Program:
    """The program with long sums of few results in two stages."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    chunks = _chunks(program)
    for v in program.order:
        if v not in done:
            args = [done[a] for a in v.args]
            made = _chunked(b, v, args, chunks) or _parted(b, v, args) if _sums(v) and summed(v) > MANY else None
            done[v] = made or b.again(v, args)
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def apart(program: Program) -> Iterator[Value]:
    """The sums that lie in memory whatever reads them: those of parts, and long ones that are read again and again."""
    readers: dict[Value, list[Value]] = {}
    for v in program.order:
        if _sums(v) and _sums(x := v.args[0]) and summed(v) * summed(x) > MANY and prod(x.shape) <= _most(x):
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


def _most(v: Value) -> int:
    """Sums of parts altogether: each by a thread or, those of products of matrices, by tensor cores in tiles."""
    return TILES if isinstance(v.op, p.Contract) and v.kind == "real" and multiplies(v) else PARTS


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


def _chunks(program: Program) -> dict[str, _Chunks]:
    """The axes that are cut into chunks which states are carried along, by name; the first way of each."""
    found: dict[str, _Chunks] = {}
    loops = {v.op.axis for v in program.order if isinstance(v.op, p.AffineScan | p.Scan)}
    for v in program.order:
        if isinstance(v.op, p.Split | p.Merge) and v.op.outer in loops:
            axis, outer, inner = v.op.axis, v.op.outer, v.op.inner
            whole, parted = (v.args[0], v) if isinstance(v.op, p.Split) else (v, v.args[0])
            one = _Chunks(outer, inner, parted.size(inner), whole.size(axis), frozenset(whole.axes))
            kept = found.setdefault(axis, one)
            found[axis] = replace(kept, shared=kept.shared & one.shared)
    return found


@dataclass(frozen=True)
class _Chunks:
    """An axis as chunks.

    size   of one     length   of all     shared   axes of every array along it: programs lie along these
    """

    outer: str
    inner: str
    size: int
    length: int
    shared: frozenset[str]


def _chunked(b: Builder, v: Value, args: list[Value], chunks: Mapping[str, _Chunks]) -> Value | None:
    """A sum over chunks and what all arrays have beside them, by chunk: as programs lie that compute what it sums."""
    assert isinstance(v.op, p.Contract | p.Reduce)
    sizes = {a: n for x in args for a, n in x.sizes.items()}
    axis = next((a for a in v.op.over if a in chunks and 0 <= chunks[a].length - sizes[a] < chunks[a].size), None)
    if axis is None or not all(axis in x.axes for x in args):
        return None
    own = chunks[axis]
    kept = [own.outer, *(a for a in v.op.over if a in own.shared and a != axis)]
    parts = prod(sizes.get(a, own.length // own.size) for a in kept)
    if parts < AGAIN or parts * prod(v.shape) > PARTS or {own.outer, own.inner} & sizes.keys():
        return None
    over = tuple(own.inner if a == axis else a for a in v.op.over if a not in kept)
    args = [_cut(b, x, axis, own.outer, own.inner, own.size) for x in args]
    return _twice(b, v, args, over, tuple(kept))


def _cut(b: Builder, x: Value, axis: str, outer: str, inner: str, size: int) -> Value:
    """What is summed, an axis in parts of some size, the last one filled up with zeros."""
    return b.split(b.pad(x, axis, 0, -x.size(axis) % size), axis, outer, inner, size)


def _twice(b: Builder, v: Value, args: list[Value], over: tuple[str, ...], kept: tuple[str, ...]) -> Value:
    """The sum of what v sums, over some axes, then over the others."""
    with b.named(v.label):
        inner = b.contract(args[0], args[1], over) if isinstance(v.op, p.Contract) else b.reduce("sum", args[0], over)
        return b.order(b.reduce("sum", inner, kept), v.axes)


def _parted(b: Builder, v: Value, args: list[Value]) -> Value | None:
    """A sum by parts of what it sums over; None where there are results enough."""
    assert isinstance(v.op, p.Contract | p.Reduce)
    few = prod(v.shape) * AGAIN > PARTS  # of their own: programs sum tiles of products
    parts = min((_most(v) if few else PARTS) // max(prod(v.shape), 1), summed(v) // LEAST)
    if parts < (FEW if _most(v) > PARTS else AGAIN):
        return None
    over, kept = list(v.op.over), []
    for a in sorted(over, key=[*args[0].axes, *args[-1].axes].index):
        n = next(x.size(a) for x in args if a in x.axes)
        most = min(n, parts)
        count = max((d for d in range(1, most + 1) if n % d == 0), default=1)
        count = count if 2 * count >= most else most
        parts //= count
        if count == n:
            over.remove(a)
            kept.append(a)
        elif count > 1:
            outer, inner = f"_{a}_parts", f"_{a}_part" if few else a  # of a tile of all of a both parts would be tiles
            args = [_cut(b, x, a, outer, inner, -(-n // count)) if a in x.axes else x for x in args]
            over[over.index(a)] = inner
            kept.append(outer)
    if not kept or not over:
        return None
    return _twice(b, v, args, tuple(over), tuple(kept))
