"""Which values are stored, and which are computed inside the loops that read them.

A value is stored where it is read more often than it has entries, where it results from a sum, and where a library
routine needs an array. What only looks at its argument differently is an index and never stored for its own sake.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from backends.native.spelling import SPECIAL
from lowering import program as p
from lowering.adjoint import is_zero
from lowering.decay import SOURCE, SOURCE_RANK, STEP
from lowering.parts import KEY, RANK
from lowering.program import Program, Value

SUMS = (p.Reduce, p.Contract, p.Cumulate, p.AffineScan, p.Solve, p.Transform, p.Concat, p.Put)
STRIDED = (p.Order, p.Rename, p.Slice, p.Split, p.Detach)
"""operations whose result is an array with strides if their argument is"""
SMALL_PRODUCT = 1 << 11
"""operations below which a matrix product is a loop nest"""
FEW = 8
"""rows of a product up to which its time is that of reading the matrix, which is read as it lies"""
LONG = 1 << 15
"""entries of such a matrix at least"""
DEEPEST = 64
"""operations, each of the one before it, that one expression holds"""
DECAYS = ("decay", "decay back")
"""labels of the regions that are one routine"""
INNER = (RANK, SOURCE_RANK, STEP, SOURCE, KEY)
"""axes of such a region that are no batch axes"""
VECTORS = 8
"""rows and columns that the routine takes at most"""


@dataclass(frozen=True)
class Fusion:
    """The decision for one block.

    reads    how often each entry of an input is read, in all
    arrays   inputs that have to be arrays with strides
    """

    stored: frozenset[Value]
    reads: dict[Value, float]
    arrays: frozenset[Value]


def entries(v: Value) -> int:
    return prod(v.shape)


def dropped(v: Value) -> bool:
    """Whether v is its argument without axes of one entry."""
    return isinstance(v.op, p.Reduce) and all(v.args[0].size(a) == 1 for a in v.op.over)


def is_sum(v: Value) -> bool:
    return isinstance(v.op, SUMS) and not dropped(v)


def is_product(v: Value) -> bool:
    """Whether a contraction runs as matrix products."""
    if not isinstance(v.op, p.Contract) or v.kind != "real":
        return False
    m, n, k = product_sizes(v)
    return is_streamed(v) or (min(m, n, k) >= 4 and m * n * k >= SMALL_PRODUCT)


def is_streamed(v: Value) -> bool:
    """Whether a product has so few rows, or columns, that it comes to reading its larger factor once."""
    if not isinstance(v.op, p.Contract) or v.kind != "real":
        return False
    m, n, k = product_sizes(v)
    x = larger(v)
    long = [a for a in x.axes if x.size(a) > 1]
    side_by_side = long[-1:] == [a for a in long if a in v.op.over]
    return side_by_side and min(m, n) <= FEW and k >= 64 and max(m, n) * k >= LONG


def larger(v: Value) -> Value:
    """The factor of a product with more rows or columns of its own."""
    m, n, _ = product_sizes(v)
    return v.args[0] if m > n else v.args[1]


def is_read_narrow(x: Value, v: Value) -> bool:
    """Whether a factor of a product, widened from two bytes a number, need not be stored as real numbers."""
    widened = isinstance(x.op, p.Cast) and isinstance(x.args[0].op, p.Input) and x.args[0].kind == x.kind == "real"
    return widened and is_streamed(v) and x is larger(v)


def left_narrow(program: Program) -> set[Value]:
    """What is widened from two bytes a number for nothing but products that read it as it lies."""
    found = {a for v in program.order if isinstance(v.op, p.Contract) for a in v.args if is_read_narrow(a, v)}
    others = {a for v in program.order for a in v.args if not (a in found and is_streamed(v) and a is larger(v))}
    return found - others - set(program.outputs)


def is_decay(v: Value) -> bool:
    """Whether v is a region of decays that runs as a routine: of real numbers, with the same batch axes for all."""
    if not isinstance(v.op, p.Region) or v.op.label not in DECAYS:
        return False
    inputs = dict(zip(v.op.body.input_names, v.op.body.inputs, strict=True))
    vectors = [x for n, x in inputs.items() if n.startswith(("row:", "column:"))]
    batches = [{a: n for a, n in x.sizes.items() if a not in INNER} for x in (inputs["step"], *vectors)]
    count = sum(prod(n for a, n in x.sizes.items() if a in (RANK, SOURCE_RANK)) for x in vectors)
    real = all(x.kind == "real" for x in (*inputs.values(), *v.op.body.outputs))
    return real and count <= VECTORS and all(batch == batches[0] for batch in batches)


def product_axes(v: Value) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(batch, rows, columns, summed) axes of a contraction."""
    assert isinstance(v.op, p.Contract)
    x, y = v.args
    batch = tuple(a for a in v.axes if a in x.axes and a in y.axes)
    rows = tuple(a for a in v.axes if a not in y.axes)
    columns = tuple(a for a in v.axes if a not in x.axes)
    return batch, rows, columns, v.op.over


def product_sizes(v: Value) -> tuple[int, int, int]:
    _, rows, columns, over = product_axes(v)
    return (
        prod(v.size(a) for a in rows),
        prod(v.size(a) for a in columns),
        prod(v.args[0].size(a) for a in over),
    )


