"""What can be computed piece by piece of some axes, value by value.

A value is inside if it is computed for one piece of the axes from that piece of its arguments. A sum over such an
axis is, for one piece, a part of the sum; what is linear in a part is a part too, and parts are added up at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lowering import program as p
from lowering.adjoint import is_zero
from lowering.program import Value

Parts = frozenset[str]
"""the axes over which a value inside is a part of a sum"""
WHOLE: Parts = frozenset()
NAMED = (p.Cumulate, p.AffineScan, p.Transform, p.Slice, p.Pad, p.Concat, p.Flip, p.Take, p.Put, p.Scan)


class Outside(Exception):
    """A value cannot be computed piece by piece."""


@dataclass(frozen=True)
class Judge:
    """Says of a value, from what its arguments are, whether it is inside (its parts), neither (None), or Outside."""

    sizes: Mapping[str, int]
    _done: dict[tuple[Value, tuple[Parts | None, ...]], list[Parts | None]] = field(default_factory=dict)

    @property
    def axes(self) -> frozenset[str]:
        return frozenset(self.sizes)

    def other(self, v: Value) -> bool:
        """Whether v has an axis that only shares its name with one of these."""
        return any(self.sizes.get(a, n) != n for a, n in v.sizes.items())

    def of(self, v: Value, known: Mapping[Value, Parts | None], *, strict: bool) -> Parts | None:
        op = v.op
        if isinstance(op, p.Input | p.Constant | p.Iota):
            return None
        if isinstance(op, p.Pick):
            return self._picked(v, op, known)
        classes = [known[a] for a in v.args]
        if self.other(v) or any(self.other(a) for a in v.args):
            if strict or any(c is not None for c in classes):
                raise Outside
            return None
        if isinstance(op, p.Scan | p.Region):
            results = self._results(v, op, known)
            return None if all(r is None for r in results) else WHOLE
        over = frozenset(op.over) & self.axes if isinstance(op, p.Reduce | p.Contract) else WHOLE
        full = self.axes <= set(v.axes) | over
        if not strict and not full and all(c is None for c in classes):
            return None
        if over and isinstance(op, p.Reduce) and op.fn != "sum":
            raise Outside
        if not over and self.axes & named(op):
            raise Outside
        parts = frozenset().union(*(c for c in classes if c)) if any(classes) else WHOLE
        if parts and not _linear(v, classes, parts):
            raise Outside
        if parts & over or (parts | over) & set(v.axes):
            raise Outside
        parts |= over
        if self.axes <= set(v.axes) | parts:
            return parts
        if parts or any(c is not None for c in classes):
            raise Outside
        return None

    def _picked(self, v: Value, op: p.Pick, known: Mapping[Value, Parts | None]) -> Parts | None:
        whole = v.args[0]
        if known[whole] is None:
            return None
        assert isinstance(whole.op, p.Scan | p.Region)
        found = self._results(whole, whole.op, known)[op.index]
        if found is None:
            raise Outside
        return found

    def _results(self, v: Value, op: p.Scan | p.Region, known: Mapping[Value, Parts | None]) -> list[Parts | None]:
        """What the results are; a carry that starts from zero may be a part of a sum."""
        key = (v, tuple(known[a] for a in v.args))
        if key not in self._done:
            self._done[key] = self._run(v, op, known) if isinstance(op, p.Scan) else self._region(v, op, known)
        return self._done[key]

    def _region(self, v: Value, op: p.Region, known: Mapping[Value, Parts | None]) -> list[Parts | None]:
        found = dict(zip(op.body.inputs, (known[a] for a in v.args), strict=True))
        for y in op.body.order:
            if y not in found:
                found[y] = self.of(y, found, strict=True)
        return [found[y] for y in op.body.outputs]

    def _run(self, v: Value, op: p.Scan, known: Mapping[Value, Parts | None]) -> list[Parts | None]:
        if op.axis in self.axes:
            raise Outside
        inputs, outputs = op.body.inputs, op.body.outputs
        given: dict[Value, Parts | None] = {}
        for i, (a, x) in enumerate(zip(v.args, inputs, strict=True)):
            given[x] = known[a]
            if i < op.carries:
                if known[a]:
                    raise Outside
                missing = self.axes - set(x.axes)
                if not missing or is_zero(a):
                    given[x] = missing
        while True:
            found = dict(given)
            for y in op.body.order:
                if y not in found:
                    found[y] = self.of(y, found, strict=True)
            changed = False
            for x, y in zip(inputs[: op.carries], outputs, strict=False):
                if found[y] == given[x] or (is_zero(y) and given[x]):
                    continue
                if not given[x] or found[y] is not None:
                    raise Outside
                given[x], changed = None, True
            if not changed:
                return [found[y] for y in outputs]


def named(op: p.Op) -> set[str]:
    """The axes that an operation does more with than repeat its work along them."""
    match op:
        case p.Rename(old=old, new=new):
            return {old, new}
        case p.Split(axis=axis, outer=outer, inner=inner) | p.Merge(outer=outer, inner=inner, axis=axis):
            return {axis, outer, inner}
        case p.Solve(row=row, col=col):
            return {row, col}
    return {op.axis} if isinstance(op, NAMED) else set()


def _linear(v: Value, classes: Sequence[Parts | None], parts: Parts) -> bool:
    """Whether v of a part is a part of v: linear in the arguments that are parts."""
    which = [bool(c) for c in classes]
    alike = all(c == parts or is_zero(a) for a, c in zip(v.args, classes, strict=True))
    match v.op:
        case p.Map(fn="add" | "sub" | "complex"):
            return alike
        case p.Map(fn="neg" | "conj" | "real" | "imag"):
            return True
        case p.Map(fn="mul") | p.Contract():
            return sum(which) == 1
        case p.Map(fn="div"):
            return which == [True, False]
        case p.Map(fn="where"):
            return not which[0] and all(c == parts or is_zero(a) for a, c in zip(v.args[1:], classes[1:], strict=True))
        case p.Pad(value=value):
            return value == 0
        case p.Concat():
            return alike
        case p.Cumulate(fn=fn) | p.Reduce(fn=fn):
            return fn == "sum"
        case p.AffineScan():
            return not which[0]
        case p.Cast(kind=kind):
            return kind in ("real", "complex")
        case p.Expand() | p.Order() | p.Detach() | p.Rename() | p.Slice() | p.Flip() | p.Split() | p.Merge():
            return True
    return False
