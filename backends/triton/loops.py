"""Kernels of values that run along an axis: affine scans, long cumulations, and loops that carry a state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from backends.triton import tile as t
from backends.triton.blocks import within
from backends.triton.bounds import turns
from backends.triton.ends import at_the_end, moved
from backends.triton.evaluate import Buffer, Cut, Evaluator, Where, meaning, stripped
from backends.triton.kernel import Grid, Kernel, Setting, assembled
from backends.triton.products import whole
from backends.triton.roots import Demands, demands, places
from backends.triton.rules import RULES
from backends.triton.sums import cumulated, fresh, looping, neutral_of, padded, running
from backends.triton.tile import Dim, Index, Tile
from backends.triton.writer import Writer
from lowering import program as p
from lowering.program import Program, Value

STEPS, LANES = 64, 32
"""of a tile of a scan that runs entry by entry: places along the axis, and beside it"""


def _evaluator(setting: Setting, buffers: Mapping[Value, Buffer], roots: set[Value]) -> Evaluator:
    e = Evaluator(Writer(setting.real, setting.dot, setting.copies), buffers, RULES, setting.block, setting.limit * 256)
    e.roots = roots
    return e


def _step(e: Evaluator, axis: str, n: int, reverse: bool, first: int = 0) -> tuple[str, Callable[[], Index]]:
    """(loop variable, the place in it): once round for every entry along `axis`, from the one of number `first`."""
    name = e.w.name(f"j_{t.word(axis)}")

    def place() -> Index:
        ix = replace(t.scalar(name, n, e.w.depth), low=first)
        return t.reversed_(ix, n) if reverse else ix

    return name, place


def affine(name: str, root: Buffer, buffers: Mapping[Value, Buffer], setting: Setting, title: str) -> Kernel:
    """h_i = a_i h_{i−1} + x_i: entry by entry in blocks by an associative scan, or one tile after the other.

    A cumulated sum is one with a = 1.
    """
    v = root.value
    op = v.op
    assert isinstance(op, p.AffineScan) or (isinstance(op, p.Cumulate) and op.fn == "sum")
    wanted = demands([v], buffers)
    if not wanted.tiles and not wanted.sums:
        return _blocks(name, root, buffers, setting, title)
    e = _evaluator(setting, buffers, {v})
    grid = Grid()
    where = places(v, wanted, grid, setting.tile, skip=op.axis)
    dims = tuple(sorted({d for ix in where.values() for d in ix.dims}))
    count = v.size(op.axis)
    h = e.w.name("b_h")

    def step(ix: Index, old: Tile | None) -> None:
        here = {**where, op.axis: ix}
        x = e.at(v.args[1], here) if isinstance(op, p.AffineScan) else cumulated(e, v, here, count)
        if old is not None:
            a = e.at(v.args[0], here) if isinstance(op, p.AffineScan) else None
            x = e.w.map("{} + {}", old, x) if a is None else e.w.map("{} * {} + {}", a, old, x)
        e.w.assign(h, whole(e, x, dims).text, dims)
        e.store(root, Tile(h, dims, "real", e.w.depth), here)

    with e.w.about("state", meaning(v)[1]):
        step(t.constant(count - 1 if op.reverse else 0), None)
        if count > 1:
            head, place = _step(e, op.axis, count, op.reverse, first=1)
            with looping(e, head, count, first=1):
                step(place(), Tile(h, dims, "real", e.w.depth))
    return assembled(name, e, grid, [root], title)


def _blocks(name: str, root: Buffer, buffers: Mapping[Value, Buffer], setting: Setting, title: str) -> Kernel:
    """An affine scan or a cumulation of entries that are cheap to compute: tiles of STEPS × LANES, carried over."""
    v = root.value
    op = v.op
    assert isinstance(op, p.AffineScan | p.Cumulate)
    e = _evaluator(setting, buffers, {v})
    grid = Grid()
    where = _lanes(v, op.axis, grid)
    n = v.size(op.axis)
    dim = fresh(t.word(op.axis), min(STEPS, padded(n, 2)), where)
    lanes = tuple(sorted({d for ix in where.values() for d in ix.dims}))
    both = tuple(sorted((*lanes, dim)))
    count = -(-n // dim.size)
    head, place = _step(e, f"{op.axis}_block", count, op.reverse)
    carry = e.w.name("b_carry")
    scan = isinstance(op, p.AffineScan)
    start = "0" if scan else neutral_of(v)
    e.w.assign(carry, f"tl.full([{_shape(lanes)}], {start}, {e.type_of(v)})", lanes)
    with looping(e, head, count):
        ix = t.joined(place(), t.counting(dim), dim.size) if count > 1 else t.counting(dim)
        here = {**where, op.axis: ix}
        old = Tile(carry, lanes, v.kind, e.w.depth)
        if isinstance(op, p.AffineScan):
            a = whole(e, e.masked(e.at(v.args[0], here), ix, n, "1"), both)
            x = whole(e, e.masked(e.at(v.args[1], here), ix, n), both)
            e.w.do(
                f"b_a, b_x = tl.associative_scan(({a.text}, {x.text}), {both.index(dim)}, _then, reverse={op.reverse})"
            )
            inner = [Tile(text, both, v.kind, e.w.depth) for text in ("b_x", "b_a")]
            y = e.w.map("{} + {} * {}", *inner, old, kind=v.kind, hint="b_h")
        else:
            form = {"sum": "{} + {}", "prod": "{} * {}", "max": "tl.maximum({}, {})"}[op.fn]
            y = e.w.map(form, running(e, v, cumulated(e, v, here, n), dim), old, kind=v.kind, hint="b_h")
        y = whole(e, y, both)
        e.store(root, y, here)
        last = t.counting(dim).tile
        edge = Tile(f"({last.text} == {0 if op.reverse else dim.size - 1})", (dim,), "bool")
        kept = e.w.map("tl.where({}, {}, 0)", edge, y, kind=v.kind)
        kept = whole(e, kept, both)
        e.w.assign(carry, f"tl.sum({kept.text}, axis={both.index(dim)})", lanes)
    return assembled(name, e, grid, [root], title)


def _lanes(v: Value, axis: str, grid: Grid) -> dict[str, Index]:
    """The other axes in a row, cut into blocks of LANES."""
    total, axes = 1, [a for a in v.axes if a != axis]
    for a in axes:
        total *= v.size(a)
    if total == 1:
        return {a: t.constant(0) for a in axes}
    dim = Dim("lane", min(padded(total), LANES))
    ix = t.counting(dim)
    if total > dim.size:
        ix = t.joined(grid.along("block", -(-total // dim.size)), ix, dim.size)
    made: dict[str, Index] = {}
    outer = total
    for a in reversed(axes):
        outer //= v.size(a)
        if outer == 1:
            made[a], ix = ix, t.constant(0)
        elif v.size(a) == 1:
            made[a] = t.constant(0)
        else:
            ix, made[a] = t.quotient(ix, v.size(a), outer)
    return made


def cumulate(name: str, root: Buffer, buffers: Mapping[Value, Buffer], setting: Setting, title: str) -> Kernel:
    """A cumulation along a long axis, or of tiles."""
    v = root.value
    wanted = Demands() if v.args[0] in buffers else demands([v.args[0]], buffers)
    if wanted.tiles or wanted.sums:
        if isinstance(v.op, p.Cumulate) and v.op.fn == "sum" and v.kind == "real" and v.op.axis not in wanted.tiles:
            return affine(name, root, buffers, setting, title)
        raise Cut(v.args[0], "is cumulated along a long axis")
    return _blocks(name, root, buffers, setting, title)


def scan(
    name: str,
    v: Value,
    roots: Mapping[int, Buffer],
    buffers: Mapping[Value, Buffer],
    setting: Setting,
    title: str,
    ends: Sequence[Buffer] = (),
) -> Kernel:
    """A loop that carries tiles.

    roots   its results that are stored, by index     ends   what is computed of its last states and stored
    """
    op = v.op
    assert isinstance(op, p.Scan)
    e = _evaluator(setting, buffers, {b.value for b in (*roots.values(), *ends)})
    grid = Grid()
    body = op.body
    wanted = _within(op, v, buffers)
    e.w.piped = bool(wanted.rows)
    where: dict[str, Index] = {}
    for x in (*body.inputs[: op.carries], *body.outputs):
        where |= places(x, wanted, grid, setting.tile, known=where)
    dims: list[tuple[Dim, ...]] = []
    nouns = [_noun(y) for y in body.outputs[: op.carries]]
    for i, x in enumerate(body.inputs[: op.carries]):
        dims.append(tuple(sorted({d for a in x.axes for d in where[a].dims})))
        with e.w.about(f"first_{nouns[i][0]}"):
            start = whole(e, e.at(v.args[i], where), dims[i])
        if x.kind != v.args[i].kind:
            raise Cut(v.args[i], "changes its kind in a loop")
        with e.w.about(nouns[i][0]):
            e.w.assign(f"S{i}", start.text, dims[i])
    head, place = _step(e, op.axis, op.length, op.reverse)
    first, count = turns(v, where) or (0, op.length)
    with looping(e, head, count, first):
        here = place()
        for i, x in enumerate(body.inputs):
            if i < op.carries:
                e.bound[x] = _carried(x, Tile(f"S{i}", dims[i], x.kind, e.w.depth), where)
            else:
                e.bound[x] = _passed(e, v.args[i], op, i < op.carries + op.steps, here)
        made = [e.at(y, where) for y in body.outputs]
        for i, b in roots.items():
            if i >= op.carries:
                e.store(b, made[i], _moved(b, {**where, op.axis: here}))
        for i in range(op.carries):
            with e.w.about(f"new_{nouns[i][0]}", nouns[i][1]):
                new = whole(e, e.typed(made[i], made[i]), dims[i])
                made[i] = e.w.let(f"S{i}_new", new.text, dims[i], depth=e.w.depth, kind=new.kind)
        for i in range(op.carries):
            with e.w.about(*nouns[i]):
                e.w.assign(f"S{i}", made[i].text, dims[i])
    for i, b in roots.items():
        if i < op.carries:
            e.store(b, Tile(f"S{i}", dims[i], body.outputs[i].kind), where)
    for x in dict.fromkeys(x for b in ends for x in at_the_end(b.value, buffers) if isinstance(x.op, p.Pick)):
        assert isinstance(x.op, p.Pick)
        e.bound[x] = _carried(x, Tile(f"S{x.op.index}", dims[x.op.index], x.kind), where)
    for b in ends:
        there = moved(b.value, where)
        e.store(b, e.at(b.value, there), there)
    return assembled(name, e, grid, [*roots.values(), *ends], title)


def placed(program: Program) -> dict[Value, Value]:
    """Results of the program that are a loop's result at other places and nothing else is: the loop stores them so."""
    readers = Counter(a for v in program.order for a in dict.fromkeys(v.args))
    outputs = Counter(program.outputs)
    made = {}
    for y in outputs:
        v = y
        while (
            isinstance(v.op, MOVED)
            and getattr(v.op, "step", 1) == 1
            and readers[v.args[0]] == 1
            and not outputs[v.args[0]]
        ):
            v = v.args[0]
        of = v.args[0].op if v is not y and isinstance(v.op, p.Pick) else None
        if isinstance(of, p.Scan) and isinstance(v.op, p.Pick) and v.op.index >= of.carries:
            made[y] = v
    return made


