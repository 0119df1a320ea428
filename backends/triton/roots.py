"""Kernels of values that need no loop over an axis of their own: which axes are the grid's and which a tile's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backends.triton import tile as t
from backends.triton.evaluate import Buffer, Evaluator
from backends.triton.kernel import Grid, Kernel, Setting, assembled
from backends.triton.rules import RULES
from backends.triton.sums import BLOCK, WHOLE, padded
from backends.triton.tile import Dim, Index
from backends.triton.writer import Writer
from lowering import program as p
from lowering.program import Value

FLAT, FLAT_SUMS = 1024, 64
"""entries of a tile that spans all axes in a row; fewer where each is a sum"""
MOST = 1 << 14
"""the most entries of a result's tile"""


@dataclass
class Demands:
    """What the operations on the way to some values make of the axes, by name.

    tiles    those along which products of matrices, cumulations and solves want a tile; `whole`: all of it
    blocks   axis -> (outer, inner, size of inner) where it is split or merged on the way
    """

    tiles: dict[str, int] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    blocks: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    sums: bool = False

    def spread(self) -> None:
        """What is wanted of an axis is wanted of it under its other names."""
        todo = list(self.tiles)
        while todo:
            a = todo.pop()
            for name in self.names.get(a, ()):
                if name not in self.tiles:
                    self.tiles[name] = self.tiles[a]
                    todo.append(name)


def demands(values: Sequence[Value], buffers: Mapping[Value, Buffer]) -> Demands:
    """From `values` (themselves included) back to what is in memory."""
    found = Demands()
    seen: set[Value] = set()
    todo = list(values)
    roots = set(values)
    while todo:
        v = todo.pop()
        if v in seen or (v in buffers and v not in roots):
            continue
        seen.add(v)
        todo += v.args
        _demand(found, v)
    found.spread()
    return found


def _demand(found: Demands, v: Value) -> None:
    op = v.op
    match op:
        case p.Contract(over=over):
            x, y = v.args
            left, right = _side(x, y), _side(y, x)
            found.sums = True
            if left and right:
                for a in (left, right, *over):
                    found.tiles[a] = max(found.tiles.get(a, 0), 1)
        case p.Reduce(over=over):
            found.sums |= any(v.args[0].size(a) > 1 for a in over)
        case p.Cumulate(axis=axis):
            if v.size(axis) <= WHOLE:
                found.tiles[axis] = 2
                found.whole.add(axis)
            found.sums = True
        case p.Solve(row=row):
            found.tiles[row] = 2
            found.whole.add(row)
            if (side := _side(v.args[1], v.args[0])) is not None:
                found.tiles[side] = 1
        case p.Rename(old=old, new=new):
            found.names.setdefault(old, set()).add(new)
            found.names.setdefault(new, set()).add(old)
        case p.Merge(outer=outer, inner=inner, axis=axis):
            found.blocks.setdefault(axis, (outer, inner, v.args[0].size(inner)))
        case p.Split(axis=axis, outer=outer, inner=inner):
            found.blocks.setdefault(axis, (outer, inner, v.size(inner)))
        case p.Scan():
            for x in op.body.order:
                _demand(found, x)


def _side(x: Value, y: Value) -> str | None:
    """The axis of x alone that a product of matrices takes as its rows."""
    alone = [a for a, n in x.sizes.items() if a not in y.axes and n > 1]
    return max(alone, key=lambda a: (a.startswith("_"), x.size(a)), default=None)


