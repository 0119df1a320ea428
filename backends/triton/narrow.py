"""Which values between two kernels are stored as signals are, in 16 bits: those that lose nothing that counts.

Products of matrices round their factors to the signals' dtype. What is stored only to be such a factor, perhaps behind
masks or at other places, may be rounded when it is stored: results are the same to the last bit. What is also added, or
multiplied entry by entry, is rounded once more than signals are, and so is what is summed by the thousand. What goes
into exponentials, logarithms, quotients, cumulated sums or products of many factors stays in float32, as does what is a
result in float32, and what is small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from math import prod
from types import MappingProxyType

from backends.triton.affine import affine_of
from backends.triton.products import LEAST
from lowering import program as p
from lowering.program import Program, Value

MOVES = (
    p.Expand, p.Order, p.Rename, p.Split, p.Merge, p.Slice, p.Pad, p.Concat, p.Flip, p.Detach,
)  # fmt: skip
LINEAR = ("add", "sub", "mul", "neg")
"""functions that pass on an error relative to their arguments"""
MANY = 1 << 10
"""entries of a sum in which the errors of single ones do not count"""
SMALL = 4
"""how many times smaller than the largest signal an array is that is not worth it"""


def narrow(
    program: Program,
    stored: Sequence[Value],
    wide: Sequence[Value],
    made_with: Mapping[Value, Set[Value]] = MappingProxyType({}),
) -> set[Value]:
    """Those of the stored values that may be rounded to the signals' dtype.

    wide   results that are not rounded
    made_with   by a value, what its kernel stores too, which is computed before the value is rounded
    """
    uses = Uses(program, wide)
    most = max((prod(v.shape) for v in program.inputs if v.kind == "real"), default=0)
    own = {*program.inputs}
    return {
        v
        for v in stored
        if v.kind == "real"
        and v not in own
        and SMALL * prod(v.shape) >= most
        and uses.rounded(v, made_with.get(v, frozenset()))
    }


def _many(v: Value) -> bool:
    """Whether a sum is over so many entries that their errors average out."""
    assert isinstance(v.op, p.Contract | p.Reduce)
    sizes = {a: n for x in v.args for a, n in x.sizes.items()}
    return prod(sizes[a] for a in v.op.over) >= MANY


class Uses:
    """Who reads the values of a program, its loops' bodies included."""

    def __init__(self, program: Program, wide: Sequence[Value]) -> None:
        self.readers: dict[Value, list[Value]] = defaultdict(list)
        self.ends: dict[Value, list[tuple[Value, int]]] = defaultdict(list)
        self.wide = set(wide)
        self._read(program)

    def _read(self, program: Program) -> None:
        for v in program.order:
            for a in dict.fromkeys(v.args):
                self.readers[a].append(v)
            if isinstance(v.op, p.Scan):
                for i, y in enumerate(v.op.body.outputs):
                    self.ends[y].append((v, i))
                self._read(v.op.body)

    def rounded(self, v: Value, before: Set[Value]) -> bool:
        """Whether everything that is computed of v bears that it is rounded; but for what is computed before it is."""
        seen: set[tuple[Value, bool]] = {(x, moved) for x in before for moved in (True, False)}
        todo = [(v, True)]
        while todo:
            x, moved = todo.pop()
            if (x, moved) in seen:
                continue
            seen.add((x, moved))
            if moved and x in self.wide:
                return False
            for scan, i in self.ends[x]:
                todo += ((y, False) for y in self._left(scan, i))
            for reader in self.readers[x]:
                if (further := self._passed(x, reader)) is None:
                    return False
                todo += ((y, moved and isinstance(reader.op, MOVES)) for y in further)
        return True

    def _left(self, scan: Value, i: int) -> Iterator[Value]:
        """Where a result of a loop's body is read: after the loop, and in the next step if it is carried."""
        assert isinstance(scan.op, p.Scan)
        yield from (y for y in self.readers[scan] if isinstance(y.op, p.Pick) and y.op.index == i)
        if i < scan.op.carries:
            yield scan.op.body.inputs[i]

    def _passed(self, x: Value, reader: Value) -> Sequence[Value] | None:
        """What carries an error of x on, if `reader` bears it; None if it does not."""
        match reader.op:
            case p.Map(fn="where"):
                return None if x is reader.args[0] else [reader]
            case p.Map(fn=fn):
                return [reader] if fn in LINEAR else None
            case p.Contract():
                return [] if multiplies(reader) or _many(reader) else [reader]
            case p.Reduce(fn=fn):
                return None if fn != "sum" else [] if _many(reader) else [reader]
            case p.AffineScan():
                return None if x is reader.args[0] else [reader]
            case p.Region() if (of := affine_of(reader)) is not None:
                return None if x in of.factors else self.readers[reader]
            case p.Scan(carries=carries):
                inputs = [y for y, a in zip(reader.op.body.inputs, reader.args, strict=True) if a is x]
                return None if any(a is x for a in reader.args[:carries]) else inputs
            case p.Solve():
                return None if x is reader.args[0] else [reader]
        return [reader] if isinstance(reader.op, MOVES) else None


def multiplies(v: Value) -> bool:
    """Whether a contraction is a product of matrices that tensor cores take, which round its factors."""
    assert isinstance(v.op, p.Contract)
    x, y = v.args

    def alone(of: Value, other: Mapping[str, int]) -> int:
        return prod(n for a, n in of.sizes.items() if a not in other)

    return v.kind == "real" and min(alone(x, y.sizes), alone(y, x.sizes)) >= LEAST
