"""Loop nests for every operation that is not a view: entry-by-entry work, sums, cumulations, scans, solves, transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from backends.native.index import Cut, Index
from backends.native.memory import Store
from backends.native.nest import Axes, Loop, Nest, Term, axes
from backends.native.products import product
from backends.native.reader import At, Reader, Where, address
from backends.native.spelling import NEUTRAL, TYPES, combined
from lowering import program as p
from lowering.program import Value

TILE = 512
"""the most sums that are held at once"""


@dataclass(frozen=True)
class Scope:
    """What a nest is written with: where values lie, new names, and whether threads may share the work."""

    where: Mapping[Value, Where]
    fresh: Callable[..., str]
    share: bool
    first: Mapping[str, Index]
    """where axes start that are shared out already"""
    sizes: Mapping[str, int]
    """how many entries of them are left"""

    def extent(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return {a: self.sizes.get(a, n) for a, n in sizes.items()}

    def axes(self, sizes: Mapping[str, int], cuts: Mapping[str, tuple[int, ...]]) -> Axes:
        return axes(self.extent(sizes), cuts, self.first)


def uncut(
    build: Callable[[Mapping[str, tuple[int, ...]]], tuple[list[str], Axes | None]],
    cuts: Mapping[str, tuple[int, ...]] | None = None,
) -> list[str]:
    """The text, loops being cut for as long as an index asks for it."""
    cuts = dict(cuts or {})
    while True:
        trial = Trial()
        try:
            return build(cuts, trial)
        except Cut as wanted:
            assert trial.axes is not None
            cuts = trial.axes.cut(wanted.text, wanted.inner)


@dataclass
class Trial:
    """The axes of the nest that is being written."""

    axes: Axes | None = None
