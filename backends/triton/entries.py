"""Tiles of the operations that map entries or move them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from backends.triton import tile as t
from backends.triton.evaluate import Buffer, Cut, Evaluator, Rule, Where, computed, gathered, literal, swapped
from backends.triton.functions import FORMS
from backends.triton.tile import Index, Tile
from lowering import program as p
from lowering.program import Value
from mixer_ir.errors import BackendError


def _constant(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Constant)
    return literal(v, v.op.value)


def _iota(e: Evaluator, v: Value, where: Where) -> Tile:
    return where[v.axes[0]].tile


SMALL = 1 << 30
"""whole numbers below this are computed in the 32 bits that places have"""


def reach(v: Value) -> int | None:
    """What no entry of v exceeds in size, if that is known."""
    if isinstance(v.op, p.Iota):
        return v.shape[0]
    if isinstance(v.op, p.Constant):
        return abs(int(v.op.value.real))
    if isinstance(v.op, p.Map) and v.op.fn in ("add", "sub", "mul", "mod", "floordiv", "min", "max", "neg"):
        sizes = [reach(a) for a in v.args]
        if None in sizes:
            return None
        x, y = (sizes * 2)[:2]
        assert x is not None and y is not None
        return {"add": x + y, "sub": x + y, "mul": x * y, "mod": y}.get(v.op.fn, max(x, y))
    return reach(v.args[0]) if isinstance(v.op, p.Expand | p.Order | p.Rename | p.Slice | p.Split | p.Merge) else None


def _whole(e: Evaluator, v: Value, fn: str, tiles: list[Tile]) -> Tile | None:
    """Whole numbers: in 64 bits where 32 may not do, and by shifts where it is divided by a power of two."""
    far = any((n := reach(x)) is None or n >= SMALL for x in (v, *v.args))
    if far:
        tiles[:] = [x if x.literal else e.w.map("{}.to(tl.int64)", x, kind="int", hint="n") for x in tiles]
    divisor = v.args[-1].op
    if fn in ("floordiv", "mod") and isinstance(divisor, p.Constant) and not tiles[0].literal:
        n = int(divisor.value.real)
        if n == 1:
            return tiles[0] if fn == "floordiv" else literal(v, 0)
        if n > 0 and n & (n - 1) == 0:
            form = f"{{}} >> {n.bit_length() - 1}" if fn == "floordiv" else f"{{}} & {n - 1}"
            return e.w.map(form, tiles[0], kind="int", hint="n")
    return None


def mapped(e: Evaluator, v: Value, where: Where) -> Tile:
    """A function entry by entry."""
    assert isinstance(v.op, p.Map)
    fn = v.op.fn
    if fn not in FORMS:
        raise BackendError(f"the triton backend has no spelling of the function {fn!r}")
    if fn == "pow" and v.kind == "real" and (number := _power(v)) is not None:
        return literal(v, number)
    tiles = [e.at(a, where) for a in v.args]
    if v.kind == "int" and all(a.kind == "int" for a in v.args) and (made := _whole(e, v, fn, tiles)) is not None:
        return made
    if all(x.literal for x in tiles) or (fn == "where" and tiles[1].literal and tiles[2].literal):
        i = 1 if fn == "where" else 0
        tiles[i] = e.typed(tiles[i], tiles[i])
    if fn == "div" and v.args[0].kind != "real":
        tiles = [e.w.map(f"({{}}).to({e.w.real})", e.typed(x, x), hint="x") for x in tiles]
    if fn == "add" and (made := e.w.added(*tiles)) is not None:
        return made
    form = f"_near_{fn}({{}})" if fn in ("sin", "cos") and _near(e, v.args[0]) else FORMS[fn]
    return e.w.map(form, *tiles, kind=v.kind, hint=NAMES.get(fn, "x"))


def _power(v: Value) -> float | None:
    """A number to the power of a number: it is one."""
    x, y = ((a.args[0] if isinstance(a.op, p.Cast) else a).op for a in v.args)
    if isinstance(x, p.Constant) and isinstance(y, p.Constant) and float(x.value.real) > 0:
        return math.pow(float(x.value.real), float(y.value.real))
    return None


def _near(e: Evaluator, angle: Value) -> bool:
    """Whether an angle is known to be a few turns at most, in single precision."""
    return e.w.real == "tl.float32" and size_of(angle) <= NEAR


NEAR = 8 * 3.15
"""angles up to which float32 reduces them"""


def size_of(v: Value) -> float:
    """The most that |v| can be, as far as its operations tell."""
    match v.op:
        case p.Constant(value=value):
            return abs(value)
        case p.Iota():
            return v.shape[0] - 1
        case p.Cast() | p.Expand() | p.Order() | p.Rename() | p.Slice() | p.Split() | p.Merge() | p.Flip():
            return size_of(v.args[0])
        case p.Map(fn="mul"):
            return size_of(v.args[0]) * size_of(v.args[1])
        case p.Map(fn="add" | "sub"):
            return size_of(v.args[0]) + size_of(v.args[1])
        case p.Map(fn="neg"):
            return size_of(v.args[0])
        case p.Map(fn="mod"):
            return size_of(v.args[1])
    return float("inf")


NAMES = {"exp": "e", "exp2": "e", "eq": "m", "lt": "m", "le": "m", "ne": "m", "and": "m", "or": "m", "not": "m"}


def _same(e: Evaluator, v: Value, where: Where) -> Tile:
    return e.at(v.args[0], where)


def _cast(e: Evaluator, v: Value, where: Where) -> Tile:
    x = e.at(v.args[0], where)
    if x.literal:
        value = {"True": 1, "False": 0}.get(x.text, x.text)
        return literal(v, float(value) if v.kind == "real" and "float" not in str(value) else eval_literal(str(value)))
    if v.kind == "bool":
        return e.w.map("{} != 0", x, kind="bool", hint="m")
    return e.w.map(f"{{}}.to({e.type_of(v)})", x, kind=v.kind)


def eval_literal(text: str) -> float | int:
    return float(text[7:-2]) if text.startswith("float(") else float(text) if "." in text or "e" in text else int(text)


def _rename(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Rename)
    return e.at(v.args[0], {**where, v.op.old: where[v.op.new]})


def _split(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Split)
    op = v.op
    return e.at(v.args[0], {**where, op.axis: t.joined(where[op.outer], where[op.inner], v.size(op.inner))})


def _merge(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Merge)
    op, x = v.op, v.args[0]
    outer, inner = t.quotient(where[op.axis], x.size(op.inner), x.size(op.outer))
    return e.at(x, {**where, op.outer: outer, op.inner: inner})


def _slice(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Slice)
    op = v.op
    ix = t.constant(op.start) if v.size(op.axis) == 1 else t.strided(where[op.axis], op.step, op.start)
    return e.at(v.args[0], {**where, op.axis: ix})


def _flip(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Flip)
    ix = where[v.op.axis]
    if v.size(v.op.axis) == 2:
        half, made = t.half(ix), [*computed(v.args[0], e.buffers)]
        if half is not None and any(isinstance(x.op, p.Map | SUMMING) for x in made):
            return swapped(e, e.at(v.args[0], where), *half)
        if ix.plain is not None and ix.plain.size == 2 and any(isinstance(x.op, SUMMING) for x in made):
            return swapped(e, e.at(v.args[0], where), ix.plain, 1)
    return e.at(v.args[0], {**where, v.op.axis: t.reversed_(where[v.op.axis], v.size(v.op.axis))})


def _pad(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Pad)
    op, x = v.op, v.args[0]
    ix = t.shifted(where[op.axis], -op.before)
    if _beyond(e, x, op.axis) == op.value:
        return e.at(x, {**where, op.axis: ix})
    inside = e.between(ix, 0, x.size(op.axis) if op.after else max(ix.high + 1, x.size(op.axis)))
    return e.select(inside, lambda: _beside(e, x, where, op.axis, ix), lambda: literal(v, op.value))


def _beyond(e: Evaluator, x: Value, axis: str) -> float | None:
    """The number that x is beyond the ends of an axis as it is computed: of what is read there, which is 0."""
    if x in e.buffers and x not in e.roots:
        return 0.0 if axis in x.axes else None
    match x.op:
        case p.Constant(value=value) if not isinstance(value, complex):
            return float(value)
        case p.Rename(old=old, new=new):
            return _beyond(e, x.args[0], old if axis == new else axis)
        case p.Order() | p.Expand() | p.Cast() | p.Detach():
            return _beyond(e, x.args[0], axis)
        case p.Map(fn="exp" | "exp2"):
            return 1.0 if _beyond(e, x.args[0], axis) == 0 else None
        case p.Map(fn=fn) if fn in NUMBERS:
            args = [n for a in x.args if (n := _beyond(e, a, axis)) is not None]
            return NUMBERS[fn](*args) if len(args) == len(x.args) else None
    return None


NUMBERS: dict[str, Callable[..., float]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "neg": lambda x: -x,
}


def _beside(e: Evaluator, x: Value, where: Where, axis: str, ix: Index) -> Tile:
    """x at `ix`; what sums, asked for some places on from a whole tile, is computed in place and moved in registers."""
    dim = None if ix.origin is None else ix.origin[0].plain
    sums = any(isinstance(u.op, SUMMING) and axis in u.axes for u in computed(x, e.buffers))
    if ix.origin is None or dim is None or dim.size < x.size(axis) or not sums:
        return e.at(x, {**where, axis: ix})
    return gathered(e, e.at(x, {**where, axis: ix.origin[0]}), dim, ix.origin[1])


SUMMING = p.Contract | p.Reduce | p.Cumulate


def _concat(e: Evaluator, v: Value, where: Where) -> Tile:
    """One part or the other; of parts that are joins along a vector themselves, only one is evaluated in place."""
    assert isinstance(v.op, p.Concat)
    axis = v.op.axis

    def part(i: int, ix: Index) -> Tile:
        x = v.args[i]
        here = {**where, axis: ix}
        if i == len(v.args) - 1:
            return e.at(x, here)
        n = x.size(axis)
        inside = e.between(ix, min(0, ix.low), n)
        return e.select(inside, lambda: e.at(x, here), lambda: part(i + 1, t.shifted(ix, -n)))

    if where[axis].dims:
        for x in v.args:
            if x not in e.buffers and joins(x, e.buffers):
                raise Cut(x, "joins inside a join")
    return part(0, where[axis])


def joins(v: Value, known: Mapping[Value, Buffer]) -> bool:
    """Whether a join is evaluated in place on the way to v."""
    return any(isinstance(x.op, p.Concat) for x in computed(v, known))


def _take(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Take)
    table, index = v.args
    if table not in e.buffers:
        raise Cut(table, "is read at places that are computed")
    i = e.at(index, where)
    ix = Index(i, -t.ANYWHERE, t.ANYWHERE, moved=True) if not i.literal else t.constant(int(i.text))
    return e.at(table, {**where, v.op.axis: ix})


ENTRIES: dict[type, Rule] = {
    p.Constant: _constant,
    p.Iota: _iota,
    p.Map: mapped,
    p.Expand: _same,
    p.Order: _same,
    p.Cast: _cast,
    p.Rename: _rename,
    p.Split: _split,
    p.Merge: _merge,
    p.Slice: _slice,
    p.Flip: _flip,
    p.Pad: _pad,
    p.Concat: _concat,
    p.Take: _take,
}
"""operation -> its tile"""
