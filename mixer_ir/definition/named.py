"""Arrays with named axes, whatever their entries are: what definitions are written in.

Two kinds of entries: numbers that autograd follows (tensors.py), and formulas (trust/cells.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, Self, TypeVar

from mixer_ir.nodes.expr import TIME, Axes, Number, union, without
from mixer_ir.nodes.functions import FUNCTIONS

A = TypeVar("A", bound="Array")


@dataclass(frozen=True)
class Array(ABC):
    """Entries along named axes."""

    axes: Axes
    data: Any

    @cached_property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.axes, self.data.shape, strict=True))

    def aligned(self, axes: Axes) -> Any:
        """The entries laid out as `axes`, which hold all of its own; of size 1 along those that it lacks."""
        if axes == self.axes:
            return self.data
        own = [self.axes.index(a) for a in axes if a in self.axes]
        if len(own) != len(self.axes):
            raise AssertionError(f"axes {self.axes} do not fit in {axes}")
        return self.permuted(own)[(*(slice(None) if a in self.axes else None for a in axes), ...)]

    def to(self, axes: Axes, sizes: Mapping[str, int]) -> Any:
        """The entries laid out as `axes`, repeated to `sizes` along those that it lacks."""
        return self.repeated(self.aligned(axes), [self.sizes.get(a, sizes.get(a, 1)) for a in axes])

    def spread(self, sizes: Mapping[str, int]) -> Self:
        """The array with all the axes of `sizes`, repeated along those that it lacks."""
        axes = union(self.axes, tuple(sizes))
        return type(self)(axes, self.to(axes, sizes))

    def at(self, axis: str, i: int) -> Self:
        """Entry i along `axis`; the array itself if it lacks that axis."""
        if axis not in self.axes:
            return self
        before = (slice(None),) * self.axes.index(axis)
        return type(self)(without(self.axes, (axis,)), self.data[(*before, i, ...)])

    def named(self, old: str, new: str) -> Self:
        """Axis `old` called `new`, if there is one."""
        return type(self)(tuple(new if a == old else a for a in self.axes), self.data)

    def merged(self, axes: Axes, new: str) -> Self:
        """The given axes as one, `new`, the last of them fastest."""
        rest = without(self.axes, axes)
        data = self.aligned((*rest, *axes))
        return type(self)((*rest, new), data.reshape([*data.shape[: len(rest)], -1]))

    # ------------------------------------------------------------------ what a kind of entries says

    @classmethod
    @abstractmethod
    def number(cls, value: Any) -> Self:
        """One entry, without axes."""

    @classmethod
    @abstractmethod
    def places(cls, axis: str, n: int) -> Self:
        """0 … n − 1 along `axis`."""

    @classmethod
    @abstractmethod
    def computed(cls, fn: str, data: Sequence[Any]) -> Any:
        """A primitive function of mixer_ir.nodes.functions, entry by entry, on data that broadcast."""

    @classmethod
    @abstractmethod
    def stacked(cls, data: Sequence[Any]) -> Any:
        """Data of one shape along a new last dimension."""

    @staticmethod
    @abstractmethod
    def repeated(data: Any, shape: Sequence[int]) -> Any:
        """Data broadcast to a shape."""

    @abstractmethod
    def permuted(self, order: Sequence[int]) -> Any:
        """The data with its dimensions in another order."""

    @abstractmethod
    def flip(self, *axes: str) -> Self:
        """Reversed along those of `axes` that it has."""

    @abstractmethod
    def folded(self, fn: str, over: Axes) -> Self:
        """The sum, max or min of all entries along those axes of `over` that it has."""

    @abstractmethod
    def picked(self, axis: str, index: Self) -> Self:
        """The entries at `index` along `axis`; other axes that both have are matched entry by entry."""

    @abstractmethod
    def peak(self, axis: str) -> Self:
        """What a softmax along `axis` may subtract from every score, to the same result."""

    @abstractmethod
    def root(self, n: int) -> Self:
        """exp(2πi x / n), entry by entry."""

    @abstractmethod
    def detached(self) -> Self:
        """The same entries, constants to a gradient."""


def apply(fn: str, *args: A | Number) -> A:
    """A function of mixer_ir.nodes.functions by its name, entry by entry; numbers may stand for arrays."""
    kind = type(next(a for a in args if isinstance(a, Array)))
    arrays: list[A] = [a if isinstance(a, Array) else kind.number(a) for a in args]
    meaning = FUNCTIONS[fn].meaning
    if meaning is not None:
        made: A = meaning(apply, *arrays)
        return made
    axes = union(*(a.axes for a in arrays))
    return kind(axes, kind.computed(fn, [a.aligned(axes) for a in arrays]))


def mul(*factors: A) -> A:
    return reduce(lambda x, y: apply("mul", x, y), factors)


def total(terms: Sequence[A]) -> A:
    return reduce(lambda x, y: apply("add", x, y), terms)


def where(condition: A, yes: A | Number, no: A | Number) -> A:
    return apply("where", condition, yes, no)


def contract(x: A, y: A, over: Axes) -> A:
    """Σ_over x y; an axis of `over` that one side lacks is summed on the other."""
    return mul(x, y).folded("sum", over)


def stack(parts: Sequence[A], axis: str) -> A:
    """The parts along a new last axis; parts may lack some of the axes of others."""
    axes, sizes = union(*(p.axes for p in parts)), {a: n for p in parts for a, n in p.sizes.items()}
    kind = type(parts[0])
    return kind((*axes, axis), kind.stacked([p.to(axes, sizes) for p in parts]))


def running(fn: str, x: A, n: int, reset: A | None = None) -> A:
    """y_t = fn(y_{t−1}, x_t) for n steps, from x_t alone where reset is true."""
    made = [x.at(TIME, 0)]
    for t in range(1, n):
        new = apply(fn, made[-1], x.at(TIME, t))
        made.append(new if reset is None else where(reset.at(TIME, t), x.at(TIME, t), new))
    return stack(made, TIME)


def numbered(reset: A, n: int) -> A:
    """The number of the packed piece that each t is in: how many resets there were until then."""
    return running("add", where(reset, 1, 0), n)
