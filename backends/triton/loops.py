"""Kernels of values that run along an axis: affine scans, long cumulations, and loops that carry a state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from math import prod

from backends.triton import tile as t
from backends.triton.affine import Affine, affine_of
from backends.triton.blocks import within
from backends.triton.bounds import turns
from backends.triton.cumulations import cumulated, neutral_of, running
from backends.triton.ends import at_the_end, moved
from backends.triton.evaluate import Buffer, Cut, Evaluator, Where, computed, meaning, stripped
from backends.triton.kernel import Grid, Kernel, Setting, assembled
from backends.triton.products import whole
from backends.triton.roots import Demands, demands, places
from backends.triton.rules import RULES
from backends.triton.sums import WHOLE, fresh, looping, padded
from backends.triton.tile import Dim, Index, Tile
from lowering import program as p
from lowering.program import Program, Value

LARGEST = 64
"""entries along an axis of lowering's own, of which a loop without products carries a tile along two"""
STEPS, LANES = 64, 32
"""of a tile of a scan that runs entry by entry: places along the axis, and beside it"""


def _evaluator(setting: Setting, buffers: Mapping[Value, Buffer], roots: set[Value]) -> Evaluator:
    e = Evaluator(setting.writer(), buffers, RULES, setting.block, setting.limit * 256)
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
        return _blocks(name, v, {0: root}, buffers, setting, title)
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


def pairs(
    name: str, v: Value, roots: Mapping[int, Buffer], buffers: Mapping[Value, Buffer], setting: Setting, title: str
) -> Kernel:
    """A scan of pairs: the parts of its states that are stored, by number. What is summed for it lies in memory."""
    for x in v.args:
        wanted = demands([x], buffers)
        if x not in buffers and (wanted.tiles or wanted.sums):
            raise Cut(x, "is summed for a scan of pairs")
    return _blocks(name, v, roots, buffers, setting, title)


