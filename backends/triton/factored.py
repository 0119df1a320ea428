"""Decays apart from what products of matrices read twice: x, not x d, is the factor, and d goes where it can.

A program has all entries along what a step sums over, and shares the others. So decays that stand on keys or queries
beside these themselves go to values, or behind the product: then one tile is the factor of both products.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TypeAlias

from lowering import program as p
from lowering.build import Builder
from lowering.program import Value

Decayed: TypeAlias = Mapping[Value, tuple[Value, Value]]
"""x d -> x, d"""


def decayed(v: Value, given: Mapping[Value, None], order: list[Value]) -> tuple[Value, Value] | None:
    """(x, d) if v is x d, d has fewer entries, x is given too, and all that reads v are products of matrices."""
    readers = [u for u in order if v in u.args]
    if not isinstance(v.op, p.Map) or v.op.fn != "mul" or not all(isinstance(u.op, p.Contract) for u in readers):
        return None
    d, x = sorted(v.args, key=lambda a: prod(a.shape))
    return (x, d) if readers and x in given and prod(d.shape) < prod(x.shape) else None


def apart(b: Builder, v: Value, of: Decayed, here: Mapping[Value, Value]) -> Value:
    """A product of matrices with the decays of each factor behind it, on the other factor, or where they were."""
    assert isinstance(v.op, p.Contract)
    sides = [here[of[a][0] if a in of else a] for a in v.args]
    behind = []
    for i, a in enumerate(v.args):
        if a in of:
            d = here[of[a][1]]
            if {*d.axes}.isdisjoint(v.op.over):
                behind.append(d)
            else:
                at = 1 - i if {*d.axes} <= {*sides[1 - i].axes} else i
                sides[at] = b.mul(sides[at], d)
    return b.mul(b.contract(sides[0], sides[1], v.op.over), *behind)
