"""Matrix products: axes of rows, of columns and of the sum that lie as one run as one, the others in loops around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backends.native.fusing import is_product, product_axes
from backends.native.index import Index, Variable
from backends.native.memory import Store
from backends.native.nest import Axes, Loop, Nest
from backends.native.reader import address
from backends.native.scope import Scope, variables
from lowering.program import Value

ROWS = 48
"""rows that a thread takes at once, at least"""


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
    if not _lie_side_by_side(v, columns, store):
        x, y, rows, columns = y, x, columns, rows
    sizes = scope.extent({**v.sizes, **{a: x.size(a) for a in over}})
    probes = {a: Variable(f"probe {a}", n, whole=True) for a, n in sizes.items()}
    steps = [_steps(scope, z, probes) for z in (x, y)] + [store.strides]
    m = _group(rows, sizes, (steps[0], steps[2]))
    n = _group(columns, sizes, (steps[1], steps[2]))
    k = _group(over, sizes, (steps[0], steps[1]))
    if n.steps[1] != 1 and n.size > 1:
        raise AssertionError(f"the columns of {v} do not lie side by side")
    inside = {*m.axes, *n.axes, *k.axes}
    around = {a: size for a, size in v.sizes.items() if a not in inside}
    summed = {a: x.size(a) for a in over if a not in inside}

    def build(made: Axes) -> list[str]:
        free, ordered = variables(made, tuple(around)), variables(made, tuple(summed))
        flops = 2 * m.size * n.size * k.size
        count = 1
        for i in free:
            count *= i.size
        block = m.size
        if scope.share and count < 8 and flops > 1 << 19:
            block = min(m.size, max(ROWS, -(-m.size // (-(-8 // count)) // 12 * 12)))
        pieces = -(-m.size // block)
        part = Variable(scope.fresh("part"), pieces, frozenset(), whole=True)
        loops = [Loop(i, True) for i in free] + ([Loop(part, True)] if pieces > 1 else [])
        nest = Nest([*loops, *(Loop(i, False) for i in ordered)])
        nest.calls = True
        zero = {a: Index() for a in inside}
        at = {**{a: scope.first.get(a, Index()) for a in zero}, **made.at}
        from_x, place_x = address(x, at, scope.where)
        from_y, place_y = address(y, at, scope.where)
        place = store.address({a: at[a] for a in v.axes})
        height, skip = str(m.size), Index()
        if pieces > 1:
            skip = Index.of(part) * block
            height = f"{m.size} - {skip} < {block} ? {m.size} - {skip} : {block}"
        add = " || ".join(f"{i.text} > 0" for i in ordered) or "0"
        nest.inside.append(
            f"mixer_product({height}, {n.size}, {k.size}, "
            f"{from_x.pointer} + ({place_x + skip * m.steps[0]}), {m.steps[0]}, {k.steps[0]}, "
            f"{from_y.pointer} + ({place_y}), {k.steps[1]}, {n.steps[0]}, "
            f"{store.pointer} + ({place + skip * m.steps[1]}), {m.steps[1]}, {add});"
        )
        return nest.text(scope.share, simd=False, weight=flops // 8)

    return scope.written({**around, **summed}, build)


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