def _blocks(
    name: str, v: Value, roots: Mapping[int, Buffer], buffers: Mapping[Value, Buffer], setting: Setting, title: str
) -> Kernel:
    """An affine scan or a cumulation of entries that are cheap to compute: tiles of STEPS × LANES, carried over.

    What it cumulates along the same axis on the way is cumulated beside it, not read from memory.
    """
    op, of = v.op, affine_of(v)
    like = next(iter(roots.values())).value
    along = op if of is None else of
    assert isinstance(along, p.Cumulate | Affine)
    axis, reverse = along.axis, along.reverse
    e = _evaluator(setting, buffers, {b.value for b in roots.values()})
    grid = Grid()
    where = _lanes(like, axis, grid)
    n = like.size(axis)
    dim = fresh(t.word(axis), min(STEPS, padded(n, 2)), where)
    lanes = tuple(sorted({d for ix in where.values() for d in ix.dims}))
    both = tuple(sorted((*lanes, dim)))
    count = -(-n // dim.size)
    head, place = _step(e, f"{axis}_block", count, reverse)
    every = [*_before(v, buffers), v]
    carries = {x: [e.w.name("b_carry") for _ in (of.inputs if of is not None else "1")] for x in every}
    for x, names in carries.items():
        start = "0" if of is not None else neutral_of(x)
        for carry in names:
            e.w.assign(carry, f"tl.full([{_shape(lanes)}], {start}, {e.type_of(like)})", lanes)
    with looping(e, head, count):
        ix = t.joined(place(), t.counting(dim), dim.size) if count > 1 else t.counting(dim)
        here = {**where, axis: ix}
        edge = Tile(f"({t.counting(dim).text} == {0 if reverse else dim.size - 1})", (dim,), "bool")
        for x in every:
            old = [Tile(carry, lanes, like.kind, e.w.depth) for carry in carries[x]]
            if of is not None:
                made = _after(e, of, here, old, both, both.index(dim))
            else:
                assert isinstance(x.op, p.Cumulate)
                form = {"sum": "{} + {}", "prod": "{} * {}", "max": "tl.maximum({}, {})"}[x.op.fn]
                run = running(e, x, cumulated(e, x, here, n), dim)
                made = [e.w.map(form, run, *old, kind=x.kind, hint="b_h")]
            made = [whole(e, y, both) for y in made]
            if x is not v:
                e.bound[x] = _here(x, made[0], here)
            for i, b in roots.items() if x is v else ():
                e.store(b, made[i], here)
            for carry, y in zip(carries[x], made, strict=True):
                kept = whole(e, e.w.map("tl.where({}, {}, 0)", edge, y, kind=like.kind), both)
                e.w.assign(carry, f"tl.sum({kept.text}, axis={both.index(dim)})", lanes)
    return assembled(name, e, grid, [*roots.values()], title)


def _after(e: Evaluator, of: Affine, here: Where, old: Sequence[Tile], dims: tuple[Dim, ...], along: int) -> list[Tile]:
    """The states of a block, in parts, after those that entered it."""
    ix, n = here[of.axis], of.sizes[of.axis]
    given = zip((*of.factors, *of.inputs), "10" if len(old) == 1 else "1000", strict=True)
    tiles = [whole(e, e.masked(e.at(y, here), ix, n, beyond), dims) for y, beyond in given]
    names, then = (("b_a", "b_x"), "_then") if len(old) == 1 else (RESULTS, "_then_pairs")
    given_ = ", ".join(x.text for x in tiles)
    e.w.do(f"{', '.join(names)} = tl.associative_scan(({given_}), {along}, {then}, reverse={of.reverse})")
    inner = [Tile(text, dims, "real", e.w.depth) for text in names]
    if len(old) == 1:
        a, x = inner
        return [e.w.map("{} + {} * {}", x, a, *old, hint="b_h")]
    (re, im, x, y), (h, g) = inner, old
    return [
        e.w.map("{} + {} * {} - {} * {}", x, re, h, im, g, hint="b_h"),
        e.w.map("{} + {} * {} + {} * {}", y, re, g, im, h, hint="b_h"),
    ]


RESULTS = ("b_a", "b_a_im", "b_x", "b_x_im")
"""factors and states of a scan of pairs in a block that starts from 0"""


def _before(v: Value, buffers: Mapping[Value, Buffer]) -> list[Value]:
    """What is cumulated in the same direction along the same axis on the way to v's argument, entry by entry."""
    found: dict[Value, None] = {}

    def visit(x: Value) -> None:
        alike = isinstance(x.op, p.Cumulate) and isinstance(v.op, p.Cumulate) and {*x.axes} == {*v.axes}
        beside = alike and (x.op.axis, x.op.reverse) == (v.op.axis, v.op.reverse)  # type: ignore[union-attr]
        if x not in found and (beside or (x not in buffers and isinstance(x.op, p.Map | p.Cast | p.Order | p.Expand))):
            for a in x.args:
                visit(a)
            if beside and not x.op.exclusive:  # type: ignore[union-attr]
                found[x] = None

    for a in v.args if isinstance(v.op, p.Cumulate) else ():
        visit(a)
    return [*found]


def _here(v: Value, made: Tile, here: Where) -> Callable[[Where], Tile]:
    """What is computed block by block, where it is asked for at the block's own places."""

    def read(asked: Where) -> Tile:
        if any(asked[a] != here[a] for a in v.axes):
            raise Cut(v, "is cumulated block by block, and read at other places")
        return made

    return read


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
    before = _before(v, buffers)
    known = {**buffers, **{x: Buffer("", x) for x in before}}
    asked = [a for x in (v, *before) for a in x.args if a not in known]
    wanted = demands(asked, known) if asked else Demands()
    if wanted.tiles or wanted.sums:
        if isinstance(v.op, p.Cumulate) and v.op.fn == "sum" and v.kind == "real" and v.op.axis not in wanted.tiles:
            return affine(name, root, buffers, setting, title)
        raise Cut(v.args[0], "is cumulated along a long axis")
    return _blocks(name, v, {0: root}, buffers, setting, title)


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
    sizes: dict[str, int] = {}
    own: dict[Value, dict[str, Index]] = {}
    for x in (*body.inputs[: op.carries], *body.outputs):
        own[x] = _named_alike(x, sizes, where)
        sizes = x.sizes | sizes
        where |= {**places(x, wanted, grid, setting.tile, known={**where, **own[x]}), **where}
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
        made: dict[int, Tile] = {}

        def renewed(i: int) -> None:
            """The state that the step leaves, under a name of its own."""
            made[i] = e.at(body.outputs[i], where)
            with e.w.about(f"new_{nouns[i][0]}", nouns[i][1]):
                new = whole(e, e.typed(made[i], made[i]), dims[i])
                made[i] = e.w.let(f"S{i}_new", new.text, dims[i], depth=e.w.depth, kind=new.kind)

        early = [i for i in range(op.carries) if _summed(op, i)]
        for i in early:
            renewed(i)
        made |= {i: e.at(y, {**where, **own[y]}) for i, y in enumerate(body.outputs) if i not in early}
        for i, b in roots.items():
            if i >= op.carries:
                e.store(b, made[i], _moved(b, {**where, **own[body.outputs[i]], op.axis: here}))
        for i in range(op.carries):
            if i not in early:
                renewed(i)
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


def _named_alike(x: Value, sizes: Mapping[str, int], where: Where) -> dict[str, Index]:
    """Places along those axes of what a step gives that are called as longer or shorter ones of the loop's."""
    made: dict[str, Index] = {}
    for a, n in x.sizes.items():
        if sizes.get(a, n) != n:
            if n > WHOLE:
                raise Cut(x, "has an axis called as another of the loop")
            made[a] = t.counting(fresh(t.word(a), padded(n), {**where, **made}))
    return made


def _summed(op: p.Scan, i: int) -> bool:
    """Whether a state is a sum of less than another state has, which waits for none: what is summed is free then."""
    carries, y = op.body.inputs[: op.carries], stripped(op.body.outputs[i])
    least = prod(carries[i].shape) < max(prod(x.shape) for x in carries)
    if not least or not isinstance(y.op, p.Map) or y.op.fn != "add" or carries[i] not in y.args:
        return False
    return all(x is carries[i] or {*computed(x, {})}.isdisjoint(carries) for x in y.args)


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
    summed |= _otherwise(op, summed)
    for a in summed:
        found.tiles[a] = 3
        found.whole.add(a)
    if any(affine_of(x) is not None for x in op.body.order):
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
            own = [a for a in sizes if a.startswith("_") and 1 < sizes[a] <= LARGEST]
            found.tiles |= dict.fromkeys({best, *own} if prod(sizes[a] for a in own) <= LARGEST**2 else [best], 1)
    return found


def _otherwise(op: p.Scan, summed: Set[str]) -> set[str]:
    """The axes of carries that the body sums over by other names, as a transition's transpose does."""
    carries, found = {*op.body.inputs[: op.carries]}, set()
    todo = [(y, a) for x in op.body.order if isinstance(x.op, p.Contract | p.Reduce) for a in x.op.over for y in x.args]
    seen = set()
    while todo:
        x, a = todo.pop()
        if a not in x.axes or (x, a) in seen:
            continue
        seen.add((x, a))
        if x in carries:
            found |= {a} - summed
        elif isinstance(x.op, p.Rename):
            todo.append((x.args[0], x.op.old if a == x.op.new else a))
        else:
            todo += [(y, a) for y in x.args]
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
