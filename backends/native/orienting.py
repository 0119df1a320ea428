"""Which sides of matrix products are columns: what lies innermost in the program's inputs, and in the factors.

A product is as well computed transposed. With all arrays lying alike, loops go along whole vectors; and a factor whose
columns lie side by side is read where it lies, where another is packed first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from backends.native.fusing import STRIDED, is_decay, is_product, product_axes
from lowering import program as p
from lowering.build import Builder
from lowering.parts import KEY
from lowering.program import Program, Value

Readers = Mapping[Value, Sequence[Value]]
ALONG = (*STRIDED, p.Map, p.Cast, p.Expand, p.Pad, p.Flip, p.Concat, p.Cumulate)
"""operations whose result lies as their argument does"""
DEEP = 4
"""how many of them are looked through"""


def oriented(program: Program, inner: frozenset[str] | None = None, fixed: int | None = None) -> Program:
    """The program with the factors of its products in such an order, in the bodies of its loops too.

    Axes lie as backends/uniform.py leaves them; after this pass they have to be laid out again.

    inner   the axes that lie innermost in the inputs of the whole program, under any name
    fixed   of a body the inputs that lie as they are declared; the others then have those axes last
    """
    inner = _innermost(program) if inner is None else inner
    b = Builder()
    done = {x: x if fixed is None or i < fixed else _inner_last(b, x, inner) for i, x in enumerate(program.inputs)}
    inputs = tuple(done.values())
    readers: defaultdict[Value, list[Value]] = defaultdict(list)
    for v in program.order:
        for a in v.args:
            readers[a].append(v)
    for v in program.order:
        if isinstance(v.op, p.Input):
            continue
        args = [done[a] for a in v.args]
        op = v.op
        if isinstance(op, p.Scan):
            op = replace(op, body=oriented(op.body, inner, op.carries))
        if is_product(v) and _other_way(v, inner, readers):
            args.reverse()
        done[v] = v if args == list(v.args) and op is v.op else b.again(v, args, op=op)
    outputs = tuple(done[v] for v in program.outputs)
    return Program(inputs=inputs, outputs=outputs, names=program.names)


def _inner_last(b: Builder, x: Value, inner: frozenset[str]) -> Value:
    assert isinstance(x.op, p.Input)
    axes = sorted(x.axes, key=lambda a: a in inner)
    return b.input(x.op.name, tuple(axes), tuple(x.size(a) for a in axes), x.kind)


def _innermost(program: Program) -> frozenset[str]:
    known = {a for v in program.inputs if (a := _last(v)) is not None}
    names = [(v.op.old, v.op.new) for v in _every(program) if isinstance(v.op, p.Rename)]
    while more := {b if a in known else a for a, b in names if (a in known) != (b in known)}:
        known |= more
    return frozenset(known)


def _every(program: Program) -> Iterator[Value]:
    """All values, those of bodies too."""
    for v in program.order:
        yield v
        if isinstance(v.op, p.Scan | p.Region):
            yield from _every(v.op.body)


def _other_way(v: Value, inner: frozenset[str], readers: Readers) -> bool:
    """Whether the columns of a product are rather those of its first factor."""
    x, y = v.args
    _, rows, columns, _ = product_axes(v)
    known = [not inner.isdisjoint(axes) for axes in (rows, columns)]
    if known[0] != known[1]:
        return known[0]
    lie = [_last(factor) in axes for factor, axes in ((x, rows), (y, columns))]
    if lie[0] != lie[1]:
        return lie[0]
    left, right = frozenset(rows), frozenset(columns)
    return _votes(v, left, right, readers) > _votes(v, right, left, readers)


def _last(v: Value) -> str | None:
    """The axis along which entries lie side by side."""
    return next((a for a in reversed(v.axes) if v.size(a) > 1), None)


def _votes(v: Value, axes: frozenset[str], others: frozenset[str], readers: Readers, deep: int = DEEP) -> int:
    """How many readers would have one of these axes last, and none of the others."""
    total = 0
    for r in readers[v]:
        op = r.op
        if is_product(r):
            assert isinstance(op, p.Contract)
            total += not axes & set(op.over) and bool(others & set(op.over))
        elif is_decay(r):
            total += KEY in axes
        elif isinstance(op, p.Solve):
            total += not axes & {op.row, op.col}
        elif isinstance(op, ALONG) and deep:
            if isinstance(op, p.Map):
                total += sum(_last(a) in axes and others <= set(a.axes) for a in r.args if a is not v)
            names = {op.old: op.new} if isinstance(op, p.Rename) else {}
            here, there = (frozenset(names.get(a, a) for a in side) for side in (axes, others))
            total += _votes(r, here, there, readers, deep - 1)
    return total