MOVED = (p.Rename, p.Order, p.Merge, p.Slice)


def _moved(b: Buffer, where: Where) -> Where:
    """Where a buffer's entries are, from where those of the loop's result are."""
    chain, v = [], b.value
    while b.of is not None and v is not b.of:
        chain.append(v)
        v = v.args[0]
    here = dict(where)
    for x in reversed(chain):
        if isinstance(x.op, p.Rename):
            here[x.op.new] = here.pop(x.op.old)
        elif isinstance(x.op, p.Merge):
            here[x.op.axis] = t.joined(here.pop(x.op.outer), here.pop(x.op.inner), x.args[0].size(x.op.inner))
        elif isinstance(x.op, p.Slice):
            here[x.op.axis] = t.shifted(here[x.op.axis], -x.op.start)
    return here


def _noun(y: Value) -> tuple[str, str]:
    """What a loop carries, as it is called where it is made anew; else a state."""
    y = stripped(y)
    return meaning(y) if y.label else ("state", "")


def _within(op: p.Scan, v: Value, buffers: Mapping[Value, Buffer]) -> Demands:
    """What the body and what is computed on the way into it want; an axis that the body sums over is a tile's."""
    found = demands(list(op.body.outputs), {})
    more = demands(list(v.args), buffers)
    for a in more.tiles:
        found.tiles.setdefault(a, more.tiles[a])
    found.blocks.clear()
    summed = {a for x in op.body.order if isinstance(x.op, p.Contract | p.Reduce) for a in x.op.over}
    for a in summed:
        found.tiles[a] = 3
        found.whole.add(a)
    if any(isinstance(x.op, p.AffineScan) for x in op.body.order):
        for a in within(op.body.inputs[0]):
            found.tiles[a] = 3
            found.whole.add(a)
    free = {a for x in op.body.inputs[: op.carries] for a in x.axes} - summed
    found.whole |= found.tiles.keys() - free
    found.rows = _rows(op, free)
    if not found.tiles:
        sizes = {a: n for x in op.body.inputs[: op.carries] for a, n in x.sizes.items()}
        best = max(sizes, key=lambda a: (a.startswith("_"), sizes[a]), default=None)
        if best is not None:
            found.tiles[best] = 1
    return found


