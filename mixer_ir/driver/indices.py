"""Rows that a mixer takes from a table at places it works out itself: whether the table has them all.

Bounds of the index are read off its formula; only where they are too wide is it evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mixer_ir.definition.definition import Definition
from mixer_ir.definition.tensors import Tensors
from mixer_ir.driver.binding import visible
from mixer_ir.errors import SignalError
from mixer_ir.nodes.expr import SOURCE, TIME, Axes, Call, Detach, Expr, Index, Literal, Rename, Signal, Size, Take
from mixer_ir.nodes.node import Node, walk
from mixer_ir.nodes.text import formula

Range = tuple[int, int]
SUMS = {"add": lambda a, b: (a[0] + b[0], a[1] + b[1]), "sub": lambda a, b: (a[0] - b[1], a[1] - b[0])}
EXTREMES = {"min": min, "max": max}


def computed(body: Node) -> tuple[Take, ...]:
    """What takes rows at an index that is more than a signal."""
    return tuple(n for n in walk(body) if isinstance(n, Take) and not isinstance(n.index, Signal))


def lasting(take: Take) -> bool:
    """Whether the index hangs on sizes alone: neither on values nor on where in a stream a call stands."""
    return all(
        isinstance(n, Literal | Call | Rename | Detach)
        or (isinstance(n, Index | Size) and n.axis not in (TIME, SOURCE))
        for n in walk(take.index)
    )


def check_computed(
    takes: tuple[Take, ...], tensors: Mapping[str, Tensor], declared: Mapping[str, Axes], sizes: Mapping[str, int],
    before: int = 0,
) -> None:  # fmt: skip
    """Raise SignalError where an index leaves its table; `before` steps of the sequence went ahead of this call."""
    for take in takes if visible(tensors.values()) else ():
        if take.axis not in sizes or not _signals(take.index) <= tensors.keys():
            continue
        rows, moving = sizes[take.axis], {n: x for n, x in tensors.items() if n in _signals(take.index)}
        whole = {**sizes, TIME: sizes[TIME] + before}
        found = bounds(take.index, whole, moving)
        if found is None or not 0 <= found[0] <= found[1] < rows:
            timed = before and any(TIME in declared[n] for n in moving)
            found = None if timed else _exact(take.index, whole, {n: (declared[n], x) for n, x in moving.items()})
        if found is not None and not 0 <= found[0] <= found[1] < rows:
            raise SignalError(
                f"the index {formula(take.index)} goes from {found[0]} to {found[1]}, but {formula(take.table)} has "
                f"{take.axis} = {rows}: it must lie in 0 … {rows - 1}"
            )


def rows_needed(index: Expr, sizes: Mapping[str, int]) -> int | None:
    """How long a table must be for an index that no signal moves; None where one does."""
    return None if _signals(index) else _exact(index, sizes, {})[1] + 1


def bounds(e: Expr, sizes: Mapping[str, int], tensors: Mapping[str, Tensor]) -> Range | None:
    """The least and the largest that an integer expression can be, as far as its formula tells."""
    match e:
        case Literal(value=int(value)):
            return value, value
        case Signal(name=name):
            return int(tensors[name].min()), int(tensors[name].max())
        case Index(axis=axis) if axis in sizes:
            return 0, sizes[axis] - 1
        case Size(axis=axis) if axis in sizes:
            return sizes[axis], sizes[axis]
        case Rename(of=of) | Detach(of=of):
            return bounds(of, sizes, tensors)
        case Call(fn="clamp", args=(x, low, high)):
            return bounds(Call(fn="min", args=(Call(fn="max", args=(x, low)), high)), sizes, tensors)
        case Call(fn="min" | "max" | "add" | "sub" as fn, args=(x, y)):
            left, right = bounds(x, sizes, tensors), bounds(y, sizes, tensors)
            if left is None or right is None:
                return None
            if fn in SUMS:
                return SUMS[fn](left, right)
            return EXTREMES[fn](left[0], right[0]), EXTREMES[fn](left[1], right[1])
    return None


def _signals(e: Expr) -> set[str]:
    return {n.name for n in walk(e) if isinstance(n, Signal)}


def _exact(index: Expr, sizes: Mapping[str, int], given: Mapping[str, tuple[Axes, Tensor]]) -> Range:
    named = {n: Tensors.of(axes, x) for n, (axes, x) in given.items()}
    values = Definition(Tensors, named, dict(sizes)).value(index).data
    return int(values.min()), int(values.max())
