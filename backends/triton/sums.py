"""Tiles of the operations that sum: contractions, reductions, scans and triangular solves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from math import prod

from backends.triton import tile as t
from backends.triton.affine import affine_of, part_of
from backends.triton.chains import companions, transforms
from backends.triton.evaluate import Cut, Evaluator, Rule, Where, computed
from backends.triton.inverses import is_eye
from backends.triton.products import LEAST, large, product, summed, times, whole
from backends.triton.schedule import Line, names_in
from backends.triton.tile import Dim, Index, Tile
from lowering import program as p
from lowering.program import Value

WHOLE = 128
"""the longest axis that a tile spans; longer ones are summed in blocks"""
BLOCK = 64
ENTRIES = 1 << 15
"""the most entries of a tile that is summed, where products of matrices sum MOST"""
MOST = 256
FEW = 1 << 12
"""entries of a tile that is summed at once for a result of few entries; entry by entry as many as MOST allows"""


TURN = 1 << 10
"""entries of a tile that takes transforms in each turn of a sum"""


def padded(n: int, least: int = 1) -> int:
    return max(1 << (n - 1).bit_length(), least)


def fresh(name: str, size: int, where: Where) -> Dim:
    """A dimension of this name, or a longer one, that no index of `where` varies over."""
    used = {d.name for ix in where.values() for d in ix.dims}
    while name in used:
        name += "_"
    return Dim(name, size)


@contextmanager
def looping(e: Evaluator, variable: str, count: int | str, first: int | str = 0) -> Iterator[None]:
    """A loop whose variable is a 64-bit number."""
    e.memo.append({})
    with e.w.loop(f"for n_{variable} in range({f'{first}, ' if first else ''}{count})"):
        with e.w.about(""):
            e.w.do(f"{variable} = tl.full([], n_{variable}, tl.int64)")
        yield
    e.memo.pop()


class Range:
    """The entries that a sum runs over: one dimension for all axes, in one tile or in blocks.

    places   of each axis     deep   whether what is summed takes products itself: its blocks are not made smaller
    beside   entries of a tile's other dimension that is summed after the loop
    """

    def __init__(
        self,
        e: Evaluator,
        v: Value,
        sizes: dict[str, int],
        where: Where,
        most: int,
        least: int = 1,
        deep: bool = False,
        beside: int = 1,
    ) -> None:
        entries = beside * prod(d.size for d in {d for a in v.axes for d in where[a].dims})
        sizes = {a: n for a, n in sizes.items() if n > 1}
        self.e, self.v, self.sizes, self.where = e, v, sizes, where
        self.count = 1
        for n in sizes.values():
            self.count *= n
        self.blocked = self.count > most
        if self.blocked and e.summing:
            raise Cut(v, "a loop inside a loop")
        if self.blocked and most < LEAST and v not in e.roots:
            raise Cut(v, "too many entries at once")
        few = FEW if least > 1 or deep else max(FEW * e.block // MOST, FEW // 2 if entries == 1 else 0)
        size = (
            min(BLOCK if entries > BLOCK else max(few // entries, 1), padded(most))
            if self.blocked
            else padded(self.count, least)
        )
        self.dim = fresh("".join(t.word(a) for a in sizes) or "one", size, where)
        self.places: dict[str, Index] = {}
        self.index = t.counting(self.dim)

    def enter(self) -> AbstractContextManager[None]:
        """The loop over blocks, if it takes more than one."""
        return self._blocks() if self.blocked else self._once()

    @contextmanager
    def _once(self) -> Iterator[None]:
        self._place(t.counting(self.dim))
        yield

    @contextmanager
    def _blocks(self) -> Iterator[None]:
        n = self.dim.size
        start = self.e.w.name(f"j_{self.dim.name}")
        self.e.summing += 1
        with looping(self.e, start, -(-self.count // n)):
            outer = t.scalar(start, -(-self.count // n), self.e.w.depth)
            self._place(t.joined(outer, t.counting(self.dim), n) if n > 1 else outer)
            yield
        self.e.summing -= 1

    def _place(self, ix: Index) -> None:
        self.index = ix
        axes = list(self.sizes)
        for i, a in reversed(list(enumerate(axes))):
            outer = 1
            for x in axes[:i]:
                outer *= self.sizes[x]
            if i == 0:
                self.places[a] = ix
            else:
                ix, self.places[a] = t.quotient(ix, self.sizes[a], outer)

    def masked(self, x: Tile, neutral: str = "0") -> Tile:
        return self.e.masked(x, self.index, self.count, neutral)


def _places(e: Evaluator, v: Value, over: Sequence[str]) -> tuple[dict[str, int], dict[str, Index]]:
    x = v.args[0]
    sizes = {a: x.size(a) for a in over}
    return sizes, {a: t.constant(0) for a, n in sizes.items() if n == 1}


def _check(v: Value, where: Where) -> None:
    """Sums are computed where they are asked for in order; scattered ones are read from memory."""
    if any(where[a].moved for a in v.axes):
        raise Cut(v, "is asked for out of order")


def _contract(e: Evaluator, v: Value, where: Where) -> Tile:
    """Σ x y over some axes as one; of what a loop carries, whose axes are dimensions of their own, over each."""
    state = e.state()
    try:
        return _joint(e, v, where)
    except Cut as cut:
        if cut.value not in e.bound or (places := _each(e, v, where)) is None:
            raise
    e.restore(state)
    x, y = (_inside(e, v, u, {**where, **places}, "0") for u in v.args)
    return _in_turn(e, v, times(e, x, y, v.kind), places, "sum")


def _each(e: Evaluator, v: Value, where: Where) -> dict[str, Index] | None:
    """A dimension for each axis that a sum runs over; None where there is but one, or tiles would be large."""
    sizes, ones = _places(e, v, v.op.over)  # type: ignore[union-attr]
    long = {a: padded(n) for a, n in sizes.items() if n > 1}
    entries = prod(d.size for d in {d for a in v.axes for d in where[a].dims})
    if len(long) < 2 or prod(long.values()) * entries > _room(e):
        return None
    made, used = dict(ones), dict(where)
    for a, n in long.items():
        made[a] = used[a] = t.counting(fresh(t.word(a), n, used))
    return made


def _inside(e: Evaluator, v: Value, x: Value, where: Where, neutral: str) -> Tile:
    """What a sum is taken of, `neutral` beyond the ends of the axes that it runs over."""
    made = e.at(x, where)
    for a in v.op.over:  # type: ignore[union-attr]
        made = e.masked(made, where[a], x.size(a), neutral) if a in x.axes else made
    return made


def _in_turn(e: Evaluator, v: Value, x: Tile, places: Mapping[str, Index], fn: str) -> Tile:
    for ix in places.values():
        for dim in ix.dims:
            x = summed(e, x, dim, fn)
    return x


def _joint(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Contract)
    _check(v, where)
    x, y = v.args
    sizes, places = _places(e, v, v.op.over)
    left = {d for a in x.axes if a in where for d in where[a].dims}
    right = {d for a in y.axes if a in where for d in where[a].dims}
    entries = 1
    for d in left | right:
        entries *= d.size
    if entries == 1 and not e.summing and (rows := _rows(e, v)) is not None:
        return _by_rows(e, v, where, rows, {**sizes}, places)
    tensor = v.kind == "real" and not left & right and large(left - right) and large(right - left)
    most = most_at_once(e, v) if tensor else max(min(_room(e) // max(entries, 1), WHOLE * 8), 1)
    also: list[Value] = []
    deep = False
    if (
        not tensor
        and not e.summing
        and any(isinstance(u.op, p.Contract) for z in v.args for u in computed(z, e.buffers))
    ):
        most, deep = min(e.block, max(_room(e) // max(entries, 1), 1)), True  # of rows that take products themselves
        if prod(sizes.values()) <= WHOLE and _cumulates(e, v):
            most = max(most, WHOLE)
        if any(transforms(z, e.buffers) for z in v.args):
            most, deep = max(TURN // max(entries, 1), 1), False  # each a tile of its own
            also = companions(v, [u for u in e.buffers if u in e.roots], e.buffers)
    r = Range(e, v, sizes, where, most, LEAST if tensor else 1, deep=deep)
    if not r.sizes:
        return times(e, e.at(x, {**where, **places}), e.at(y, {**where, **places}), v.kind)

    def term(u: Value) -> Tile:
        here = {**where, **places, **r.places}
        left, right = (r.masked(e.factor(z, here)) for z in u.args)
        return product(e, left, right, r.dim, u.kind) if r.dim.size > 1 else times(e, left, right, u.kind)

    if not r.blocked:
        return accumulated(e, r, v, lambda: term(v), "{} + {}", "0")
    first, *others = accumulated_all(e, r, {u: partial(term, u) for u in (v, *also)}, "{} + {}", "0")
    for u, made in zip(also, others, strict=True):
        e.keep(u, {a: where[a] for a in u.axes}, made)
    return first


def _rows(e: Evaluator, v: Value) -> str | None:
    """Of the axes that a single sum of many entries runs over, that which is a tile's: arrays are read as they lie."""
    x = v.args[0]
    over = [a for a in v.op.over if x.size(a) > 1]  # type: ignore[union-attr]
    both = all(a in z.axes for a in over for z in v.args)
    if len(over) < 2 or not both or prod(x.size(a) for a in over) <= FEW:
        return None
    if any(isinstance(u.op, p.Contract) for z in v.args for u in computed(z, e.buffers)):
        return None
    return next((a for a in reversed(over) if BLOCK <= x.size(a) <= WHOLE), None)


