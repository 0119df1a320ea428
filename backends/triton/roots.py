"""Kernels of values that need no loop over an axis of their own: which axes are the grid's and which a tile's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from math import prod

from backends.triton import tile as t
from backends.triton.evaluate import Buffer, Evaluator
from backends.triton.kernel import Grid, Kernel, Setting, assembled
from backends.triton.products import LEAST
from backends.triton.rules import RULES
from backends.triton.sums import BLOCK, WHOLE, padded
from backends.triton.tile import Dim, Index
from lowering import program as p
from lowering.program import Value

FLAT, FLAT_SUMS = 1024, 64
"""entries of a tile that spans all axes in a row; fewer where each is a sum"""


FEWEST = 4
"""entries of every block that a tile of all blocks takes"""


@dataclass
class Demands:
    """What the operations on the way to some values make of the axes, by name.

    tiles    those along which products of matrices, cumulations and solves want a tile; `whole`: all of it
    blocks   axis -> (outer, inner, size of inner) where it is split or merged on the way
    parts    a tile's axis -> the two that it is split into
    summed   those that products of matrices sum over: where both parts of an axis are, all of it should be a tile
    again    what is summed over, under its own name: programs that share such an axis compute the same again
    inside   axes of what products of matrices read or give, or without any, of what is cumulated, by any name: along
             others, programs would repeat them
    rows     the axis that comes first in tiles
    """

    tiles: dict[str, int] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    blocks: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    parts: dict[str, tuple[str, str]] = field(default_factory=dict)
    summed: set[str] = field(default_factory=set)
    again: set[str] = field(default_factory=set)
    inside: set[str] = field(default_factory=set)
    sums: bool = False
    rows: str = ""

    def spread(self) -> None:
        """What is wanted of an axis is wanted of it under its other names."""
        for a in [*self.summed]:
            self.summed |= self.names.get(a, set())
        todo = list(self.inside)
        while todo:
            a = todo.pop()
            merged = {whole for whole, (*of, _) in self.blocks.items() if a in of}
            further = {*self.names.get(a, ()), *self.parts.get(a, ()), *self.blocks.get(a, ())[:2], *merged}
            todo += further - self.inside
            self.inside |= further
        todo = list(self.blocks)
        while todo:
            a = todo.pop()
            for name in sorted(self.names.get(a, set()) - {*self.blocks, *self.blocks[a][:2]}):  # no part of itself
                self.blocks[name] = self.blocks[a]
                todo.append(name)
        todo = list(self.tiles)
        while todo:
            a = todo.pop()
            for name in (*sorted(self.names.get(a, ())), *self.parts.get(a, ())):
                if name not in self.tiles:
                    self.tiles[name] = self.tiles[a]
                    todo.append(name)

    def of(self, v: Value) -> Demands:
        """The same for v alone: what is called as another axis of v, or as a part of one, is no part of an axis."""
        taken, blocks = {*v.axes}, self.blocks.copy()
        for a in v.axes:
            outer, inner, inside = self.blocks.get(a, (a, a, 0))
            parts = {outer, inner, *self.blocks.get(inner, ())[:2]} - {a}
            if v.size(a) <= inside or parts & taken:
                blocks.pop(a, None)
            else:
                taken |= parts
        return replace(self, blocks=blocks)


def demands(values: Sequence[Value], buffers: Mapping[Value, Buffer]) -> Demands:
    """From `values` (themselves included) back to what is in memory."""
    found = Demands()
    seen: set[Value] = set()
    order: list[Value] = []
    todo = list(values)
    roots = set(values)
    while todo:
        v = todo.pop()
        if v in seen or (v in buffers and v not in roots):
            continue
        seen.add(v)
        todo += v.args
        order.append(v)
        found.again |= set(v.op.over) if isinstance(v.op, p.Contract) else set()
    for v in order:
        _demand(found, v)
    if not found.inside:
        found.inside = {a for v in order if isinstance(v.op, p.Cumulate) and v.size(v.op.axis) <= WHOLE for a in v.axes}
    found.spread()
    return found


def _demand(found: Demands, v: Value) -> None:
    op = v.op
    match op:
        case p.Contract(over=over):
            x, y = v.args
            left, right = _side(x, y, found.again), _side(y, x, found.again)
            found.sums = True
            if left and right:
                found.summed |= set(over)
                found.inside |= {*x.axes, *y.axes}
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
            found.inside |= {a for x in v.args for a in x.axes}
            if (side := _side(v.args[1], v.args[0], found.again)) is not None:
                found.tiles[side] = 1
        case p.Rename(old=old, new=new):
            found.names.setdefault(old, set()).add(new)
            found.names.setdefault(new, set()).add(old)
        case p.Merge(outer=outer, inner=inner, axis=axis):
            found.blocks.setdefault(axis, (outer, inner, v.args[0].size(inner)))
        case p.Split(axis=axis, outer=outer, inner=inner):
            found.parts[axis] = (outer, inner)
            found.blocks.setdefault(axis, (outer, inner, v.size(inner)))
        case p.Scan():
            for x in op.body.order:
                _demand(found, x)


def _side(x: Value, y: Value, again: Set[str]) -> str | None:
    """The axis of x alone that a product of matrices takes as its rows: of two as long, that which is summed over."""
    alone = [a for a, n in x.sizes.items() if a not in y.axes and n > 1]
    return max(reversed(alone), key=lambda a: (a.startswith("_"), x.size(a), a in again), default=None)


def places(
    v: Value, wanted: Demands, grid: Grid, most: int, skip: str | None = None, known: Mapping[str, Index] | None = None
) -> dict[str, Index]:
    """Where a program works along each axis of v (but `skip`), with at most so many entries unless an axis is whole.

    known   places that are settled
    """
    wanted = wanted.of(v)
    settled = {a: ix for a, ix in (known or {}).items() if a in v.axes}
    axes = [a for a in v.axes if a != skip and a not in settled]
    if not wanted.tiles:
        return _flat(v, axes, grid, FLAT_SUMS if wanted.sums else FLAT) | settled
    chosen: dict[str, int] = {}
    entries = prod(d.size for ix in settled.values() for d in ix.dims)
    for a in sorted(axes, key=lambda a: (-_priority(a, wanted), a not in wanted.again, a)):
        if not _priority(a, wanted):
            continue
        size = _tile_size(a, v.size(a), wanted)
        held = _held(a, v.size(a), wanted)
        least = LEAST if held == 1 else FEWEST * held
        while entries * size > most and size > least and not _whole(a, wanted):
            size //= 2
        if entries * size <= most or not chosen or _whole(a, wanted):
            chosen[a] = size
            entries *= size
    for a in axes:
        size = min(padded(v.size(a)), most // max(entries, 1))
        if a not in wanted.inside and wanted.inside and size > 1 < v.size(a):
            chosen[a] = 1 << size.bit_length() - 1
            entries *= chosen[a]
    made: dict[str, Index] = {}
    for a in axes:
        n = v.size(a)
        outer, inner, inside = wanted.blocks.get(a, (a, a, 0))
        size = chosen.get(a, 0)
        if n == 1:
            made[a] = t.constant(0)
        elif not size:
            made[a] = grid.along(a, n)
        elif _held(a, n, wanted) > 1:
            made[a] = _strided(a, n, wanted, grid, size)
        elif size >= _entries_of(a, n, wanted) > inside:
            made[a] = t.joined(
                t.counting(_dim(outer, -(-n // inside), wanted)), t.counting(_dim(inner, inside, wanted)), inside
            )
        elif size >= n:
            made[a] = t.counting(_dim(a, n, wanted))
        elif inner != a and inner in wanted.tiles and inside <= WHOLE:
            part = t.counting(_dim(inner, min(size, inside), wanted))
            if size < inside:
                part = t.joined(grid.along(inner, -(-inside // size)), part, size)
            made[a] = t.joined(grid.along(outer, -(-n // inside)), part, inside)
        else:
            made[a] = t.joined(grid.along(a, -(-n // size)), t.counting(_dim(a, size, wanted)), size)
    return made | settled


def _held(axis: str, n: int, wanted: Demands) -> int:
    """How many blocks of an axis a tile spans because products sum over the blocks, but not inside them."""
    outer, inner, inside = wanted.blocks.get(axis, (axis, axis, 0))
    if outer == inner or not _summed(outer, wanted) or _summed(inner, wanted):
        return 1
    return padded(-(-n // inside)) * _held(inner, inside, wanted)


def _strided(axis: str, n: int, wanted: Demands, grid: Grid, size: int) -> Index:
    """`size` entries of an axis: all blocks that are summed over, of each the same few entries."""
    if _held(axis, n, wanted) > 1:
        outer, inner, inside = wanted.blocks[axis]
        count = padded(-(-n // inside))
        return t.joined(
            t.counting(_dim(outer, count, wanted)), _strided(inner, inside, wanted, grid, size // count), inside
        )
    if size >= n:
        return t.counting(_dim(axis, n, wanted))
    if size == 1:
        return grid.along(axis, n)
    return t.joined(grid.along(axis, -(-n // size)), t.counting(_dim(axis, size, wanted)), size)


def too_whole(v: Value, buffers: Mapping[Value, Buffer], most: int) -> bool:
    """Whether an axis of v should be one tile, and is longer than one can be: programs would compute it all again."""
    wanted = demands([v], buffers).of(v)
    return any(_entries_of(a, n, wanted) > most for a, n in v.sizes.items())


def _whole(axis: str, wanted: Demands) -> bool:
    return wanted.blocks.get(axis, (axis, axis, 0))[1] in wanted.whole or axis in wanted.whole


def _priority(axis: str, wanted: Demands) -> int:
    inner = wanted.blocks.get(axis, (axis, axis, 0))[1]
    return max(wanted.tiles.get(axis, 0), wanted.tiles.get(inner, 0))


def tiled(axis: str, wanted: Demands) -> bool:
    """Whether products of matrices want a tile along an axis, or inside its blocks."""
    return bool(_priority(axis, wanted))


def _tile_size(axis: str, n: int, wanted: Demands) -> int:
    _, inner, size = wanted.blocks.get(axis, (axis, axis, 0))
    if (held := _held(axis, n, wanted)) > 1:
        return min(held * BLOCK, padded(n))
    if axis in wanted.tiles and n <= WHOLE:
        return padded(n)
    if (both := _entries_of(axis, n, wanted)) > size:
        return both
    if inner != axis and inner in wanted.tiles and size <= WHOLE:
        return padded(size)
    return padded(n) if n <= WHOLE else BLOCK


def _entries_of(axis: str, n: int, wanted: Demands) -> int:
    """Of a tile of both parts of an axis, if products of matrices sum over both; else 0."""
    outer, inner, inside = wanted.blocks.get(axis, (axis, axis, 0))
    if outer == inner or not (_summed(outer, wanted) and _summed(inner, wanted)):
        return 0
    return padded(inside) * padded(-(-n // inside))


def _summed(axis: str, wanted: Demands, within: frozenset[str] = frozenset()) -> bool:
    """Whether products of matrices sum over an axis, or over both its parts; a part may have the name of its whole."""
    if axis in wanted.summed:
        return True
    outer, inner, _ = wanted.blocks.get(axis, (axis, axis, 0))
    if outer == inner or axis in within:
        return False
    return all(_summed(a, wanted, within | {axis}) for a in (outer, inner))


def _dim(axis: str, size: int, wanted: Demands) -> Dim:
    return Dim(t.word(axis), padded(size), axis == wanted.rows)


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


def plain(name: str, roots: Sequence[Buffer], buffers: Mapping[Value, Buffer], setting: Setting, title: str) -> Kernel:
    """One kernel that stores all `roots`; Mismatch if their grids are not the same."""
    e = Evaluator(setting.writer(), buffers, RULES, setting.block, setting.limit * 256)
    e.roots = {b.value for b in roots}
    grid = Grid()
    each = {b: demands([b.value], buffers) for b in roots}
    if any(x.tiles for x in each.values()) and not all(x.tiles for x in each.values()):
        joint = demands([b.value for b in roots], buffers)  # what wants no tile of its own takes that of the others
        each = {b: x if x.tiles else joint for b, x in each.items()}
    for i, b in enumerate(roots):
        own = Grid()
        where = places(b.value, each[b], own, setting.tile)
        if i and own.counts != grid.counts:
            raise Mismatch
        grid.counts = own.counts
        e.store(b, e.at(b.value, where), where)
    return assembled(name, e, grid, roots, title)


class Mismatch(Exception):
    """These results are not computed by programs of one grid."""
