"""Products of tiles: on tensor cores where both sides are large, else as sums of products."""

from __future__ import annotations

from collections.abc import Sequence

from backends.triton import tile as t
from backends.triton.evaluate import Evaluator
from backends.triton.tile import Dim, Tile
from mixer_ir.nodes.functions import Kind

LEAST = 16
"""the smallest side of a product on tensor cores"""
WIDE = 64
"""rows of a product from which Hopper multiplies four warps at once"""


def whole(e: Evaluator, x: Tile, dims: tuple[Dim, ...]) -> Tile:
    """x repeated along the dimensions that it lacks."""
    if x.dims == dims and not x.literal:
        return x
    kind = {"real": e.w.real, "int": "tl.int64", "bool": "tl.int1"}[x.kind]
    text = f"tl.full([], {x.text}, {kind})" if x.literal else x.over(dims)
    shape = ", ".join(str(d.size) for d in dims)
    text = f"tl.broadcast_to({text}, [{shape}])" if dims else text
    return e.w.let(x.text if x.text.isidentifier() else "x", text, dims, depth=x.depth, kind=x.kind)


def large(dims: set[Dim]) -> bool:
    n = 1
    for d in dims:
        n *= d.size
    return n >= LEAST


def times(e: Evaluator, x: Tile, y: Tile, kind: Kind) -> Tile:
    """x y, entry by entry; of two bare numbers a number with a type."""
    return e.w.map("{} * {}", e.typed(x, y), y, kind=kind)


def product(e: Evaluator, x: Tile, y: Tile, over: Dim, kind: Kind) -> Tile:
    """Σ x y along `over`: on tensor cores if both sides are large, else as a sum of products."""
    rows = tuple(d for d in x.dims if d not in y.dims)
    cols = tuple(d for d in y.dims if d not in x.dims)
    shared = [d for d in x.dims if d in y.dims and d != over]
    if kind != "real" or shared or not (large(set(rows)) and large(set(cols)) and over.size >= LEAST):
        return summed(e, times(e, x, y, kind), over, "sum")
    if over not in x.dims or over not in y.dims:
        both = t.joint(x, y)
        x = whole(e, x, tuple(d for d in both if d == over or d in x.dims))
        y = whole(e, y, tuple(d for d in both if d == over or d in y.dims))
        return product(e, x, y, over, kind)
    if _turns(y, x, over) < _turns(x, y, over):
        x, y, rows, cols = y, x, cols, rows
    left, right = _matrix(e, x, (rows, (over,))), _matrix(e, y, ((over,), cols))
    text = DOTS[e.w.dot].format(left, right) + (f".to({e.w.real})" if e.w.dot != "ieee" else "")
    depth = max(x.depth, y.depth)
    made = tuple(sorted((*rows, *cols)))
    flat = (*rows, *cols)
    plain = len(rows) == len(cols) == 1 and made == flat
    working = e.w.copies * over.size * (_size(rows) + _size(cols)) // (2 if e.w.dot in HALVES else 1)
    result = e.w.let("b_dot", text, made if plain else (), depth=depth, working=working)
    if plain:
        return result
    shape = ", ".join(str(d.size) for d in flat)
    turn = "{}" if len(flat) == 2 else f"tl.reshape({{}}, [{shape}])"
    if flat != made:
        turn = f"tl.permute({turn}, [{', '.join(str(flat.index(d)) for d in made)}])"
    return e.w.turn(result.text, turn, made, depth=depth)


def _turns(x: Tile, y: Tile, over: Dim) -> tuple[bool, int]:
    """What x y costs beyond the product: rows too few for the widest instruction, and how many tiles are permuted."""
    rows = tuple(d for d in x.dims if d != over)
    cols = tuple(d for d in y.dims if d != over)
    turned = (x.dims != (*rows, over), y.dims != (over, *cols), (*rows, *cols) != tuple(sorted((*rows, *cols))))
    return _size(rows) < WIDE <= _size(cols), sum(turned)


DOTS = {
    "ieee": 'tl.dot({}, {}, input_precision="ieee")',
    "tf32": 'tl.dot({}, {}, input_precision="tf32")',
    "tf32x3": 'tl.dot({}, {}, input_precision="tf32x3")',
    "bf16": "tl.dot({}.to(tl.bfloat16), {}.to(tl.bfloat16))",
    "bf16 widened": 'tl.dot({0}{2}, {1}{2}, input_precision="ieee")'.replace("{2}", ".to(tl.bfloat16).to(tl.float32)"),
    "fp16": "tl.dot({}.to(tl.float16), {}.to(tl.float16))",
}


HALVES = ("bf16", "fp16")
"""how factors are taken of which a register holds two"""


def _matrix(e: Evaluator, x: Tile, sides: tuple[tuple[Dim, ...], tuple[Dim, ...]]) -> str:
    """x as a matrix: text of two dimensions."""
    order = (*sides[0], *sides[1])
    text = x.text if x.text.isidentifier() else f"({x.text})"
    if order != x.dims and not x.symmetric:
        text = f"tl.permute({text}, [{', '.join(str(x.dims.index(d)) for d in order)}])"
    if len(order) > 2:
        rows, cols = (_size(side) for side in sides)
        text = f"tl.reshape({text}, [{rows}, {cols}])"
    return text


def _size(dims: Sequence[Dim]) -> int:
    n = 1
    for d in dims:
        n *= d.size
    return n


def summed(e: Evaluator, x: Tile, over: Dim, fn: str) -> Tile:
    """sum, prod, max or min along one dimension."""
    if over not in x.dims:
        x = whole(e, x, tuple(sorted({*x.dims, over})))
    dims = tuple(d for d in x.dims if d != over)
    i = x.dims.index(over)
    text = f"tl.reduce({x.text}, {i}, _times)" if fn == "prod" else f"tl.{fn}({x.text}, axis={i})"
    return e.w.let("b_" + fn, text, dims, depth=x.depth, kind=x.kind, light=True)
