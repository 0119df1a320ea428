"""Chains of products of matrices: what a chain sums over, step by step, has to lie in one tile; where to cut it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import TypeAlias

from backends.triton.evaluate import Buffer, computed
from backends.triton.products import LEAST
from lowering import program as p
from lowering.fused import fixed
from lowering.program import Value

APART = p.Solve | p.Scan | p.AffineScan | p.Pick | p.Transform
"""what is in memory in any case"""


def transforms(v: Value, known: Mapping[Value, Buffer]) -> bool:
    """Whether a product with a matrix of numbers is taken in place on the way to v."""
    products = (x for x in computed(v, known) if isinstance(x.op, p.Contract))
    return any(fixed(a) and _varied(a) for x in products for a in x.args)


@lru_cache(maxsize=1 << 14)
def _varied(v: Value) -> bool:
    """Whether a value that hangs on no input has different entries: a product with ones is a plain sum."""
    return isinstance(v.op, p.Iota) or any(map(_varied, v.args))


def companions(v: Value, roots: Iterable[Value], known: Mapping[Value, Buffer]) -> list[Value]:
    """Other sums on the way to a kernel's results that run over the same entries, of what shares products with v."""
    seen = dict.fromkeys(x for root in roots for x in (root, *(y for a in root.args for y in computed(a, known))))
    alike = [x for x in seen if x is not v and _sum(x) == _sum(v)]
    own, found = _products(v, known), dict[Value, None]()
    while more := [x for x in alike if x not in found and x not in own and not own.isdisjoint(_products(x, known))]:
        found |= dict.fromkeys(more)
        own = own.union(*(_products(x, known) for x in more))
    return [x for x in found if x not in own]


def _sum(v: Value) -> object:
    """What a contraction runs over, and what it leaves."""
    return isinstance(v.op, p.Contract) and (v.op.over, v.sizes, [v.args[0].size(a) for a in v.op.over])


def _products(v: Value, known: Mapping[Value, Buffer]) -> set[Value]:
    return {x for a in v.args for x in computed(a, known) if isinstance(x.op, p.Contract)}


Digits: TypeAlias = tuple[tuple[int, int], ...]
"""(count, step) of parts of an axis: what splitting it leaves of it"""


def overlong(v: Value, known: Mapping[Value, Buffer], most: int) -> Value | None:
    """The factor to put in memory where a chain of products on the way to v needs a tile of more than `most` entries.

    The chains are those of transforms: products with matrices of numbers. Of products of what is computed, the last is
    summed in blocks, and its factors are computed block by block.

    A product's tile spans whatever is summed over later on the way to v, of either side, and else as much of that side
    as tensor cores take. The cut is after as many products, counted from v, as leave room for more of what they do
    not sum over.
    """
    return None if _longer(v, known, most) is None else _longer(v, known, most // 3)


def _longer(v: Value, known: Mapping[Value, Buffer], most: int) -> Value | None:
    """The factor of the product from which on, counted from v, the tile is more than `most` entries."""
    seen: set[tuple[Value, frozenset[tuple[str, Digits]]]] = set()
    todo: list[tuple[Value, dict[str, Digits], Value | None]] = [(v, {}, None)]
    while todo:
        x, summed, factor = todo.pop()
        key = x, frozenset(summed.items())
        if key in seen or (x in known and x is not v) or isinstance(x.op, APART):
            continue
        seen.add(key)
        if isinstance(x.op, p.Contract):
            left, right = x.args
            if not (fixed(left) or fixed(right)):
                todo += [(u, {}, None) for u in x.args]
                continue
            if factor is not None and _spanned(left, right, summed) * _spanned(right, left, summed) > most:
                return bare(factor)
            later = {a: digits for a, digits in summed.items() if a in x.axes}
            todo += [(u, later | {a: ((u.size(a), 1),) for a in x.op.over}, u) for u in x.args]
        else:
            todo += [(a, _before(x, summed), factor) for a in x.args]
    return None


def _before(x: Value, summed: dict[str, Digits]) -> dict[str, Digits]:
    """What is summed over later, along the axes that x's arguments have."""
    left = {a: digits for a, digits in summed.items() if a in x.axes}
    match x.op:
        case p.Rename(old=old, new=new) if new in left:
            left[old] = left.pop(new)
        case p.Split(axis=axis, outer=outer, inner=inner):
            steps = x.size(inner)
            far = tuple((n, step * steps) for n, step in left.pop(outer, ()))
            left[axis] = far + left.pop(inner, ())
        case p.Merge(axis=axis, outer=outer, inner=inner):
            size = x.args[0].size(inner)
            digits = left.pop(axis, ())
            far = tuple((n * step // size, 1) if step < size else (n, step // size) for n, step in digits)
            left[outer] = tuple(d for d in far if d[0] > 1)
            left[inner] = tuple((min(n, size // step), step) for n, step in digits if step < size)
    return left


def _spanned(x: Value, y: Value, summed: dict[str, Digits]) -> int:
    """The entries that a tile of the product x y spans along what only x has."""
    alone = {a: n for a, n in x.sizes.items() if a not in y.axes}
    later = [n for a in alone for n, _ in summed.get(a, ())]
    return prod(later) if later else min(LEAST, max(alone.values(), default=1))


def repeated(v: Value, grid: Mapping[str, int], known: Mapping[Value, Buffer]) -> Iterator[tuple[Value, int, bool]]:
    """What is computed in place on the way to v though it lacks an axis that programs lie along: each does it again.

    Also how many programs do, and whether there is one for each place of such an axis.
    grid   programs along axes of v, or of what v is made of, by name
    """
    seen: set[Value] = set()
    todo: list[tuple[Value, dict[str, int]]] = [(v, {})]
    while todo:
        x, programs = todo.pop()
        programs = programs | {a: grid[a] for a, n in x.sizes.items() if min(grid.get(a, 0), n) > 1}
        parts = {a: _parts(x, a, n) for a, n in programs.items()}
        for u in x.args:
            if u in seen or u in known or not u.shape:
                continue
            seen.add(u)
            if lacks := [a for a, of in parts.items() if not of.keys() <= {*u.axes}]:
                yield u, prod(programs[a] for a in lacks), any(programs[a] >= x.size(a) for a in lacks)
            else:
                todo.append((u, {a: n for of in parts.values() for a, n in of.items()}))


def _parts(x: Value, axis: str, programs: int) -> dict[str, int]:
    """The names under which x's arguments have an axis, or all parts of it, with the programs along each."""
    match x.op:
        case p.Rename(old=old, new=new) if axis == new:
            return {old: programs}
        case p.Split(axis=whole, outer=outer, inner=inner) if axis in (outer, inner):
            return {whole: programs}
        case p.Merge(axis=whole, outer=outer, inner=inner) if axis == whole:
            slow = min(programs, x.args[0].size(outer))
            return {outer: slow, inner: programs // slow}
    return {axis: programs}


def bare(v: Value) -> Value:
    """v without its sign and before its axes are renamed, split or merged: stored so, it is tiled as it is computed."""
    while isinstance(v.op, p.Rename | p.Order | p.Split | p.Merge) or (isinstance(v.op, p.Map) and v.op.fn == "neg"):
        v = v.args[0]
    return v


def unmasked(v: Value) -> Value:
    """v as `bare` has it, and before what stands beside it is chosen by numbers: masks, signs."""
    while True:
        v = bare(v)
        if not (isinstance(v.op, p.Map) and v.op.fn == "where" and fixed(v.args[0])):
            return v
        given = [a for a in v.args[1:] if not fixed(a)]
        if len(given) != 1:
            return v
        v = given[0]
