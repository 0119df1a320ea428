"""From values to tiles: the text that computes a value at given places along its axes.

Evaluation pulls: a consumer asks for the entries it wants, and operations that only move or map entries pass the
question on, so that slices, joins and changes of axes become arithmetic on addresses. What has to see a whole axis at
once, or is asked for at places that it cannot serve, raises `Cut`: that value is then computed by a kernel of its own
and read from memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeAlias

from backends.triton import tile as t
from backends.triton.functions import FORMS
from backends.triton.tile import Index, Tile, factor
from backends.triton.writer import Writer
from lowering import program as p
from lowering.fused import fixed, zeros
from lowering.program import Value

Where: TypeAlias = Mapping[str, Index]
DEEP = 120
"""values on the way to one, beyond which it is read from memory: each takes several of Python's own frames"""
OFTEN = 64
"""places at which one program computes a value, beyond which it is read from memory: a tree of slices has thousands"""


class Cut(Exception):
    """This value has to be in memory before it can be read so; `always`: whatever the sizes of tiles."""

    def __init__(self, value: Value, why: str, *, always: bool = False) -> None:
        super().__init__(f"{value}: {why}")
        self.value, self.always = value, always


@dataclass(frozen=True, slots=True)
class Buffer:
    """A value in memory, packed in the order of its axes, or of `layout` where only kernels read it.

    of   the result of a loop that the value is, at other places; or the loop at whose end it is computed
    """

    name: str
    value: Value
    layout: tuple[str, ...] | None = None
    of: Value | None = field(default=None, compare=False)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes as they lie, the last one without gaps."""
        return self.layout or self.value.axes

    @property
    def strides(self) -> tuple[int, ...]:
        """That of each axis of the value."""
        return _strides(self.value, self.axes)


@lru_cache(maxsize=1 << 12)
def _strides(v: Value, axes: tuple[str, ...]) -> tuple[int, ...]:
    """The strides of v's axes in an array that is packed in the order of `axes`."""
    made, step = {}, 1
    for a in reversed(axes):
        made[a] = step
        step *= v.size(a)
    return tuple(made[a] for a in v.axes)


