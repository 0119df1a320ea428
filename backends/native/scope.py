"""What a loop nest is written with: where values lie, new names, and which axes are shared out already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.native.index import Cut, Index, Variable
from backends.native.memory import Store
from backends.native.nest import Axes, Nest, Term, axes
from backends.native.reader import Reader, Where
from lowering.program import Value

Cuts = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Scope:
    """What a nest is written with.

    where   where values lie              share   whether threads may share the work
    first   where axes start that are shared out already, and in `sizes` how many entries of them are left
    lane    the axis along which the arrays of a piece lie side by side, if there is one
    """

    where: Mapping[Value, Where]
    fresh: Callable[..., str]
    share: bool
    first: Mapping[str, Index]
    sizes: Mapping[str, int]
    lane: str | None = None

    def extent(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return {a: self.sizes.get(a, n) for a, n in sizes.items()}

    def written(
        self, sizes: Mapping[str, int], build: Callable[[Axes], list[str]], cuts: Cuts | None = None
    ) -> list[str]:
        """The text that `build` gives; loops are cut for as long as an index asks for it."""
        cuts = dict(cuts or {})
        while True:
            made = axes(self.extent(sizes), cuts, self.first)
            try:
                return build(made)
            except Cut as wanted:
                cuts = made.cut(wanted.text, wanted.inner)

    def reader(self, nest: Nest) -> Reader:
        return Reader(self.where, nest, self.fresh)


def variables(made: Axes, names: tuple[str, ...]) -> list[Variable]:
    return [v for a in names for v in made.loops[a]]


def put(reader: Reader, store: Store, made: Axes, term: Term) -> None:
    """The statement that stores a term, innermost."""
    address = store.address(made.at)
    reader.places.append(address)
    reader.nest.inside.append(f"{store.pointer}[{address}] = {store.written(term.text)};")


def side_by_side(made: Axes, order: tuple[str, ...], places: list[Index]) -> tuple[str, ...]:
    """The axes with that one innermost along which most of what is read and written lies side by side."""

    def apart(axis: str) -> int:
        steps = [dict(place.terms).get(made.loops[axis][-1], 0) for place in places]
        return sum(step not in (0, 1) for step in steps)

    long = [a for a in order if made.loops[a] and made.loops[a][-1].size >= 8]
    if not long:
        return order
    best = min(reversed(long), key=apart)
    return (*(a for a in order if a != best), best)