class Fusions:
    """Decisions, each made once."""

    def __init__(self) -> None:
        self._made: dict[Program, Fusion] = {}

    def of(self, program: Program) -> Fusion:
        if program not in self._made:
            self._made[program] = self._decide(program)
        return self._made[program]

    def _decide(self, program: Program) -> Fusion:
        reads: defaultdict[Value, float] = defaultdict(float)
        stored: set[Value] = set()
        arrays: set[Value] = set()
        trivial, deep = _trivial(program.order), _deep(program.order)
        for v in program.outputs:
            reads[v] += entries(v)
            if isinstance(v.op, p.Map | p.Cast):
                stored.add(v)
        for v in reversed(program.order):
            whole = is_sum(v) or isinstance(v.op, p.Scan | p.Region | p.Pick) or v in deep
            if whole or (isinstance(v.op, p.Map) and v not in trivial and reads[v] > entries(v) * _times(v)):
                stored.add(v)
            times = float(entries(v)) if v in stored else reads[v]
            for a, n in self._reads_of(v, times, stored, arrays):
                reads[a] += n
        return Fusion(frozenset(stored), dict(reads), frozenset(arrays))

    def _reads_of(
        self, v: Value, times: float, stored: set[Value], arrays: set[Value]
    ) -> Iterable[tuple[Value, float]]:
        """How often v reads each of its arguments; those that have to be arrays are marked."""
        op = v.op
        if isinstance(op, p.Scan):
            inner = self.of(op.body)
            for i, (a, x) in enumerate(zip(v.args, op.body.inputs, strict=True)):
                if i >= op.carries and x in inner.arrays:
                    _array(a, stored, arrays)
                yield a, (entries(a) if i < op.carries else inner.reads.get(x, 0.0) * op.length)
        elif is_decay(v):
            for a in v.args:
                if not is_zero(a):
                    _array(a, stored, arrays)
                    yield a, entries(a)
        elif isinstance(op, p.Region):
            inner = self.of(op.body)
            for a, x in zip(v.args, op.body.inputs, strict=True):
                if x in inner.arrays:
                    _array(a, stored, arrays)
                yield a, inner.reads.get(x, 0.0)
        elif isinstance(op, p.Pick):
            return
        elif dropped(v):
            yield v.args[0], times
        elif isinstance(op, p.Contract):
            whole = entries(v) * prod(v.args[0].size(a) for a in op.over)
            for a in v.args:
                if is_product(v):
                    _array(a.args[0] if is_read_narrow(a, v) else a, stored, arrays)
                yield a, whole
        elif isinstance(op, p.Transform | p.Take):
            _array(v.args[0], stored, arrays)
            for a in v.args:
                yield a, times
        elif isinstance(op, p.Solve):
            yield v.args[0], times * v.size(op.row)
            yield v.args[1], times
        elif isinstance(op, p.Concat | p.Reduce | p.Cumulate):
            for a in v.args:
                yield a, entries(a)
        elif isinstance(op, p.Put):
            whole = prod({**v.args[0].sizes, **v.args[1].sizes}.values())
            for a in v.args:
                yield a, whole
        else:
            for a in v.args:
                yield a, times


def _array(v: Value, stored: set[Value], arrays: set[Value]) -> None:
    """v has to be an array with strides: what it is a view of is stored."""
    while isinstance(v.op, STRIDED) or dropped(v):
        v = v.args[0]
    if isinstance(v.op, p.Input):
        arrays.add(v)
    else:
        stored.add(v)


def _times(v: Value) -> int:
    """How often v may be computed again rather than stored: a cheap function of what is much smaller than itself."""
    assert isinstance(v.op, p.Map)
    small = all(8 * entries(a) <= entries(v) for a in v.args)
    return 8 if small and v.op.fn not in SPECIAL else 1


def _deep(order: Iterable[Value]) -> set[Value]:
    """What ends a chain of DEEPEST: one expression holds no more."""
    found: set[Value] = set()
    depth: dict[Value, int] = {}
    for v in order:
        over = isinstance(v.op, p.Input | p.Scan | p.Region | p.Pick) or is_sum(v)
        depth[v] = 0 if over else 1 + max((depth[a] for a in v.args), default=0)
        if depth[v] >= DEEPEST and isinstance(v.op, p.Map | p.Pad | p.Flip | p.Merge):
            found.add(v)
            depth[v] = 0
    return found


def _trivial(order: Iterable[Value]) -> set[Value]:
    """What is computed from numbers and positions alone, by a few cheap functions."""
    weight: dict[Value, float] = {}
    for v in order:
        own = math.inf
        if isinstance(v.op, p.Constant | p.Iota):
            own = 0
        elif isinstance(v.op, p.Map):
            own = math.inf if v.op.fn in SPECIAL else 1
        elif isinstance(v.op, (*STRIDED, p.Expand, p.Cast, p.Flip, p.Merge, p.Pad)):
            own = 0
        weight[v] = own + sum(weight[a] for a in v.args)
    return {v for v, w in weight.items() if w <= 6}
