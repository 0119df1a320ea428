"""Axes along which everything is independent: the part of a program that runs apart for each piece of them.

A value is `inside` if it is computed for one piece of the axes from that piece of its arguments. A sum over such an
axis is, for one piece, a part of the sum; what is linear in a part is a part too, and parts are added up at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from lowering import program as p
from lowering.adjoint import is_zero
from lowering.build import Builder
from lowering.program import Program, Value

Parts = frozenset[str]
"""the axes over which a value inside is a part of a sum"""
WHOLE: Parts = frozenset()
WORTH = 1 << 17
"""operations below which a program is not shared out"""
TILE = 64
"""entries of an axis that lie side by side in memory, in one piece"""
NAMED = (p.Cumulate, p.AffineScan, p.Transform, p.Slice, p.Pad, p.Concat, p.Flip, p.Take, p.Put, p.Scan)


class Outside(Exception):
    """A value cannot be computed piece by piece."""


@dataclass(frozen=True, slots=True)
class Shared(p.Region):
    """A region that runs apart for every piece of some axes.

    tiles   (axis, its size, the size of a piece)
    parts   for each result the axes over which its pieces are to be added up
    """

    tiles: tuple[tuple[str, int, int], ...] = ()
    parts: tuple[Parts, ...] = ()


def shared(program: Program) -> Program:
    """The program with the largest part that can be shared out as one region; the same if there is none."""
    if work(program) < WORTH:
        return program
    best: tuple[str, ...] = ()
    covered, inside = 0.0, {}
    tiles: dict[str, int] = {}
    for axis, tile in _candidates(program):
        found = _classes(program, (*best, axis))
        reached = sum(_work(v) for v, c in found.items() if c is not None)
        if reached >= max(0.95 * covered, 0.5 * work(program)):
            best, covered, inside = (*best, axis), reached, found
            tiles[axis] = tile
    sizes = {a: n for v in program.order for a, n in v.sizes.items()}
    pieces = prod(sizes[a] // tiles[a] for a in best)
    if pieces < 2:
        return program
    return _cut_out(program, inside, tuple((a, sizes[a], tiles[a]) for a in best))


def _candidates(program: Program) -> list[tuple[str, int]]:
    """(axis, piece): single entries, but of what lies side by side, where many are taken at once."""
    found: dict[str, int] = {}
    arrays = sorted((*program.inputs, *program.outputs), key=lambda v: -prod(v.shape))
    innermost = {v.axes[-1] for v in arrays if v.axes and 4 * prod(v.shape) >= prod(arrays[0].shape)}
    for v in arrays:
        for a, n in v.sizes.items():
            most = min(TILE, max(n // 4, 16))
            tile = 1 if a not in innermost else next((m for m in range(most, 7, -1) if n % m == 0), n)
            if n > tile:
                found[a] = tile
    return list(found.items())


def work(program: Program) -> float:
    """Operations, loops counted as often as they turn."""
    return sum(_work(v) for v in program.order)


def _work(v: Value) -> float:
    if isinstance(v.op, p.Scan):
        return work(v.op.body) * v.op.length
    if isinstance(v.op, p.Contract):
        return float(prod(v.shape) * prod(v.args[0].size(a) for a in v.op.over))
    if isinstance(v.op, p.Input | p.Constant | p.Pick | p.Iota):
        return 0.0
    return float(max(prod(v.shape), *(prod(a.shape) for a in v.args)))


# ------------------------------------------------------------------------------------------------ what is inside


def _classes(program: Program, axes: tuple[str, ...]) -> dict[Value, Parts | None]:
    """For each value its parts if it is inside, else None."""
    judge = Judge(frozenset(axes))
    found: dict[Value, Parts | None] = {}
    after: set[Value] = set()  # outside, and computed from what is inside
    for v in program.order:
        try:
            if any(a in after for a in v.args):
                raise Outside
            found[v] = judge.of(v, found, strict=False)
        except Outside:
            found[v] = None
            if any(a in after or found[a] is not None for a in v.args):
                after.add(v)
    return found


@dataclass(frozen=True)
class Judge:
    """Says of a value, from what its arguments are, whether it is inside (its parts), neither (None), or Outside."""

    axes: frozenset[str]
    _scans: dict[tuple[Value, tuple[Parts | None, ...]], list[Parts | None]] = field(default_factory=dict)

    def of(self, v: Value, known: Mapping[Value, Parts | None], *, strict: bool) -> Parts | None:
        op = v.op
        if isinstance(op, p.Input | p.Constant | p.Iota):
            return None
        if isinstance(op, p.Pick):
            return self._picked(v, op, known)
        classes = [known[a] for a in v.args]
        if isinstance(op, p.Scan):
            results = self._scan(v, op, known)
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
        if known[whole] is None or not isinstance(whole.op, p.Scan):
            return None
        found = self._scan(whole, whole.op, known)[op.index]
        if found is None:
            raise Outside
        return found

    def _scan(self, v: Value, op: p.Scan, known: Mapping[Value, Parts | None]) -> list[Parts | None]:
        """What the results are; a carry that starts from zero may be a part of a sum."""
        key = (v, tuple(known[a] for a in v.args))
        if key not in self._scans:
            self._scans[key] = self._run(v, op, known)
        return self._scans[key]

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
        case p.Map(fn="add" | "sub"):
            return alike
        case p.Map(fn="neg" | "conj" | "real"):
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


# ------------------------------------------------------------------------------------------------ cutting it out


def _cut_out(
    program: Program, inside: Mapping[Value, Parts | None], tiles: tuple[tuple[str, int, int], ...]
) -> Program:
    """The program with all that is inside as one region."""
    outer, inner = Builder(), Builder()
    alone = _without_inputs(program)
    core: dict[Value, Value] = {}
    args: list[Value] = []

    def entering(a: Value) -> Value:
        if a not in core:
            if a in alone:
                core[a] = inner.again(a, [entering(x) for x in a.args])
            else:
                core[a] = inner.input(f"x{len(args)}", a.axes, a.shape, a.kind)
                args.append(a)
        return core[a]

    for v in program.order:
        if inside[v] is not None:
            core[v] = inner.again(v, [entering(a) for a in v.args])
    read = {a for v in program.order if inside[v] is None for a in v.args} | set(program.outputs)
    leaving = [v for v in program.order if inside[v] is not None and v in read and not isinstance(v.op, p.Scan)]
    body = Program(
        inputs=tuple(core[a] for a in args),
        outputs=tuple(core[v] for v in leaving),
        names=tuple(f"y{i}" for i in range(len(leaving))),
    )
    op = Shared("shared", body, tiles=tiles, parts=tuple(inside[v] or WHOLE for v in leaving))
    done: dict[Value, Value] = {}

    def rebuilt(v: Value) -> Value:
        if v not in done:
            done[v] = v if isinstance(v.op, p.Input) else outer.again(v, [rebuilt(a) for a in v.args])
        return done[v]

    needed = [rebuilt(a) for a in args]
    done.update(zip(leaving, outer.picks(op, tuple(needed)), strict=True))
    for v in program.order:
        if inside[v] is None:
            rebuilt(v)
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _without_inputs(program: Program) -> set[Value]:
    """What is computed from numbers and positions alone."""
    found: set[Value] = set()
    for v in program.order:
        if not isinstance(v.op, p.Input | p.Scan | p.Pick) and all(a in found for a in v.args):
            found.add(v)
    return found
