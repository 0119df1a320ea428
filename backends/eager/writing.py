"""Where the eager backend writes results: over an argument that nobody reads again, or where a loop wants them.

Fresh memory is dear on a processor: the system clears it page by page, and it pushes what is needed out of the cache.
So a function entry by entry takes the place of an argument that it is the last to read, a product of matrices that is
added to something is added where that lies, and a loop's step writes its results among those of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from backends.eager.entries import written
from backends.eager.products import Product
from backends.eager.setting import Setting
from backends.plan import Call
from lowering import program as p
from lowering.program import Program, Value

OVER = frozenset(
    ("add", "sub", "mul", "div", "neg", "exp", "log", "log1p", "expm1", "sqrt", "tanh", "sin", "cos", "where")
)
"""functions that may write over an argument of the same kind, and whose result is memory of its own"""


@dataclass(frozen=True)
class Place:
    """A place among those given with a call; `plain` if an array's entries lie there in order and side by side."""

    index: int
    plain: bool


@dataclass
class Writing:
    """What the values of a program are written into.

    into     an argument, which is not read afterwards, or a place
    summed   sums whose second term is a product of matrices that is added to the first at once
    apart    those products: their factors are handed on as they are
    """

    into: dict[Value, Value | int] = field(default_factory=dict)
    summed: dict[Value, Product] = field(default_factory=dict)
    apart: set[Value] = field(default_factory=set)

    @classmethod
    def of(cls, program: Program, setting: Setting, known: Collection[Value], wanted: Mapping[Value, Place]) -> Writing:
        """For one setting; nothing where autograd looks on, or of values that are `known` before the call."""
        made, places = cls(), dict(wanted)
        if setting.recorded:
            return made
        used = Counter([*program.outputs, *(a for v in program.order for a in v.args)])
        own = {v for v in program.order if used[v] == 1 and v not in known and _fresh(v)}
        for v in reversed(program.order):
            if v not in known and v.differentiable:
                made._choose(v, own, places)
        return made

    def _choose(self, v: Value, own: set[Value], places: dict[Value, Place]) -> None:
        place = places.get(v)
        if isinstance(v.op, p.Contract) and v not in self.apart:
            product = Product.of(v)
            if place is not None and place.plain and product is not None and product.permutation is None:
                self.into[v] = place.index
        elif isinstance(v.op, p.Map):
            alike = [a for a in v.args if a.axes == v.axes and a.kind == v.kind]
            free = [a for a in alike if a in own]
            if v.op.fn == "add" and len(alike) == 2 and (factors := _product(free)) is not None:
                self._sum(v, factors, free, place, places)
            elif v.op.fn in OVER and place is not None:
                self.into[v] = place.index
            elif v.op.fn in OVER and free:
                self.into[v] = free[0]

    def _sum(self, v: Value, made: Value, free: list[Value], place: Place | None, places: dict[Value, Place]) -> None:
        """The sum of something and a product of matrices, where the something lies if that is free."""
        product = Product.of(made)
        assert product is not None
        self.summed[v] = product
        self.apart.add(made)
        other = v.args[0] if v.args[1] is made else v.args[1]
        plain = place is not None and place.plain
        if other in free:
            self.into[v] = other
            if plain and place is not None:
                places[other] = place
        elif plain and place is not None:
            self.into[v] = place.index

    def spelled(self, v: Value, setting: Setting) -> Call | None:
        """A value that is written into something or takes part in a sum; None: as ever."""
        if v in self.apart:
            return lambda *factors: factors
        if v in self.summed:
            added = self.summed[v].added()
            if v.args[1] in self.apart:
                return added
            return lambda factors, z, *out: added(z, factors, *out)
        if v not in self.into:
            return None
        product = Product.of(v)
        return written(v, setting) if product is None else product.into()


def _product(values: list[Value]) -> Value | None:
    """The last that is a product of matrices whose axes are wanted as they come."""
    for v in reversed(values):
        product = Product.of(v)
        if product is not None and product.permutation is None:
            return v
    return None


def _fresh(v: Value) -> bool:
    """Whether v is computed into memory of its own."""
    return v.differentiable and (isinstance(v.op, p.Contract) or (isinstance(v.op, p.Map) and v.op.fn in OVER))
