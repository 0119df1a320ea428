"""Products on the way to a value, and which of their factors are put in memory where it is not computed in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from backends.triton.chains import bare, repeated
from backends.triton.evaluate import Buffer, computed
from backends.triton.narrow import multiplies as matrices
from backends.triton.roots import demands, tiled
from lowering import program as p
from lowering.program import Value

LITTLE = 16
"""how many times smaller than what a loop stores a value is that is in memory before it"""


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


def stepwise(v: Value, order: Sequence[Value], known: Mapping[Value, Buffer]) -> Value | None:
    """The smallest value on the way to a scan that products of matrices along its steps make: for all at once.

    Of values alike the last, so that nothing is summed in the scan, which then goes by blocks of steps.
    """
    assert isinstance(v.op, p.AffineScan)
    axis = v.op.axis
    if not tiled(axis, demands(v.args, known)):
        return None
    inside = {x for a in v.args for x in computed(a, known) if axis in x.axes}
    made = [x for x in order if x in inside and tiled(axis, demands([x], known))]
    return min(reversed(made), key=lambda x: prod(x.shape), default=None)


def little(v: Value, grid: Mapping[str, int], known: Mapping[Value, Buffer]) -> Value | None:
    """What every program of a loop would compute again by products of matrices, if it is little: as a normaliser is.

    Of the values that take all these products, the smallest.
    """
    for u, _, _ in repeated(v, grid, known):
        whole = {*products(u, known)}
        if any(map(matrices, whole)):
            made = (x for x in computed(u, known) if isinstance(x.op, p.Map) and whole == {*products(x, known)})
            x = min((u, *made), key=lambda x: prod(x.shape))
            if LITTLE * prod(x.shape) <= prod(v.shape):
                return x
    return None


def _made(y: Value, known: Mapping[Value, Buffer]) -> Iterator[Value]:
    """The factors of a product that are made of products in place."""
    return (u for u in y.args if u not in known and multiplies(u, known))
