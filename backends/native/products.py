"""Matrix products: axes of rows, of columns and of the sum that lie as one run as one, the others in loops around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from backends.native.fusing import is_product, is_read_narrow, is_streamed, larger, product_axes
from backends.native.index import Index, Variable
from backends.native.memory import Store
from backends.native.nest import Axes, Loop, Nest
from backends.native.reader import address
from backends.native.scope import Scope, variables
from lowering import program as p
from lowering.program import Value

ROWS = 48
"""rows that a thread takes at once, at least"""
COLUMNS = 32
"""columns that one takes at once, of which there are a whole number of times so many in each piece"""
PIECES = 8
"""into how many a large product is cut"""
FORMATS = ("", "bfloat16", "float16")


@dataclass(frozen=True)
class Group:
    """Axes that lie as one in every array that has them: their size, and one step in each array."""

    axes: tuple[str, ...]
    size: int
    steps: tuple[int, ...]


def writes_to(v: Value, store: Store) -> bool:
    """Whether v can be written to an array as it lies: for a product, with its rows or its columns side by side."""
    if not is_product(v):
        return True
    _, rows, columns, _ = product_axes(v)
    return any(_lie_side_by_side(v, axes, store) for axes in (rows, columns))


def _lie_side_by_side(v: Value, axes: Sequence[str], store: Store) -> bool:
    long = [a for a in axes if v.size(a) > 1]
    return not long or store.strides[long[-1]] == 1


def product(scope: Scope, v: Value, store: Store) -> list[str]:
    """c = a b, one product for each place of the batch axes."""
    (x, y), (_, rows, columns, over) = v.args, product_axes(v)
    few = _few(scope, v)
    if x is larger(v) if few else not _lie_side_by_side(v, columns, store):
        x, y, rows, columns = y, x, columns, rows
    y = y.args[0] if is_read_narrow(y, v) else y
    sizes = scope.extent({**v.sizes, **{a: x.size(a) for a in over}})
    probes = _probes(sizes)
    steps = [_steps(scope, z, probes) for z in (x, y)] + [store.strides]
    m = _group(rows, sizes, (steps[0], steps[2]))
    n = _group(columns, sizes, (steps[1], steps[2]))
    k = _group(over, sizes, (steps[0], steps[1]))
    if n.steps[1] != 1 and n.size > 1 and not few:
        raise AssertionError(f"the columns of {v} do not lie side by side")
    inside = {*m.axes, *n.axes, *k.axes}
    around = {a: size for a, size in v.sizes.items() if a not in inside}
    summed = {a: x.size(a) for a in over if a not in inside}

    def build(made: Axes) -> list[str]:
        free, ordered = variables(made, tuple(around)), variables(made, tuple(summed))
        flops = 2 * m.size * n.size * k.size
        shared = scope.share and prod(i.size for i in free) < PIECES and flops > 1 << 19
        by_columns = n.size >= PIECES * COLUMNS
        cut, least = (n, COLUMNS) if by_columns else (m, ROWS)
        block = min(cut.size, max(least, _least_of(cut.size, prod(i.size for i in free), by_columns)))
        block = block if shared else cut.size
        pieces = -(-cut.size // block)
        part = Variable(scope.fresh("part"), pieces, frozenset(), whole=True)
        loops = [Loop(i, True) for i in free] + ([Loop(part, True)] if pieces > 1 else [])
        nest = Nest([*loops, *(Loop(i, False) for i in ordered)])
        nest.calls = True
        zero = {a: Index() for a in inside}
        at = {**{a: scope.first.get(a, Index()) for a in zero}, **made.at}
        from_x, place_x = address(x, at, scope.where)
        from_y, place_y = address(y, at, scope.where)
        place = store.address({a: at[a] for a in v.axes})
        skip = Index.of(part) * block
        extent = f"{cut.size} - {skip} < {block} ? {cut.size} - {skip} : {block}" if pieces > 1 else str(cut.size)
        if by_columns:
            height, width, place_y = str(m.size), extent, place_y + skip * n.steps[0]
            place = place + skip * n.steps[1]
        else:
            height, width, place_x = extent, str(n.size), place_x + skip * m.steps[0]
            place = place + skip * m.steps[1]
        add = " || ".join(f"{i.text} > 0" for i in ordered) or "0"
        a = f"{from_x.pointer} + ({place_x}), {m.steps[0]}, {k.steps[0]}"
        b, c = f"{from_y.pointer} + ({place_y})", f"{store.pointer} + ({place}), {m.steps[1]}"
        if few:
            form = FORMATS.index(from_y.narrow)
            text = f"mixer_dots({height}, {width}, {k.size}, {a}, {b}, {form}, {n.steps[0]}, {c}, {n.steps[1]}, {add});"
        else:
            text = f"mixer_product({height}, {width}, {k.size}, {a}, {b}, {k.steps[1]}, {n.steps[0]}, {c}, {add});"
        nest.inside.append(text)
        return nest.text(scope.share, simd=False, weight=flops // 8)

    return scope.written({**around, **summed}, build)


def _least_of(size: int, around: int, by_columns: bool) -> int:
    """The size of a piece in whole tiles, where there are to be PIECES with those of the loops around."""
    tile = COLUMNS if by_columns else 12
    return -(-size // (-(-PIECES // around)) // tile * tile)


def _few(scope: Scope, v: Value) -> bool:
    """Whether the larger factor of a product with few rows is read as it lies: what is summed lies side by side."""
    if not is_streamed(v):
        return False
    assert isinstance(v.op, p.Contract)
    y = larger(v)
    sizes = {**y.sizes, **scope.extent({a: y.size(a) for a in y.axes})}
    steps = _steps(scope, y.args[0] if is_read_narrow(y, v) else y, _probes(sizes))
    return [steps[a] for a in v.op.over if sizes[a] > 1] == [1]


def _probes(sizes: Mapping[str, int]) -> dict[str, Variable]:
    return {a: Variable(f"probe {a}", n, whole=True) for a, n in sizes.items()}


def _steps(scope: Scope, x: Value, probes: Mapping[str, Variable]) -> dict[str, int]:
    """How far apart neighbours along each axis lie."""
    _, place = address(x, {a: Index.of(i) for a, i in probes.items()}, scope.where)
    found = dict(place.terms)
    return {a: found.get(i, 0) for a, i in probes.items()}


def _group(axes: Sequence[str], sizes: Mapping[str, int], steps: tuple[Mapping[str, int], Mapping[str, int]]) -> Group:
    """The last axes that lie as one in all arrays."""
    size, last = 1, tuple(0 for _ in steps)
    taken: list[str] = []
    for a in reversed([a for a in axes if sizes[a] > 1]):
        here = tuple(s[a] for s in steps)
        if taken and here != tuple(step * size for step in last):
            break
        if not taken:
            last = here
        taken.insert(0, a)
        size *= sizes[a]
    return Group(tuple(taken), size, last)