class Evaluator:
    """Tiles of the values of one kernel.

    rules     operation -> its tile
    buffers   values that are read from memory          bound   inputs of loop bodies: how they are computed here
    loaded    the buffers that were read                block   entries that products of matrices sum at once
    stored    buffer -> where it was stored             enough  registers of all threads together that tiles may take
    """

    def __init__(
        self,
        writer: Writer,
        buffers: Mapping[Value, Buffer],
        rules: Mapping[type, Rule],
        block: int = 256,
        enough: int = 0,
    ) -> None:
        self.w = writer
        self.block, self.enough = block, enough
        self.rules = rules
        self.buffers = buffers
        self.bound: dict[Value, Callable[[Mapping[str, Index]], Tile]] = {}
        self.loaded: dict[Value, None] = {}
        self.stored: dict[str, list[Where]] = {}
        self.memo: list[dict[Any, tuple[Tile, tuple[t.Dim, ...]]]] = [{}]
        self.roots: set[Value] = set()
        self.summing = 0
        self.asked: Counter[Value] = Counter()
        self.depth = 0

    def at(self, v: Value, where: Where) -> Tile:
        """The tile of v's entries at `where` (by axis; further axes are ignored)."""
        here = {a: where[a] for a in v.axes}
        slots: dict[t.Dim, int] = {}
        key = (v, tuple(t.place_of(ix, slots) for ix in here.values()))
        for level in reversed(self.memo):
            if (found := level.get(key)) is not None:
                return _renamed(found[0], dict(zip(found[1], slots, strict=True)))
        made = self._made(v, here)
        if symmetric(v) and all(ix.plain for ix in here.values()) and len({d.size for d in made.dims}) == 1:
            made = replace(made, symmetric=True)
        self.memo[min(made.depth, len(self.memo) - 1)][key] = made, tuple(slots)
        return made

    def keep(self, v: Value, where: Where, made: Tile) -> None:
        """What v is at `where`, computed beside another value."""
        slots: dict[t.Dim, int] = {}
        key = (v, tuple(t.place_of(where[a], slots) for a in v.axes))
        self.memo[min(made.depth, len(self.memo) - 1)][key] = made, tuple(slots)

    def _made(self, v: Value, where: Where) -> Tile:
        if v in self.bound:
            return self.bound[v](where)
        if v in self.buffers and v not in self.roots:
            return self.load(v, where)
        rule = self.rules.get(type(v.op))
        if rule is None:
            raise Cut(v, "is computed by itself", always=True)
        self.asked[v] += isinstance(v.op, p.Map | p.Contract | p.Reduce)
        if self.asked[v] > OFTEN:
            raise Cut(v, "is computed at many places by one program")
        if self.depth >= DEEP:
            raise Cut(v, "is far from what is asked for", always=True)
        state = self.state()
        self.depth += 1
        try:
            with self.w.about(*meaning(v)):
                made: Tile = rule(self, v, where)
        except Cut as cut:
            if cut.value is not v or (moved := self._moved(v, where, state)) is None:
                raise
            made = moved
        finally:
            self.depth -= 1
        return made

    def _moved(self, v: Value, where: Where, state: tuple[int, int]) -> Tile | None:
        """What can only be computed in order, asked for some places on: computed in order, then moved in registers."""
        for a, ix in where.items():
            if ix.origin is not None and (dim := ix.origin[0].plain) is not None and dim.size >= v.size(a):
                self.restore(state)
                x = self.at(v, {**where, a: ix.origin[0]})
                return gathered(self, x, dim, ix.origin[1])
        return None

    def state(self) -> tuple[int, int]:
        """What to come back to if an attempt ends in a Cut."""
        return len(self.memo), self.summing

    def restore(self, state: tuple[int, int]) -> None:
        depth, self.summing = state
        del self.memo[depth:]
        del self.w.stack[depth:]

    # ------------------------------------------------------------------ memory

    def factor(self, v: Value, where: Where) -> Tile:
        """What `at` gives, as a factor of a product: of what is in memory, the part that masks leave is loaded alone.

        A part that is chosen from a tile is held in registers until its last product. Where these suffice, one load
        and many choices cost less.
        """
        made = None if self.w.repeats else self._part(v, where, ())
        return self.at(v, where) if made is None else made

    def _part(self, v: Value, where: Where, masks: tuple[Tile, ...]) -> Tile | None:
        """v behind masks of numbers, 0 elsewhere, if it is in memory behind such masks alone."""
        match v.op:
            case p.Map(fn="where") if fixed(mask := v.args[0]) and v not in self.buffers:
                kept, other = v.args[1:]
                zero = [zeros(x) for x in (kept, other)]
                if sum(zero) == 1:
                    m = self.at(mask, where)
                    m = self.w.map(FORMS["not"], m, kind="bool", hint="m") if zero[0] else m
                    return self._part(other if zero[0] else kept, where, (*masks, m))
            case p.Rename(old=old, new=new) if v not in self.buffers:
                return self._part(v.args[0], {**where, old: where[new]}, masks)
            case p.Order() if v not in self.buffers:
                return self._part(v.args[0], where, masks)
        here = masks and v in self.buffers and v not in self.roots and v not in self.bound
        return self.load(v, where, masks) if here else None

    def load(self, v: Value, where: Where, masks: tuple[Tile, ...] = ()) -> Tile:
        """v from memory, where masks say so."""
        buffer = self.buffers[v]
        self.loaded[v] = None
        offset, mask, dims, depth = self.place(buffer, where, masks)
        address = f"p_{buffer.name}" + (f" + {offset}" if offset else "")
        text = f"tl.load({address}" + (f", mask={mask}, other=0)" if mask else ")")
        text += {"real": f".to({self.w.real})", "int": ".to(tl.int64)", "bool": " != 0"}[v.kind]
        hint = f"b_{buffer.name}"
        clean = frozenset(d for a in v.axes if (d := where[a].plain) is not None and v.kind != "bool")
        with self.w.about(buffer.name):
            return self.w.let(hint, text, dims, depth=depth, kind=v.kind, clean=clean)

    def place(
        self, buffer: Buffer, where: Where, also: tuple[Tile, ...] = ()
    ) -> tuple[str, str, tuple[t.Dim, ...], int]:
        """(offset, mask, dimensions, depth) of a buffer's entries; further masks."""
        v = buffer.value
        used = [(where[a], stride, n) for a, stride, n in zip(v.axes, buffer.strides, v.shape, strict=True)]
        dims = t.joint(*(ix.tile for ix, _, _ in used))
        terms: list[str] = []
        masks = [(x, factor(x.over(dims))) for x in also]
        for ix, stride, n in used:
            masks += [(x, f"({factor(x.over(dims))} {limit})") for x, limit in ix.conditions(n)]
            if ix.dims or (n > 1 and ix.text != "0"):
                text = factor(ix.tile.over(dims))
                far = max(abs(ix.high), abs(ix.low)) * stride >= 1 << 31
                text = f"{text}.to(tl.int64)" if far and ix.dims and ix.plain else text
                terms.append(text if stride == 1 else f"{text} * {stride}")
        depth = max((x.depth for x in (*(ix.tile for ix, _, _ in used), *also)), default=0)
        return " + ".join(terms), _all(masks, dims), dims, depth

    def store(self, buffer: Buffer, x: Tile, where: Where) -> None:
        """x written to a buffer, inside the innermost loop."""
        self.stored.setdefault(buffer.name, []).append(where)
        offset, mask, dims, _ = self.place(buffer, where)
        text = x.over(dims)
        if x.literal or set(x.dims) != set(dims):
            shape = ", ".join(str(d.size) for d in dims)
            typed = f"tl.full([], {x.text}, {self.type_of(buffer.value)})" if x.literal else text
            text = f"tl.broadcast_to({typed}, [{shape}])" if dims else typed
        if buffer.value.kind == "bool":
            text = f"({text}).to(tl.int8)"
        address = f"p_{buffer.name}" + (f" + {offset}" if offset else "")
        self.w.do(f"tl.store({address}, {text}" + (f", mask={mask})" if mask else ")"))

    def type_of(self, v: Value) -> str:
        return {"real": self.w.real, "int": "tl.int64", "bool": "tl.int1"}[v.kind]

    # ------------------------------------------------------------------ conditions and masks

    def between(self, ix: Index, low: int, high: int) -> Tile | bool:
        """Whether low ≤ ix < high: known, or a tile."""
        if ix.low >= low and ix.high < high:
            return True
        if ix.high < low or ix.low >= high:
            return False
        text = factor(ix.text)
        parts = [f"({text} >= {low})"] * (ix.low < low) + [f"({text} < {high})"] * (ix.high >= high)
        return Tile(f"({' & '.join(parts)})", ix.dims, "bool", ix.tile.depth)

    def select(self, condition: Tile | bool, yes: Callable[[], Tile], no: Callable[[], Tile]) -> Tile:
        if isinstance(condition, bool):
            return yes() if condition else no()
        x, y = yes(), no()
        return self.w.map("tl.where({}, {}, {})", condition, self.typed(x, y), y, kind=x.kind, hint="x")

    def typed(self, x: Tile, y: Tile) -> Tile:
        """x, given its type if both are bare numbers."""
        if not (x.literal and y.literal):
            return x
        kind = {"real": self.w.real, "int": "tl.int64", "bool": "tl.int1"}[x.kind]
        return self.w.let("x", f"tl.full([], {x.text}, {kind})", (), depth=0, kind=x.kind, light=True)

    def wide(self, x: Tile) -> Tile:
        """x in 64 bits if it holds whole numbers."""
        return x if x.kind != "int" or x.literal else self.w.map("{}.to(tl.int64)", x, kind="int", hint="n")

    def masked(self, x: Tile, ix: Index, size: int, neutral: str = "0") -> Tile:
        """x with `neutral` where ix is beyond the axis; whole numbers in 64 bits, as they are summed."""
        x = self.wide(x)
        conditions = list(ix.conditions(size))
        if not conditions or (neutral == "0" and ix.plain is not None and ix.plain in x.clean):
            return x
        text = " & ".join(f"({factor(c.over(ix.dims))} {limit})" for c, limit in conditions)
        inside = Tile(f"({text})", ix.dims, "bool", ix.tile.depth)
        other = Tile(neutral, literal=True, kind=x.kind)
        return self.w.map("tl.where({}, {}, {})", inside, self.typed(x, other), other, kind=x.kind)