def _rows(op: p.Scan, free: set[str]) -> str:
    """The axis of every carry that products take from what is the same at each step, as the rows of what they give."""
    fixed = op.body.inputs[op.carries + op.steps :]
    multiplied = {a for x in op.body.order if isinstance(x.op, p.Contract) for a in x.axes}
    shared = free.intersection(multiplied, *(x.axes for x in op.body.inputs[: op.carries]))
    found = [a for a in sorted(shared) if any(a in x.axes and len(x.axes) > 1 for x in fixed)]
    made = [a for a in found if all(a not in x.axes for x in op.body.inputs[op.carries : op.carries + op.steps])]
    return max(made, key=lambda a: max(x.size(a) for x in fixed if a in x.axes), default="")


def _carried(x: Value, tile: Tile, where: Where) -> Callable[[Where], Tile]:
    """A carry is read as it lies in registers: along a tile's axes by any name, along the grid's where this is."""

    def read(asked: Where) -> Tile:
        named: dict[Dim, Dim] = {}
        for a in x.axes:
            mine, other = where[a], asked[a]
            if mine == other:
                named |= {d: d for d in mine.dims}
            elif mine.plain is not None and other.plain is not None and mine.plain.size == other.plain.size:
                named[mine.plain] = other.plain
            else:
                raise Cut(x, "is carried, and read at other places than where it lies")
        dims = tuple(named[d] for d in tile.dims)
        order = tuple(sorted(dims))
        if order == dims:
            return Tile(tile.text, dims, tile.kind, tile.depth)
        text = f"tl.permute({tile.text}, [{', '.join(str(dims.index(d)) for d in order)}])"
        return Tile(text, order, tile.kind, tile.depth)

    return read


def _passed(e: Evaluator, arg: Value, op: p.Scan, stepped: bool, here: Index) -> Callable[[Where], Tile]:
    """An argument of the loop, at this step."""
    return lambda asked: e.at(arg, {**asked, op.axis: here} if stepped else asked)


def _shape(dims: tuple[Dim, ...]) -> str:
    return ", ".join(str(d.size) for d in dims)
