"""Tiles of cumulated sums, products and maxima."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from backends.triton import tile as t
from backends.triton.evaluate import Cut, Evaluator, Rule, Where, computed, gathered
from backends.triton.functions import FORMS
from backends.triton.products import summed, whole
from backends.triton.sums import WHOLE, fresh, padded
from backends.triton.tile import Dim, Index, Tile
from lowering import program as p
from lowering.program import Value

CUMULATE = {
    "sum": ("tl.cumsum({x}, axis={i}, reverse={reverse})", "0"),
    "prod": ("tl.associative_scan({x}, {i}, _times, reverse={reverse})", "1"),
    "max": ("tl.associative_scan({x}, {i}, _larger, reverse={reverse})", 'float("-inf")'),
}


JOINED = {"sum": "add", "prod": "mul", "max": "max"}


def neutral_of(v: Value) -> str:
    assert isinstance(v.op, p.Cumulate)
    if v.op.fn == "max":
        return str(-(1 << 62)) if v.kind == "int" else 'float("-inf")'
    return {"sum": "0", "prod": "1"}[v.op.fn]


def _cumulate(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Cumulate)
    op = v.op
    n, ix = v.size(op.axis), where[op.axis]
    if n == 1:
        return literal_of(v) if op.exclusive else e.at(v.args[0], where)
    if ix.of is not None and ix.of[2] and ix.of[1] == n and n & (n - 1) == 0:
        dim = ix.of[0].plain
        if dim is not None and dim.size >= n:
            return _ordered(e, v, where, dim, n)
    if not ix.dims and n <= WHOLE and not any(isinstance(x.op, p.Contract) for x in computed(v.args[0], e.buffers)):
        return _up_to(e, v, where, ix)
    if (found := _at_every(ix)) is not None:
        outer, inner, count = found
        last = outer.high * count + inner + op.exclusive
        if last + count > n - 1 if op.reverse else inner - op.exclusive < count:
            return _every(e, v, where, outer, inner, count)
    if ix.plain is None or ix.plain.size < n:
        raise Cut(v, "is cumulated along an axis of which a part is asked for")
    return _ordered(e, v, where, ix.plain, n)


def _every(e: Evaluator, v: Value, where: Where, outer: Index, inner: int, count: int) -> Tile:
    """Cumulated, at the places outer · count + inner: so many entries up to each are one, and these are cumulated.

    Where entries cannot be read beyond their own block, whole blocks are cumulated, and the sums are moved by one.
    """
    assert isinstance(v.op, p.Cumulate) and outer.plain is not None
    op = v.op

    def each(place: int) -> Tile:
        block, rest = divmod(place, count)
        ix = t.joined(t.shifted(outer, block), t.constant(rest), count)
        inside = e.between(ix, 0, v.size(op.axis))
        return e.select(inside, lambda: e.wide(e.at(v.args[0], {**where, op.axis: ix})), lambda: literal_of(v))

    def joined(tiles: Sequence[Tile]) -> Tile:
        return reduce(lambda x, y: e.w.map(FORMS[JOINED[op.fn]], x, y, kind=v.kind), tiles)

    sign, first = (1, op.exclusive) if op.reverse else (-1, op.exclusive)
    state = e.state()
    try:
        return running(e, v, joined([each(inner + sign * i) for i in range(first, first + count)]), outer.plain)
    except Cut:
        e.restore(state)
    if not 0 <= inner < count:
        raise Cut(v, "is cumulated along an axis of which a part is asked for")
    entries = [each(i) for i in range(count)]
    sums = running(e, v, joined(entries), outer.plain)
    by = 1 if op.reverse else -1
    inside = e.between(t.shifted(outer, by), 0, -(-v.size(op.axis) // count))
    assert isinstance(inside, Tile)
    before = e.w.map("tl.where({}, {}, {})", inside, gathered(e, sums, outer.plain, by), literal_of(v), kind=v.kind)
    own = entries[inner + op.exclusive :] if op.reverse else entries[: inner + 1 - op.exclusive]
    return joined([before, *own])


def _at_every(ix: Index) -> tuple[Index, int, int] | None:
    """(outer, inner, count), where ix is outer · count + inner with a whole dimension as outer."""
    if ix.parts is None or not ix.parts[1].tile.literal:
        return None
    outer, inner, count = ix.parts
    outer, blocks = outer.origin or (outer, 0)
    return None if outer.plain is None else (outer, blocks * count + inner.low, count)


def _up_to(e: Evaluator, v: Value, where: Where, ix: Index) -> Tile:
    """One entry of what is cumulated: the sum (product, largest) of those up to it."""
    assert isinstance(v.op, p.Cumulate)
    op = v.op
    dim = fresh(t.word(op.axis), padded(v.size(op.axis), 2), where)
    place = t.counting(dim)
    compare = (">" if op.reverse else "<") + ("" if op.exclusive else "=")
    inside = Tile(f"({place.text} {compare} {ix.text})", (dim,), "bool", ix.tile.depth)
    x = e.masked(e.at(v.args[0], {**where, op.axis: place}), place, v.size(op.axis), neutral_of(v))
    x = e.w.map("tl.where({}, {}, {})", inside, e.typed(x, x), literal_of(v), kind=v.kind)
    return summed(e, x, dim, op.fn)


def _ordered(e: Evaluator, v: Value, where: Where, dim: Dim, n: int) -> Tile:
    """Cumulated along a dimension, in blocks of n if it is longer.

    With `exclusive`, the entries one place on are cumulated if they can be read there, else the sums are moved.
    """
    assert isinstance(v.op, p.Cumulate)
    op = v.op
    blocked = where[op.axis].plain is None

    def run(x: Tile) -> Tile:
        return _in_blocks(e, v, x, dim, n) if blocked else running(e, v, x, dim)

    if not op.exclusive:
        return run(cumulated(e, v, where, n))
    state = e.state()
    try:
        return run(cumulated(e, v, where, n))
    except Cut:
        e.restore(state)
    ix = where[op.axis]
    x = run(e.masked(e.at(v.args[0], where), ix, n, neutral_of(v)))
    by = 1 if op.reverse else -1
    inside = e.between(t.shifted(ix, by), 0, n)
    assert isinstance(inside, Tile)
    moved = gathered(e, x, dim, by)
    return e.w.map("tl.where({}, {}, {})", inside, moved, literal_of(v), kind=v.kind)


def _in_blocks(e: Evaluator, v: Value, x: Tile, dim: Dim, n: int) -> Tile:
    """Cumulated inside every n entries along a dimension."""
    assert isinstance(v.op, p.Cumulate)
    x = whole(e, x, tuple(sorted({*x.dims, dim})))
    i = x.dims.index(dim)
    sizes = [d.size for d in x.dims]
    blocks = f"tl.reshape({x.text}, {[*sizes[:i], dim.size // n, n, *sizes[i + 1 :]]})"
    cumulated = CUMULATE[v.op.fn][0].format(x=blocks, i=i + 1, reverse=v.op.reverse)
    return e.w.let("b_cum", f"tl.reshape({cumulated}, {sizes})", x.dims, depth=x.depth, kind=v.kind)


def literal_of(v: Value) -> Tile:
    return Tile(neutral_of(v), literal=True, kind=v.kind)


def cumulated(e: Evaluator, v: Value, where: Where, n: int) -> Tile:
    """What is cumulated: the argument, or with `exclusive` the entry before (after)."""
    op = v.op
    assert isinstance(op, p.Cumulate)
    ix = where[op.axis]
    neutral = neutral_of(v)
    if not op.exclusive:
        return e.masked(e.at(v.args[0], where), ix, n, neutral)
    earlier = t.shifted(ix, 1 if op.reverse else -1)
    inside = e.between(earlier, 0, n)
    return e.select(inside, lambda: e.wide(e.at(v.args[0], {**where, op.axis: earlier})), lambda: literal_of(v))


def running(e: Evaluator, v: Value, x: Tile, dim: Dim) -> Tile:
    op = v.op
    assert isinstance(op, p.Cumulate)
    x = whole(e, x, tuple(sorted({*x.dims, dim})))
    form = CUMULATE[op.fn][0]
    text = form.format(x=x.text, i=x.dims.index(dim), reverse=op.reverse)
    return e.w.let("b_cum", text, x.dims, depth=x.depth, kind=v.kind)


CUMULATIONS: dict[type, Rule] = {p.Cumulate: _cumulate}