def meaning(v: Value) -> tuple[str, str]:
    """(what v is in a word, the step of the derivation that it belongs to), as lowering or its operation says."""
    noun, _, step = v.label.partition(": ")
    op = v.op
    if isinstance(op, p.Map):
        noun = noun or WORDS.get(op.fn, op.fn)
    elif isinstance(op, p.Reduce):
        noun = noun or op.fn
    return noun or OPERATIONS.get(type(op), type(op).__name__.lower()), step


def hint(v: Value) -> str:
    """What a value is called in memory that is no result of the program."""
    return {p.Pick: "state", p.AffineScan: "states", p.Contract: "dot", p.Solve: "w"}.get(
        type(v.op), type(v.op).__name__.lower()
    )


def stripped(v: Value) -> Value:
    """What v is before its axes are named, ordered or parted otherwise."""
    while isinstance(v.op, p.Rename | p.Order | p.Expand | p.Merge | p.Split):
        v = v.args[0]
    return v


WORDS = {
    "add": "sum", "sub": "difference", "mul": "product", "div": "quotient", "neg": "negative", "where": "chosen",
    "eq": "same", "ne": "other", "lt": "below", "le": "upto", "and": "both", "or": "either", "not": "not",
    "floordiv": "block", "mod": "rest",
}  # fmt: skip
OPERATIONS: dict[type, str] = {
    p.Contract: "dot", p.Cumulate: "cumulated", p.AffineScan: "states", p.Solve: "solved", p.Pad: "padded",
    p.Concat: "joined", p.Take: "taken", p.Flip: "flipped", p.Iota: "place",
}  # fmt: skip
"""what a value is called that lowering gave no name, by its function or operation"""


