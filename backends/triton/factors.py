"""Products on the way to a value, and which of their factors are put in memory where it is not computed in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from backends.triton.chains import bare
from backends.triton.evaluate import Buffer, computed
from lowering import program as p
from lowering.program import Value


def products(v: Value, known: Mapping[Value, Buffer]) -> Iterator[Value]:
    """The products that are computed in place on the way to v, v among them."""
    return (x for x in computed(v, known) if isinstance(x.op, p.Contract))


def multiplies(v: Value, known: Mapping[Value, Buffer]) -> bool:
    return any(True for _ in products(v, known))


def condenses(v: Value, known: Mapping[Value, Buffer]) -> bool:
    """Whether v is made by products of what takes at least four times the room of v."""
    read = {a for x in computed(v, known) for a in x.args if a in known}
    return multiplies(v, known) and sum(prod(x.shape) for x in read) >= 4 * prod(v.shape)


def factor(v: Value, known: Mapping[Value, Buffer]) -> Value:
    """A factor of a product on the way to v that is made of one itself and has fewer entries than v; else v."""
    made = (u for y in products(v, known) for u in _made(y, known))
    return min((v, *(bare(u) for u in made)), key=lambda u: prod(u.shape))


def between(v: Value, known: Mapping[Value, Buffer]) -> Value | None:
    """A factor of a product on the way to v that is made of products itself, but of none with such a factor."""
    found: Value | None = None
    deeper: Value | None = v
    while deeper is not None:
        made = (u for y in products(deeper, known) for u in _made(y, known))
        deeper = next((u for u in made if u is not deeper), None)
        found = deeper or found
    return found


def drive(v: Value, known: Mapping[Value, Buffer]) -> Value:
    """The one product on the way to what a loop over blocks reads, before time is cut; v if there are others."""
    made = [*products(v, known)]
    return bare(made[0]) if len(made) == 1 else v


def _made(y: Value, known: Mapping[Value, Buffer]) -> Iterator[Value]:
    """The factors of a product that are made of products in place."""
    return (u for u in y.args if u not in known and multiplies(u, known))
