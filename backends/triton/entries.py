"""Tiles of the operations that map entries or move them."""

from __future__ import annotations

from collections.abc import Mapping

from backends.triton import tile as t
from backends.triton.evaluate import Buffer, Cut, Evaluator, Rule, Where, literal
from backends.triton.functions import FORMS
from backends.triton.tile import Index, Tile
from lowering import program as p
from lowering.program import Value
from mixer_ir.errors import BackendError


def _constant(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Constant)
    return literal(v, v.op.value)


def _iota(e: Evaluator, v: Value, where: Where) -> Tile:
    x = where[v.axes[0]].tile
    return x if x.literal else e.w.map("{}.to(tl.int64)", x, kind="int", hint="n")


def _map(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Map)
    fn = v.op.fn
    if fn not in FORMS:
        raise BackendError(f"the triton backend has no spelling of the function {fn!r}")
    tiles = [e.at(a, where) for a in v.args]
    if all(x.literal for x in tiles) or (fn == "where" and tiles[1].literal and tiles[2].literal):
        i = 1 if fn == "where" else 0
        tiles[i] = e.typed(tiles[i], tiles[i])
    if fn == "div" and v.args[0].kind != "real":
        tiles = [e.w.map(f"({{}}).to({e.w.real})", e.typed(x, x), hint="x") for x in tiles]
    return e.w.map(FORMS[fn], *tiles, kind=v.kind, hint=NAMES.get(fn, "x"))


NAMES = {"exp": "e", "eq": "m", "lt": "m", "le": "m", "ne": "m", "and": "m", "or": "m", "not": "m"}


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
    return e.at(v.args[0], {**where, v.op.axis: t.reversed_(where[v.op.axis], v.size(v.op.axis))})


def _pad(e: Evaluator, v: Value, where: Where) -> Tile:
    assert isinstance(v.op, p.Pad)
    op, x = v.op, v.args[0]
    ix = t.shifted(where[op.axis], -op.before)
    inside = e.between(ix, 0, x.size(op.axis) if op.after else max(ix.high + 1, x.size(op.axis)))
    return e.select(inside, lambda: e.at(x, {**where, op.axis: ix}), lambda: literal(v, op.value))


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
    seen, todo = set(), [v]
    while todo:
        x = todo.pop()
        if x in seen or x in known:
            continue
        seen.add(x)
        if isinstance(x.op, p.Concat):
            return True
        todo += x.args
    return False


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
    p.Map: _map,
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