@lru_cache(maxsize=1 << 12)
def symmetric(v: Value) -> bool:
    """Whether v[i, j] = v[j, i] is seen from its operations: a function of i · j, as the matrix of a transform."""
    if len(v.shape) != 2 or v.shape[0] != v.shape[1] or not isinstance(v.op, p.Map | p.Cast):
        return False
    if all(isinstance(a.op, p.Iota) for a in v.args) and isinstance(v.op, p.Map):
        return v.op.fn in ("mul", "add")
    return all(not a.shape or symmetric(a) for a in v.args)


def computed(v: Value, known: Mapping[Value, Buffer]) -> Iterator[Value]:
    """What is evaluated in place on the way to v."""
    seen, todo = set(), [v]
    while todo:
        x = todo.pop()
        if x not in seen and x not in known:
            seen.add(x)
            yield x
            todo += x.args


def reached(values: Iterable[Value], known: Mapping[Value, Buffer]) -> Iterator[Buffer]:
    """What is in memory on the way to some values, these included."""
    seen, todo = set(), [*values]
    while todo:
        x = todo.pop()
        if x in seen:
            continue
        seen.add(x)
        if x in known:
            yield known[x]
        else:
            todo += x.args


def gathered(e: Evaluator, x: Tile, dim: t.Dim, by: int) -> Tile:
    """The entries `by` places on along a dimension; beyond its ends, those there."""
    place = t.shifted(t.counting(dim), by).tile.text
    return _gathered(e, x, dim, f"tl.minimum(tl.maximum({place}, 0), {dim.size - 1})")


def swapped(e: Evaluator, x: Tile, dim: t.Dim, m: int) -> Tile:
    """The halves of every block of 2m in each other's place."""
    if dim not in x.dims or dim.size > 2:
        return _gathered(e, x, dim, f"{t.counting(dim).text} ^ {m}")
    i, last = x.dims.index(dim), len(x.dims) - 1
    text = f"_exchanged({x.text})"
    if i < last:
        order, back = [*range(i), *range(i + 1, last + 1), i], [*range(i), last, *range(i, last)]
        text = f"tl.permute(_exchanged(tl.permute({x.text}, {order})), {back})"
    return e.w.let("b_moved", text, x.dims, depth=x.depth, kind=x.kind)


def _gathered(e: Evaluator, x: Tile, dim: t.Dim, place: str) -> Tile:
    if dim not in x.dims:
        return x
    shape = ", ".join(str(d.size) for d in x.dims)
    index = Tile(f"({place})", (dim,)).over(x.dims)
    text = f"tl.gather({x.text}, tl.broadcast_to({index}, [{shape}]), {x.dims.index(dim)})"
    return e.w.let("b_moved", text, x.dims, depth=x.depth, kind=x.kind)


def _renamed(x: Tile, names: Mapping[t.Dim, t.Dim]) -> Tile:
    """The same tile along dimensions of other names."""
    dims = tuple(names[d] for d in x.dims)
    if dims == x.dims:
        return x
    order = tuple(sorted(dims))
    text = x.text
    if order != dims and not x.symmetric:
        text = f"tl.permute({text}, [{', '.join(str(dims.index(d)) for d in order)}])"
    return replace(x, text=text, dims=order, clean=frozenset(names[d] for d in x.clean if d in names))


def _all(conditions: list[tuple[Tile, str]], dims: tuple[t.Dim, ...]) -> str:
    """All conditions as one, for a tile of `dims`. Those of single numbers choose between the others and nothing: `&`
    would make them a tile, which Triton 3.9's interpreter makes of whole numbers, and whole numbers are no mask for it.
    """
    tiles = " & ".join(dict.fromkeys(text for x, text in conditions if x.dims))
    numbers = " & ".join(dict.fromkeys(text for x, text in conditions if not x.dims))
    if not numbers or not dims:
        return numbers or tiles
    everywhere = f"tl.full([{', '.join(str(d.size) for d in dims)}], True, tl.int1)"
    return f"tl.where({numbers}, {tiles or everywhere}, False)"


def literal(v: Value, value: Any) -> Tile:
    """A number as text."""
    if v.kind == "bool":
        return Tile(str(bool(value)), (), "bool", 0, True)
    if v.kind == "int":
        return Tile(str(int(value)), (), "int", 0, True)
    x = float(value)
    text = repr(x) if math.isfinite(x) else f'float("{x}")'
    return Tile(text, (), "real", 0, True)


Rule: TypeAlias = Callable[[Evaluator, Value, Where], Tile]