def places(v: Value, wanted: Demands, grid: Grid, skip: str | None = None) -> dict[str, Index]:
    """Where a program works along each axis of v (but `skip`)."""
    axes = [a for a in v.axes if a != skip]
    if not wanted.tiles:
        return _flat(v, axes, grid, FLAT_SUMS if wanted.sums else FLAT)
    chosen, entries = set(), 1
    for a in sorted(axes, key=lambda a: (-_priority(a, wanted), a)):
        size = _tile_size(a, v.size(a), wanted)
        if _priority(a, wanted) and entries * size <= MOST:
            chosen.add(a)
            entries *= size
    made: dict[str, Index] = {}
    for a in axes:
        n = v.size(a)
        outer, inner, size = wanted.blocks.get(a, (a, a, BLOCK))
        if n == 1:
            made[a] = t.constant(0)
        elif a not in chosen:
            made[a] = grid.along(a, n)
        elif a in wanted.tiles and n <= WHOLE:
            made[a] = t.counting(_dim(a, n))
        elif inner != a and inner in wanted.tiles and size <= WHOLE:
            made[a] = t.joined(grid.along(outer, -(-n // size)), t.counting(_dim(inner, size)), size)
        elif n <= WHOLE:
            made[a] = t.counting(_dim(a, n))
        else:
            made[a] = t.joined(grid.along(a, -(-n // BLOCK)), t.counting(_dim(a, BLOCK)), BLOCK)
    return made


def _priority(axis: str, wanted: Demands) -> int:
    inner = wanted.blocks.get(axis, (axis, axis, 0))[1]
    return max(wanted.tiles.get(axis, 0), wanted.tiles.get(inner, 0))


def _tile_size(axis: str, n: int, wanted: Demands) -> int:
    _, inner, size = wanted.blocks.get(axis, (axis, axis, 0))
    if axis in wanted.tiles and n <= WHOLE:
        return padded(n)
    if inner != axis and inner in wanted.tiles and size <= WHOLE:
        return padded(size)
    return padded(n) if n <= WHOLE else BLOCK


def _dim(axis: str, size: int) -> Dim:
    return Dim(t.word(axis), padded(size))


def _flat(v: Value, axes: list[str], grid: Grid, most: int) -> dict[str, Index]:
    """All axes in a row, cut into blocks."""
    total = 1
    for a in axes:
        total *= v.size(a)
    if total == 1:
        return {a: t.constant(0) for a in axes}
    dim = Dim("flat", min(padded(total), most))
    ix = t.counting(dim)
    if total > dim.size:
        ix = t.joined(grid.along("block", -(-total // dim.size)), ix, dim.size)
    made: dict[str, Index] = {}
    outer = total
    guard = ix
    for a in reversed(axes):
        n = v.size(a)
        outer //= n
        if outer == 1:
            made[a] = guard
            guard = t.constant(0)
        elif n == 1:
            made[a] = t.constant(0)
        else:
            guard, made[a] = t.quotient(guard, n, outer)
    return made


def signature(v: Value, wanted: Demands) -> tuple[tuple[str, int], ...]:
    """The grid that a value's kernel would have: kernels of equal grids may be one."""
    grid = Grid()
    places(v, wanted, grid)
    return tuple(sorted(grid.counts.items()))


def plain(name: str, roots: Sequence[Buffer], buffers: Mapping[Value, Buffer], setting: Setting, title: str) -> Kernel:
    """One kernel that stores all `roots`, which have the same grid."""
    e = Evaluator(Writer(setting.real, setting.dot), buffers, RULES)
    e.roots = {b.value for b in roots}
    grid = Grid()
    largest = 1
    for b in roots:
        where = named(e, places(b.value, demands([b.value], buffers), grid))
        x = e.at(b.value, where)
        e.store(b, x, where)
        largest = max([largest, *(_entries(x.dims),)])
    return assembled(name, e, grid, roots, title, warps_of(largest))


def named(e: Evaluator, where: dict[str, Index]) -> dict[str, Index]:
    """The same places, those that are computed under a name."""
    made: dict[str, Index] = {}
    for a, ix in where.items():
        if ix.plain is None and ix.dims:
            key = ("place", a, ix)
            if key not in e.memo[0]:
                e.memo[0][key] = e.w.let(f"at_{t.word(a)}", ix.text, ix.dims, depth=0, kind="int")
            ix = replace(ix, tile=e.memo[0][key])
        made[a] = ix
    return made


def warps_of(entries: int) -> int:
    return 8 if entries >= 8192 else 4


def _entries(dims: Sequence[Dim]) -> int:
    n = 1
    for d in dims:
        n *= d.size
    return n
