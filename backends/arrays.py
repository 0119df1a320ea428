"""NumPy spellings of the operations that move entries or run parts: they don't care what the entries are.

The reference backend uses them on numbers, the symbolic one on SymPy expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from backends.plan import Call, Run
from lowering import program as p
from lowering.program import Value

Array: TypeAlias = npt.NDArray[Any]
Axes: TypeAlias = tuple[str, ...]
T = TypeVar("T")


def aligned(x: Array, axes: Axes, onto: Axes) -> Array:
    """x with its axes in the order of `onto`, and size 1 where it lacks one."""
    x = np.transpose(x, [axes.index(a) for a in onto if a in axes])
    return np.expand_dims(x, [i for i, a in enumerate(onto) if a not in axes])


def along(n: int, axis: str, onto: Axes) -> Array:
    """0, 1 … n−1 along `axis`, size 1 along the other axes of `onto`."""
    return aligned(np.arange(n), (axis,), onto)


def expand(v: Value) -> Call:
    source = v.args[0].axes
    return lambda x: np.broadcast_to(aligned(x, source, v.axes), v.shape)


def order(v: Value) -> Call:
    source = v.args[0].axes
    return lambda x: aligned(x, source, v.axes)


def same(v: Value) -> Call:
    return lambda x: x


def iota(v: Value) -> Call:
    return lambda: np.arange(v.shape[0])


def window(v: Value) -> Call:
    op = _as(v, p.Slice)
    index = (*[slice(None)] * v.axes.index(op.axis), slice(op.start, op.stop, op.step))
    return lambda x: x[index]


def pad(v: Value, fill: Any = None) -> Call:
    """Padded with `fill`, or with the number that the operation names."""
    op = _as(v, p.Pad)
    fill = op.value if fill is None else fill
    at = v.axes.index(op.axis)
    stop = op.before + v.args[0].size(op.axis)

    def padded(x: Array) -> Array:
        y = np.full(v.shape, fill, dtype=x.dtype)
        y[(*[slice(None)] * at, slice(op.before, stop))] = x
        return y

    return padded


def concat(v: Value) -> Call:
    at = v.axes.index(_as(v, p.Concat).axis)
    return lambda *parts: np.concatenate(parts, axis=at)


def flip(v: Value) -> Call:
    at = v.axes.index(_as(v, p.Flip).axis)
    return lambda x: np.flip(x, at)


def reshape(v: Value) -> Call:
    return lambda x: np.reshape(x, v.shape)


def take(v: Value) -> Call:
    op, (table, index) = _as(v, p.Take), v.args
    places = [along(n, a, v.axes) if a != op.axis else None for a, n in table.sizes.items()]

    def taken(x: Array, i: Array) -> Array:
        i = aligned(i, index.axes, v.axes)
        return np.broadcast_to(x[tuple(i if place is None else place for place in places)], v.shape)

    return taken


def put(v: Value) -> Call:
    op, (update, index) = _as(v, p.Put), v.args
    sizes = {**index.sizes, **update.sizes}
    axes = tuple(sizes)
    places = [along(sizes[a], a, axes) if a != op.axis else None for a in v.axes]

    def added(x: Array, i: Array) -> Array:
        x = np.broadcast_to(aligned(x, update.axes, axes), tuple(sizes.values()))
        i = np.broadcast_to(aligned(i, index.axes, axes), x.shape)
        y = np.zeros(v.shape, dtype=x.dtype)
        np.add.at(y, tuple(i if place is None else place for place in places), x)
        return y

    return added


def scan(v: Value, body: Run) -> Call:
    op = _as(v, p.Scan)
    first, last = op.carries, op.carries + op.steps
    at = [a.axes.index(op.axis) for a in v.args[first:last]]
    steps = range(op.length - 1, -1, -1) if op.reverse else range(op.length)

    def loop(*args: Array) -> list[Array]:
        carries: Sequence[Array] = args[:first]
        stacks = [np.moveaxis(x, i, 0) for x, i in zip(args[first:last], at, strict=True)]
        results: list[Any] = [None] * op.length
        for i in steps:
            made = body([*carries, *(x[i] for x in stacks), *args[last:]])
            carries, results[i] = made[:first], made[first:]
        return [*carries, *(np.stack(column) for column in zip(*results, strict=True))]

    return loop


def region(v: Value, body: Run) -> Call:
    return lambda *args: body(args)


def pick(v: Value) -> Call:
    i = _as(v, p.Pick).index
    return lambda results: results[i]


MOVES: dict[type, Callable[[Value], Call]] = {
    p.Iota: iota,
    p.Expand: expand,
    p.Order: order,
    p.Detach: same,
    p.Slice: window,
    p.Pad: pad,
    p.Concat: concat,
    p.Flip: flip,
    p.Rename: same,
    p.Split: reshape,
    p.Merge: reshape,
    p.Take: take,
    p.Put: put,
    p.Pick: pick,
}


def _as(v: Value, kind: type[T]) -> T:
    assert isinstance(v.op, kind)
    return v.op
