"""Which sums on the way to a kernel's results another kernel is to take, so that each takes about half of the products.

A compiler holds addresses, masks and what it computes once for as long as products need them, so a kernel of very many
products spills however small its tiles are. Two kernels, each with half of them, may not: the first stores some sums,
the second reads them and computes the results. Of all ways to share the products, that with the fewest entries passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from math import prod

from backends.triton.evaluate import Buffer, computed, reached
from lowering import program as p
from lowering.program import Value

SHARE = 0.6
"""of all products, what either half may take"""
WIDER = 2 / 3
"""the same where the sums are larger than the results"""
LEAST = 8
"""products of which one sum is worth being stored: an eighth of all"""


def halves(roots: Sequence[Value], known: Mapping[Value, Buffer], order: Sequence[Value]) -> tuple[Value, ...]:
    """One or two sums on the way to `roots` to be in memory; none if nothing shares the products.

    They are no larger than the results. Where none of those do, they may be as large as what is read: small results
    come from large sums.
    """
    inputs = reached([a for r in roots for a in r.args], known)
    small, large = (max(prod(v.shape) for v in of) for of in (roots, [*roots, *(b.value for b in inputs)]))
    return _halves(roots, known, order, SHARE, small) or _halves(roots, known, order, WIDER, large)


def _halves(
    roots: Sequence[Value], known: Mapping[Value, Buffer], order: Sequence[Value], share: float, room: int
) -> tuple[Value, ...]:
    """See `halves`: sums of so many entries at most, and what either half may take."""
    whole = {*_products(roots, known)}
    most = share * len(whole)
    found = _sums(roots, known, order, len(whole), room)
    options = [(x,) for x in found] + [(x, y) for x, y in combinations(found, 2) if found[x].isdisjoint(found[y])]
    best: tuple[int, tuple[Value, ...]] | None = None
    for chosen in options:
        if not len(whole) - most <= len(set().union(*(found[x] for x in chosen))) <= most:
            continue
        left = {**known, **{x: Buffer("", x) for x in chosen}}
        if sum(1 for _ in _products(roots, left)) > most:
            continue
        passed = 2 * _entries(chosen) + _read(chosen, known) + _read([a for r in roots for a in r.args], left)
        if best is None or passed < best[0]:
            best = passed, chosen
    return () if best is None else best[1]


def _sums(
    roots: Sequence[Value], known: Mapping[Value, Buffer], order: Sequence[Value], total: int, room: int
) -> dict[Value, frozenset[Value]]:
    """Sums of at most `room` entries, with their products; of those of the same products what most results read."""
    ways = [{x for a in r.args for x in computed(a, known)} for r in roots]
    best: dict[frozenset[Value], tuple[int, Value]] = {}
    for x in order:
        users = sum(x in way for way in ways)
        if users and isinstance(x.op, p.Map) and x.op.fn == "add" and prod(x.shape) <= room:
            made = frozenset(_products([x], known, whole=True))
            if LEAST * len(made) >= total and (made not in best or users >= best[made][0]):
                best[made] = users, x
    return {x: made for made, (_, x) in best.items()}


def _products(values: Iterable[Value], known: Mapping[Value, Buffer], *, whole: bool = False) -> Iterator[Value]:
    """The products computed in place on the way to values; `whole`: with the values themselves in place."""
    seen = {x for v in values for a in ((v,) if whole else v.args) for x in computed(a, known)}
    return (x for x in seen if isinstance(x.op, p.Contract))


def _read(values: Iterable[Value], known: Mapping[Value, Buffer]) -> int:
    return _entries(b.value for b in reached(values, known))


def _entries(values: Iterable[Value]) -> int:
    return sum(prod(v.shape) for v in values)
