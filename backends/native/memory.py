"""Where arrays lie: in an argument of the call, or in the arena, whose places are given out again after use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

from backends.native.index import Index
from mixer_ir.nodes.functions import Kind

ALIGNED = 64


def strides_of(sizes: Mapping[str, int]) -> dict[str, int]:
    """Row-major strides in entries."""
    strides, step = {}, 1
    for axis, n in reversed(list(sizes.items())):
        strides[axis] = step
        step *= n
    return {a: strides[a] for a in sizes}


@dataclass(frozen=True, slots=True)
class Store:
    """An array in memory: entry `at` lies at pointer[base + Σ stride · (at − origin)].

    narrow   the format of real numbers that take two bytes there: bfloat16 or float16
    """

    pointer: str
    kind: Kind
    strides: Mapping[str, int]
    base: Index = field(default_factory=Index)
    origin: Mapping[str, Index] = field(default_factory=dict)
    narrow: str = ""

    def address(self, at: Mapping[str, Index]) -> Index:
        total = self.base
        for axis, stride in self.strides.items():
            place = at[axis] - self.origin[axis] if axis in self.origin else at[axis]
            total = total + place * stride
        return total

    def written(self, text: str) -> str:
        """A number as it lies there."""
        return f"to_{self.narrow}({text})" if self.narrow else text

    def read(self, text: str) -> str:
        """What lies there as a number."""
        return f"from_{self.narrow}({text})" if self.narrow else text

    def at(self, axis: str, index: Index) -> Store:
        """The part at one place of an axis, which is dropped."""
        rest = {a: n for a, n in self.strides.items() if a != axis}
        return replace(self, strides=rest, base=self.base + index * self.strides[axis])

    def shifted(self, axis: str, by: int) -> Store:
        """The same array entered `by` places later along an axis."""
        return replace(self, base=self.base + Index((), by * self.strides[axis]))


class Arena:
    """Places by offset and size in bytes; the first gap that is large enough is taken."""

    def __init__(self, name: str) -> None:
        self.name, self.peak = name, 0
        self._held: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        size = -(-max(size, 1) // ALIGNED) * ALIGNED
        at = 0
        for i, (start, held) in enumerate(self._held):
            if start - at >= size:
                self._held.insert(i, (at, size))
                return at
            at = start + held
        self._held.append((at, size))
        self.peak = max(self.peak, at + size)
        return at

    def give(self, at: int) -> None:
        self._held = [place for place in self._held if place[0] != at]


def entries(sizes: Mapping[str, int]) -> int:
    return prod(sizes.values())