def _by_rows(e: Evaluator, v: Value, where: Where, axis: str, sizes: dict[str, int], places: dict[str, Index]) -> Tile:
    """Σ_{k v} x y of many entries: sums over v for a tile of all k, in a loop; then their sum."""
    n = sizes.pop(axis)
    rows = t.counting(fresh(t.word(axis), padded(n), where))
    here = {**where, axis: rows}
    (dim,) = rows.dims
    r = Range(e, v, sizes, here, max(min(_room(e), 2 * FEW) // dim.size, 1), beside=dim.size)

    def term() -> Tile:
        left, right = (e.masked(r.masked(e.at(z, {**here, **places, **r.places})), rows, n) for z in v.args)
        return product(e, left, right, r.dim, v.kind)

    return summed(e, accumulated(e, r, v, term, "{} + {}", "0"), dim, "sum")


def _cumulates(e: Evaluator, v: Value) -> bool:
    """Whether what is summed is cumulated along what the sum runs over: no part of it can be had by itself."""
    assert isinstance(v.op, p.Contract)
    made = (u for z in v.args for u in computed(z, e.buffers))
    return any(isinstance(u.op, p.Cumulate) and u.op.axis in v.op.over for u in made)


def _room(e: Evaluator) -> int:
    """The most entries of a tile that is summed entry by entry."""
    return ENTRIES * e.block // MOST


def most_at_once(e: Evaluator, v: Value) -> int:
    """The entries that a product of matrices sums without a loop: loops are for factors that take no products."""
    if e.summing or any(isinstance(x.op, p.Contract | p.Solve) for a in v.args for x in computed(a, e.buffers)):
        return WHOLE * 2
    return e.block


def accumulated(e: Evaluator, r: Range, v: Value, term: Callable[[], Tile], form: str, neutral: str) -> Tile:
    """The term, or the sum of the terms of all blocks."""
    if not r.blocked:
        with r.enter():
            return term()
    return accumulated_all(e, r, {v: term}, form, neutral)[0]


def accumulated_all(
    e: Evaluator, r: Range, terms: Mapping[Value, Callable[[], Tile]], form: str, neutral: str
) -> list[Tile]:
    """The sums of the terms of all blocks, in one loop."""
    names = [e.w.name("acc") for _ in terms]
    with r.enter():
        made = [term() for term in terms.values()]
        if (same := _same(e, r)) is not None:
            raise Cut(same, "takes products, and every program would compute all of it again")
        for name, v, x in zip(names, terms, made, strict=True):
            shape = ", ".join(str(d.size) for d in x.dims)
            e.w.assign(name, f"tl.full([{shape}], {neutral}, {e.type_of(v)})", x.dims, outside=True)
            e.w.assign(name, form.format(name, x.text), x.dims)
        depth = e.w.depth - 1
    return [
        e.w.let("b_sum", name, x.dims, depth=depth, kind=v.kind) for name, v, x in zip(names, terms, made, strict=True)
    ]


def _same(e: Evaluator, r: Range) -> Value | None:
    """What the innermost loop computes by products of matrices, though it is the same all along an axis of programs."""
    texts = [names_in(r.where[a].text) for a in r.v.axes if r.where[a].plain is None]
    places = {x for x in (frozenset(n for n in names if n.startswith("i_")) for names in texts) if x}
    if not places or e.bound:
        return None
    text = {x.name: x.text for lines in e.w.stack for x in lines if isinstance(x, Line) and x.name}
    inside = {x.name for x in e.w.stack[-1] if isinstance(x, Line)}
    known: dict[str, tuple[bool, frozenset[str]]] = {}

    def told(names: Sequence[str]) -> tuple[bool, frozenset[str]]:
        """(whether the loop takes a product for these names, the places that they hang on)."""
        for n in names:
            if n not in known:
                known[n] = False, frozenset()
                product, hangs = told(names_in(text.get(n, "")))
                own = n in inside and "tl.dot(" in text[n]
                known[n] = own or product, hangs | {n} if n.startswith("i_") else hangs
        return any(known[n][0] for n in names), frozenset().union(*(known[n][1] for n in names))

    found = [v for (v, _), (x, _) in e.memo[-1].items() if _alike(*told(names_in(x.text)), places)]
    return found[-1] if found else None


def _alike(product: bool, hangs: frozenset[str], places: set[frozenset[str]]) -> bool:
    return product and any(x.isdisjoint(hangs) for x in places)


REDUCE = {
    "sum": ("{} + {}", "0", "0"),
    "max": ("tl.maximum({}, {})", 'float("-inf")', str(-(1 << 62))),
    "min": ("tl.minimum({}, {})", 'float("inf")', str(1 << 62)),
}


def _reduce(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Reduce)
    x = v.args[0]
    form, least, least_int = REDUCE[v.op.fn]
    neutral = least_int if v.kind == "int" else least
    sizes, places = _places(e, v, v.op.over)
    if all(n == 1 for n in sizes.values()):
        return e.at(x, {**where, **places})
    _check(v, where)
    entries = 1
    for d in {d for a in v.axes for d in where[a].dims}:
        entries *= d.size
    r = Range(e, v, sizes, where, max(min(_room(e) // entries, 1 << 12), 1))

    def term() -> Tile:
        return summed(e, r.masked(e.at(x, {**where, **places, **r.places}), neutral), r.dim, v.op.fn)  # type: ignore[union-attr]

    return accumulated(e, r, v, term, form, neutral)


def _affine_scan(e: Evaluator, v: Value, where: Where) -> Tile:
    """States along a whole axis, in a loop over blocks of steps (sweeps.py); others are kernels of their own."""
    assert isinstance(v.op, p.AffineScan)
    op, n, ix = v.op, v.size(v.op.axis), where[v.op.axis]
    if not e.bound or n > WHOLE or ix.plain is None or ix.plain.size < n:
        raise Cut(v, "is computed by itself", always=not e.bound)
    both = tuple(sorted({d for a in v.axes for d in where[a].dims}))
    a, x = (e.masked(e.at(y, where), ix, n, beyond) for y, beyond in zip(v.args, "10", strict=True))
    text = f"_affine({_filling(e, (a, x), both)}, {both.index(ix.plain)}, {op.reverse})"
    return e.w.let("b_h", text, both, depth=max(a.depth, x.depth), kind=v.kind)


def _filling(e: Evaluator, tiles: Sequence[Tile], dims: tuple[Dim, ...]) -> str:
    """The tiles as arguments, each along all dimensions."""
    shape = ", ".join(str(d.size) for d in dims)
    given = (x.text if x.dims == dims else f"tl.broadcast_to({e.typed(x, x).over(dims)}, [{shape}])" for x in tiles)
    return ", ".join(given)


def _scanned(e: Evaluator, v: Value, where: Where) -> Tile:
    """A part of the states of a scan of pairs, where it is computed as a real one is; both are computed at once."""
    if (of := affine_of(v.args[0])) is None:
        raise Cut(v, "is computed by itself", always=True)
    n, ix = of.sizes[of.axis], where[of.axis]
    if not e.bound or n > WHOLE or ix.plain is None or ix.plain.size < n:
        raise Cut(v, "is computed by itself", always=not e.bound)
    both = tuple(sorted({d for a in v.axes for d in where[a].dims}))
    key = ("pairs", v.args[0], tuple(where[a].text for a in v.axes), both)
    if (found := next((level[key][0] for level in e.memo if key in level), None)) is None:
        args = zip((*of.factors, *of.inputs), "1000", strict=True)
        tiles = [e.masked(e.at(y, where), ix, n, beyond) for y, beyond in args]
        text = f"_affine_pairs({_filling(e, tiles, both)}, {both.index(ix.plain)}, {of.reverse})"
        found = e.w.let("b_h", text, both, depth=max(x.depth for x in tiles), parts=2)
        e.memo[min(found.depth, len(e.memo) - 1)][key] = found, ()
    return replace(found, text=f"{found.text}[{part_of(v)}]")


def _solve(e: Evaluator, v: Value, where: Where) -> Tile:
    """(I − L)⁻¹ r: the inverse by substitution in small blocks, which are then merged."""
    assert isinstance(v.op, p.Solve)
    op, right = v.op, v.args[1]
    n, ix = v.size(op.row), where[op.row]
    if n > WHOLE or v not in e.roots or ix.plain is None or ix.plain.size < n:
        raise Cut(v, "a triangular system", always=v not in e.roots)
    side = next((where[a].plain for a in right.axes if a != op.row and a not in v.args[0].axes), None)
    if is_eye(right) and side is not None and side.size == ix.plain.size:
        return _inverted(e, v, where, ix.plain, side)
    col = fresh(t.word(op.col), ix.plain.size, where)
    inverse = _inverted(e, v, where, ix.plain, col)
    r = e.masked(e.at(right, {**where, op.row: t.counting(col)}), t.counting(col), n)
    return product(e, inverse, r, col, v.kind)


def _inverted(e: Evaluator, v: Value, where: Where, row: Dim, col: Dim) -> Tile:
    """(I − L)⁻¹, once for all systems of one L."""
    assert isinstance(v.op, p.Solve)
    op, lower = v.op, v.args[0]
    key = ("inverse", op.upper, lower, tuple(where[a].text for a in lower.axes if a in where), row, col)
    if key in e.memo[0]:
        return e.memo[0][key][0]
    n = v.size(op.row)
    matrix = e.at(lower, {**where, op.col: t.counting(col)})
    matrix = e.masked(e.masked(matrix, where[op.row], n), t.counting(col), n)
    if set(matrix.dims) - {row, col}:
        raise Cut(v, "several triangular systems in one tile")
    both = tuple(sorted((row, col)))
    matrix = whole(e, matrix, both)
    first, second = (col, row) if op.upper else (row, col)
    text = matrix.text if both == (first, second) else f"tl.trans({matrix.text})"
    made = e.w.let("b_inv", f"_inverse_{row.size}({text})", (first, second), depth=matrix.depth)
    if both != (first, second):
        made = e.w.let("b_inv", f"tl.trans({made.text})", both, depth=matrix.depth, light=True)
    e.memo[0][key] = made, ()
    return made


SUMS: dict[type, Rule] = {
    p.Contract: _contract, p.Reduce: _reduce, p.AffineScan: _affine_scan, p.Pick: _scanned, p.Solve: _solve,
}  # fmt: skip
