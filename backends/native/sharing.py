"""Axes along which everything is independent: the part of a program that runs apart for each piece of them.

Which values those are says backends/native/judging.py; parts of sums over such axes are added up at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod

from backends.native.fusing import STRIDED, is_product, is_streamed, left_narrow, product_sizes
from backends.native.judging import WHOLE, Judge, Outside, Parts
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value

WORTH = 1 << 19
"""operations below which a program is not shared out"""
LARGE = 1 << 22
"""operations of one matrix product from which threads share it out better among themselves, as they do streamed ones"""
VIEWS = (*STRIDED, p.Pad, p.Flip, p.Merge, p.Expand)
TILE = 64
"""entries of an axis that lie side by side in memory, in one piece"""


@dataclass(frozen=True, slots=True)
class Shared(p.Region):
    """A region that runs apart for every piece of some axes.

    tiles   (axis, its size, the size of a piece)
    parts   for each result the axes over which its pieces are to be added up
    """

    tiles: tuple[tuple[str, int, int], ...] = ()
    parts: tuple[Parts, ...] = ()


def shared(program: Program) -> Program:
    """The program with its largest parts that can be shared out as regions; the same if there is none.

    Large matrix products are not shared out so: what lies before, between and after them is one part each.
    """
    if work(program) < WORTH:
        return program
    for number in range(max(_stages(program).values(), default=0) + 1):
        program = _shared(program, {v for v, stage in _stages(program).items() if stage == number})
    return program


def _stages(program: Program) -> dict[Value, int]:
    """How many large products lie one after the other before a value; neither they nor what they read narrow count."""
    found: dict[Value, int] = {}
    after: dict[Value, int] = {}
    narrow = left_narrow(program)
    for v in program.order:
        stage = max((after[a] for a in v.args), default=0)
        after[v] = stage
        if is_streamed(v) or (is_product(v) and prod(product_sizes(v)) >= LARGE):
            after[v] += 1
        elif v not in narrow:
            found[v] = stage
    return found


def _shared(program: Program, part: set[Value]) -> Program:
    """The program with what can be shared out of a part of it as one region."""
    whole = sum(_work(v) for v in part)
    if whole < WORTH:
        return program
    best: tuple[str, ...] = ()
    covered, inside = 0.0, {}
    tiles: dict[str, int] = {}
    edge = _edge(program, part)
    sizes = {a: n for v in reversed(edge) for a, n in v.sizes.items()}
    for axis, tile in _candidates(edge):
        found = _classes(program, part, {a: sizes[a] for a in (*best, axis)})
        reached = sum(_work(v) for v, c in found.items() if c is not None)
        if reached >= max(0.95 * covered, 0.5 * whole):
            best, covered, inside = (*best, axis), reached, found
            tiles[axis] = tile
    if prod(sizes[a] // tiles[a] for a in best) < 2:
        return program
    return _cut_out(program, _without_last_views(program, inside), tuple((a, sizes[a], tiles[a]) for a in best))


def _without_last_views(program: Program, inside: Mapping[Value, Parts | None]) -> dict[Value, Parts | None]:
    """Less what only looks differently at what is inside, for readers outside: they can look for themselves."""
    found = dict(inside)
    read = set(program.outputs)  # by something inside, or at the end
    for v in reversed(program.order):
        if found[v] is not None and isinstance(v.op, VIEWS) and v not in read:
            found[v] = None
        if found[v] is not None:
            read.update(v.args)
    return found


def _edge(program: Program, part: set[Value]) -> list[Value]:
    """What a part of a program takes, and what it leaves."""
    taken = dict.fromkeys(a for v in program.order if v in part for a in v.args if a not in part)
    taken |= dict.fromkeys(v for v in program.inputs if v in part)
    left = dict.fromkeys(a for v in program.order if v not in part for a in v.args if a in part)
    left |= dict.fromkeys(v for v in program.outputs if v in part)
    return [*taken, *left]


def _candidates(edge: Sequence[Value]) -> list[tuple[str, int]]:
    """(axis, piece): single entries, but of what lies side by side, where many are taken at once."""
    found: dict[str, int] = {}
    arrays = sorted(edge, key=lambda v: -prod(v.shape))
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
    if isinstance(v.op, p.Region):
        return work(v.op.body)
    if isinstance(v.op, p.Contract):
        return float(prod(v.shape) * prod(v.args[0].size(a) for a in v.op.over))
    if isinstance(v.op, p.Input | p.Constant | p.Pick | p.Iota):
        return 0.0
    return float(max(prod(v.shape), *(prod(a.shape) for a in v.args)))


# ------------------------------------------------------------------------------------------------ what is inside


def _classes(program: Program, part: set[Value], sizes: Mapping[str, int]) -> dict[Value, Parts | None]:
    """For each value its parts if it is inside, else None."""
    judge = Judge(sizes)
    found: dict[Value, Parts | None] = {}
    after: set[Value] = set()  # outside, and computed from what is inside
    for v in program.order:
        found[v] = None
        follows = any(a in after for a in v.args)
        if v in part and not follows:
            with suppress(Outside):
                found[v] = judge.of(v, found, strict=False)
                continue
        if follows or any(found[a] is not None for a in v.args):
            after.add(v)
    return found


# ------------------------------------------------------------------------------------------------ cutting it out


def _cut_out(
    program: Program, inside: Mapping[Value, Parts | None], tiles: tuple[tuple[str, int, int], ...]
) -> Program:
    """The program with all that is inside as one region."""
    outer, inner = Builder(), Builder()
    alone = _without_inputs(program, Judge({a: n for a, n, _ in tiles}))
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
    leaving = [
        v for v in program.order if inside[v] is not None and v in read and not isinstance(v.op, p.Scan | p.Region)
    ]
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


def _without_inputs(program: Program, judge: Judge) -> set[Value]:
    """What is computed from numbers and positions alone, the same way for a piece as for the whole."""
    found: set[Value] = set()
    for v in program.order:
        same = isinstance(v.op, p.Constant | p.Iota | p.Map | p.Expand | p.Cast | p.Order) and not judge.other(v)
        if same and all(a in found for a in v.args):
            found.add(v)
    return found
