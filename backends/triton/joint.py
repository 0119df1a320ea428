"""Sums of products of matrices over one axis: one loop over its blocks for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from backends.triton import tile as t
from backends.triton.complexes import zero
from backends.triton.entries import mapped
from backends.triton.evaluate import Evaluator, Where, meaning
from backends.triton.products import LEAST, product, whole
from backends.triton.sums import Range, accumulated, most_at_once
from backends.triton.tile import Tile
from lowering import program as p
from lowering.program import Value


def map_or_sum(e: Evaluator, v: Value, where: Where) -> Tile:
    """A function entry by entry; Σ_j mask_j · (x_j y_j) as one loop, where each product would be one of its own."""
    assert isinstance(v.op, p.Map)
    if v.op.fn == "add" and v.kind == "real" and not e.summing:
        terms = list(_terms(v))
        leaves = [_product(e, x) for x in terms]
        looped = next((c for c in leaves if c is not None and _long(e, c)), None)
        if looped is not None:
            return _jointly(e, v, terms, leaves, looped, where)
    return mapped(e, v, where)


def _terms(v: Value) -> Iterator[Value]:
    if isinstance(v.op, p.Map) and v.op.fn == "add" and v.kind == "real":
        for x in v.args:
            yield from _terms(x)
    else:
        yield v


def _product(e: Evaluator, v: Value) -> Value | None:
    """The contraction that v is, perhaps behind masks."""
    if v in e.buffers or v.kind != "real":
        return None
    if isinstance(v.op, p.Contract):
        return v
    if isinstance(v.op, p.Map) and v.op.fn == "where" and zero(v.args[2]):
        return _product(e, v.args[1])
    return _product(e, v.args[0]) if isinstance(v.op, p.Expand | p.Order) else None


def _long(e: Evaluator, v: Value) -> bool:
    assert isinstance(v.op, p.Contract)
    return prod(v.args[0].size(a) for a in v.op.over) > most_at_once(e, v)


def _jointly(
    e: Evaluator, v: Value, terms: list[Value], leaves: list[Value | None], looped: Value, where: Where
) -> Tile:
    """The loop over the blocks of what `looped` sums, with all terms that sum the same; the other terms after it."""
    assert isinstance(looped.op, p.Contract)
    over = looped.op.over
    sizes = {a: looped.args[0].size(a) for a in over}
    single = {a: t.constant(0) for a, n in sizes.items() if n == 1}
    together = [
        x
        for x, c in zip(terms, leaves, strict=True)
        if c is not None and isinstance(c.op, p.Contract) and c.op.over == over
    ]
    r = Range(e, looped, sizes, where, most_at_once(e, looped), LEAST)
    dims = tuple(sorted({d for a in v.axes for d in where[a].dims}))

    def part(x: Value) -> Tile:
        with e.w.about(*meaning(x)):
            return made_of(x)

    def made_of(x: Value) -> Tile:
        if isinstance(x.op, p.Contract):
            here = {**where, **single, **r.places}
            left, right = (r.masked(e.at(y, here)) for y in x.args)
            return product(e, left, right, r.dim, "real")
        if isinstance(x.op, p.Map):
            zero = Tile("0.0", literal=True)
            return e.w.map("tl.where({}, {}, {})", e.at(x.args[0], where), part(x.args[1]), zero)
        return part(x.args[0])

    def term() -> Tile:
        total = part(together[0])
        for x in together[1:]:
            total = e.w.map("{} + {}", total, part(x))
        return whole(e, total, dims)

    made = accumulated(e, r, v, term, "{} + {}", "0")
    for x in terms:
        if x not in together:
            made = e.w.map("{} + {}", made, e.at(x, where))
    return made
