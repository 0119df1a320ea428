"""States that are several in one, carried apart: a loop's carry along whose axis stand n blocks, as n carries.

    S = [S_0 S_1 …],   S ← D S + Y X      becomes      S_i ← Σ_j D_ij S_j + Y_i X

A state that is coupled with others is stacked with them along one axis, which the loop splits to multiply a small dense
matrix with its blocks. A tile in registers cannot be split so. Blocks that are carried by themselves need not be: sums
over the stacked axis become sums over each block, and what is read of the state after the loop is parted alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

MOST = 4
"""blocks of a state that are carried apart"""
Stack: TypeAlias = tuple[int, int]
"""how many blocks stand along an axis, and the size of each; 0 where the axis is that of the blocks alone"""


def unstacked(program: Program) -> Program:
    """The program with stacked states carried apart, in the bodies of loops too; itself where there are none."""
    made = _Parted(program, {}).rewritten()
    return made or program


class _Parted:
    """A program made again of values that come in blocks.

    stacks   for each value that hangs on such blocks, the axes along which it has some
    blocks   the blocks of a value along an axis, where they are made already
    """

    def __init__(self, program: Program, given: Mapping[Value, tuple[str, list[Value]]]) -> None:
        self.b = Builder()
        self.program = program
        self.done: dict[Value, Value] = {v: v for v in program.inputs if v not in given}
        self.stacks: dict[Value, dict[str, Stack]] = {}
        self.blocks: dict[tuple[Value, str, int], Value] = {}
        self.changed = bool(given)
        self.results: dict[Value, list[Value | tuple[str, list[Value]]]] = {}
        for v, (axis, blocks) in given.items():
            self.given(v, axis, blocks)

    def given(self, v: Value, axis: str, blocks: list[Value]) -> None:
        self.stacks[v] = {axis: (len(blocks), blocks[0].size(axis))}
        self.blocks |= {(v, axis, i): x for i, x in enumerate(blocks)}

    def rewritten(self) -> Program | None:
        """The whole program; None if nothing in it is carried apart."""
        self.prepare()
        outputs = tuple(self.whole(v) for v in self.program.outputs)
        if not self.changed:
            return None
        return Program(inputs=self.program.inputs, outputs=outputs, names=self.program.names)

    def prepare(self) -> None:
        """The loops, in order, and along which axes values have blocks."""
        for v in self.program.order:
            if v in self.done or v in self.stacks:
                continue
            if isinstance(v.op, p.Scan):
                self.loop(v)
            elif isinstance(v.op, p.Pick) and v.args[0] in self.results:
                made = self.results[v.args[0]][v.op.index]
                if isinstance(made, Value):
                    self.done[v] = made
                else:
                    self.given(v, *made)
            else:
                if any(a in self.stacks for a in v.args):
                    self.stacks[v] = self.stacked(v)
                if not self.stacks.get(v):
                    self.whole(v)  # in the program's order, so that no call goes deep

    def stacked(self, v: Value) -> dict[str, Stack]:
        found = {a: of for x in v.args for a, of in self.stacks.get(x, {}).items()}
        match v.op:
            case p.Contract(over=over) | p.Reduce(over=over):
                return {a: of for a, of in found.items() if a not in over}
            case p.Map() | p.Cast() | p.Order() | p.Expand():
                return found
            case p.Rename(old=old, new=new):
                return {new if a == old else a: of for a, of in found.items()}
            case p.Split(axis=axis, outer=outer, inner=inner):
                n, size = found.pop(axis, (0, 0))
                return found | ({outer: (n, 0)} if n and size == v.size(inner) else {})
            case p.Merge(outer=outer, inner=inner, axis=axis):
                n, size = found.pop(outer, (0, 0))
                found.pop(inner, None)
                return found | ({axis: (n, v.args[0].size(inner))} if n and not size else {})
        return {}

    # ------------------------------------------------------------------ values

    def whole(self, v: Value) -> Value:
        if v not in self.done:
            self.done[v] = self.made(v)
        return self.done[v]

    def made(self, v: Value) -> Value:
        b = self.b
        for a, (n, size) in self.stacks.get(v, {}).items():
            if (v, a, 0) in self.blocks and size:
                return b.order(b.concat([self.blocks[v, a, i] for i in range(n)], a), v.axes)
        if isinstance(v.op, p.Slice) and (i := self.sliced(v)) is not None:
            return self.block(v.args[0], v.op.axis, *i)
        if isinstance(v.op, p.Contract) or (isinstance(v.op, p.Reduce) and v.op.fn == "sum"):
            for a in v.op.over:
                n, size = next((s[a] for x in v.args if a in (s := self.stacks.get(x, {}))), (0, 0))
                if n:
                    with b.named(v.label):
                        return b.order(b.add(*(self.term(v, a, i, n, size) for i in range(n))), v.axes)
        return b.again(v, [self.whole(a) for a in v.args])

    def sliced(self, v: Value) -> tuple[int, int] | None:
        """(number of the block that v is a slice of, how many there are)"""
        assert isinstance(v.op, p.Slice)
        n, size = self.stacks.get(v.args[0], {}).get(v.op.axis, (0, 0))
        return (v.op.start // size, n) if 0 < size == v.size(v.op.axis) and v.op.start % size == 0 else None

    def term(self, v: Value, axis: str, i: int, n: int, size: int) -> Value:
        """What block i along an axis brings to a sum over it."""
        assert isinstance(v.op, p.Contract | p.Reduce)
        args = [self.block(x, axis, i, n) if size else self.place(x, axis, i) for x in v.args]
        over = v.op.over if size else tuple(a for a in v.op.over if a != axis)
        made = self.b.reduce("sum", args[0], over) if len(args) == 1 else self.b.contract(args[0], args[1], over)
        return self.b.order(made, v.axes)

    def block(self, v: Value, axis: str, i: int, n: int) -> Value:
        """Block i of n of v along an axis, or v if it has no such axis."""
        if axis not in v.axes:
            return self.whole(v)
        key = (v, axis, i)
        if key not in self.blocks:
            b, size = self.b, v.size(axis) // n
            match v.op:
                case _ if v not in self.stacks:
                    made = b.slice(self.whole(v), axis, i * size, (i + 1) * size)
                case p.Map() | p.Cast() | p.Order() | p.Expand() | p.Contract() | p.Reduce():
                    made = b.again(v, [self.block(x, axis, i, n) for x in v.args], {axis: size})
                case p.Rename(old=old, new=new):
                    made = b.rename(self.block(v.args[0], old if axis == new else axis, i, n), old, new)
                case p.Merge(outer=outer, inner=inner) if v.op.axis == axis and v.args[0].size(inner) == size:
                    made = b.order(b.rename(self.place(v.args[0], outer, i), inner, axis), v.axes)
                case _:
                    made = b.slice(self.whole(v), axis, i * size, (i + 1) * size)
            self.blocks[key] = made
        return self.blocks[key]

    def place(self, v: Value, axis: str, i: int) -> Value:
        """Entry i of v along an axis of blocks, or v if it has no such axis."""
        if axis not in v.axes:
            return self.whole(v)
        key = (v, f"{axis} one", i)
        if key not in self.blocks:
            b, rest = self.b, tuple(a for a in v.axes if a != axis)
            match v.op:
                case _ if v not in self.stacks:
                    made = b.at(self.whole(v), axis, i)
                case p.Map() | p.Cast() | p.Order() | p.Expand():
                    made = b.again(v, [self.place(x, axis, i) for x in v.args], axes=rest)
                case p.Contract(over=over):
                    made = self.placed(v, axis, i, over)
                case p.Rename(old=old, new=new):
                    made = b.rename(self.place(v.args[0], old if axis == new else axis, i), old, new)
                case p.Split(axis=whole, outer=outer, inner=inner) if outer == axis:
                    made = b.rename(self.block(v.args[0], whole, i, v.size(outer)), whole, inner)
                case _:
                    made = b.at(self.whole(v), axis, i)
            self.blocks[key] = b.order(made, rest)
        return self.blocks[key]

    def placed(self, v: Value, axis: str, i: int, over: tuple[str, ...]) -> Value:
        """Entry i along an axis of a product that may sum over blocks."""
        b = self.b
        for a in over:
            n, size = next((s[a] for x in v.args if a in (s := self.stacks.get(x, {}))), (0, 0))
            if n and not size:
                rest = tuple(x for x in over if x != a)
                terms = []
                for j in range(n):
                    x, y = (self.placed_twice(u, axis, i, a, j) for u in v.args)
                    terms.append(b.contract(x, y, rest))
                with b.named(v.label):
                    return b.add(*terms)
        axes = tuple(x for x in v.axes if x != axis)
        return b.again(v, [self.place(x, axis, i) for x in v.args], axes=axes)

    def placed_twice(self, v: Value, axis: str, i: int, other: str, j: int) -> Value:
        """Entry i along one axis, and j along the other, of those that v has."""
        if axis in v.axes and other in v.axes:
            return self.b.at(self.place(v, other, j), axis, i)
        return self.place(v, axis, i) if axis in v.axes else self.place(v, other, j)

    # ------------------------------------------------------------------ loops

    def loop(self, v: Value) -> None:
        """A loop with its stacked carries in blocks; its results are parted where its states are."""
        op = v.op
        assert isinstance(op, p.Scan)
        n, body = op.carries, unstacked(op.body)
        self.changed |= body is not op.body
        counts = {x: of for x in body.inputs[:n] if (of := _blocks(body, x)) is not None}
        if not counts:
            new = p.Scan(op.axis, op.length, body, n, op.steps, op.reverse)
            with self.b.named(v.label):
                self.results[v] = [*self.b.picks(new, tuple(self.whole(a) for a in v.args))]
            return
        self.changed = True
        names = Builder()
        given: dict[Value, tuple[str, list[Value]]] = {}
        inputs: list[Value] = []
        starts: list[Value] = []
        for x, arg in zip(body.inputs[:n], v.args[:n], strict=True):
            assert isinstance(x.op, p.Input)
            if x in counts:
                axis, count = counts[x]
                shape = tuple(x.size(a) // count if a == axis else x.size(a) for a in x.axes)
                blocks = [names.input(f"{x.op.name}_{i}", x.axes, shape, x.kind) for i in range(count)]
                given[x] = axis, blocks
                inputs += blocks
                starts += [self.block(arg, axis, i, count) for i in range(count)]
            else:
                inputs.append(x)
                starts.append(self.whole(arg))
        inside = _Parted(body, given)
        inside.prepare()
        outputs: list[Value] = []
        made: list[_Made] = []
        for i, y in enumerate(body.outputs):
            stacks = inside.stacks.get(y, {})
            along = counts.get(body.inputs[i]) if i < n else _along(stacks)
            entries = next(iter(stacks), None) if i >= n and along is None else None
            if along is not None:
                axis, count = along
                parts = [inside.b.order(inside.block(y, axis, j, count), y.axes) for j in range(count)]
                made.append(_Made(len(outputs), count, axis))
            elif entries is not None:
                parts = [inside.place(y, entries, j) for j in range(stacks[entries][0])]
                made.append(_Made(len(outputs), len(parts), entries, (op.axis, *y.axes)))
            else:
                parts = [inside.whole(y)]
                made.append(_Made(len(outputs)))
            outputs += parts
            if i == n - 1:
                carries = len(outputs)
        parted = Program(
            inputs=(*inputs, *body.inputs[n:]),
            outputs=tuple(outputs),
            names=tuple(f"out{i}" for i in range(len(outputs))),
        )
        new = p.Scan(op.axis, op.length, parted, carries, op.steps, op.reverse)
        with self.b.named(v.label):
            picks = self.b.picks(new, (*starts, *(self.whole(a) for a in v.args[n:])))
        self.results[v] = [self.result(x, picks) for x in made]

    def result(self, made: _Made, picks: Sequence[Value]) -> Value | tuple[str, list[Value]]:
        """A result of a loop, of those of the loop that carries blocks."""
        of = [*picks[made.first : made.first + made.count]]
        if made.axis is None:
            return of[0]
        if made.axes is None:
            return made.axis, of
        return self.b.order(self.b.concat([self.b.expand(x, {made.axis: 1}) for x in of], made.axis), made.axes)


@dataclass(frozen=True)
class _Made:
    """Which results of a loop that carries blocks stand for one result of the loop before.

    first, count   their numbers     axis   along which they are its blocks; with `axes`, all of its own, its entries
    """

    first: int
    count: int = 1
    axis: str | None = None
    axes: tuple[str, ...] | None = None


def _along(stacks: Mapping[str, Stack]) -> tuple[str, int] | None:
    """The axis along which a value has blocks, and how many."""
    return next(((a, n) for a, (n, size) in stacks.items() if size), None)


def _blocks(body: Program, carry: Value) -> tuple[str, int] | None:
    """(axis, number of blocks) of a carry that the loop splits into few blocks, or reads in such."""
    alike = {carry}  # the carry, and what is computed of it entry by entry
    slices: dict[str, set[int]] = {}
    for v in body.order:
        if alike.isdisjoint(v.args):
            continue
        if isinstance(v.op, p.Map | p.Cast | p.Order):
            alike.add(v)
        elif isinstance(v.op, p.Split):
            if v.op.axis in carry.axes and v.size(v.op.outer) <= MOST and v.size(v.op.inner) > 1:
                return v.op.axis, v.size(v.op.outer)
        elif isinstance(v.op, p.Slice) and v.op.step == 1 and v.op.axis in carry.axes:
            slices.setdefault(v.op.axis, set()).add(v.size(v.op.axis))
    for axis, sizes in slices.items():
        n, rest = divmod(carry.size(axis), min(sizes))
        if len(sizes) == 1 and not rest and 1 < n <= MOST:
            return axis, n
    return None
