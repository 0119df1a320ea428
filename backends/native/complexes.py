"""Matrix products of complex numbers as products of their real and imaginary parts."""

from __future__ import annotations

from dataclasses import replace

from backends.native.fusing import SMALL_PRODUCT, product_sizes
from lowering import program as p
from lowering.build import Builder
from lowering.program import Program, Value


def parted(program: Program) -> Program:
    """(a + ib)(c + id) = (ac − bd) + i(ad + bc) for every such product that is large, in the bodies of loops too."""
    b = Builder()
    done: dict[Value, Value] = {v: v for v in program.inputs}
    for v in program.order:
        if isinstance(v.op, p.Input):
            continue
        args = [done[a] for a in v.args]
        if isinstance(v.op, p.Scan):
            done[v] = b.again(v, args, op=replace(v.op, body=parted(v.op.body)))
        elif isinstance(v.op, p.Contract) and v.kind == "complex" and _large(v):
            done[v] = b.order(_product(b, args[0], args[1], v.op), v.axes)
        else:
            done[v] = v if args == list(v.args) else b.again(v, args)
    return Program(inputs=program.inputs, outputs=tuple(done[v] for v in program.outputs), names=program.names)


def _large(v: Value) -> bool:
    m, n, k = product_sizes(v)
    return min(m, n, k) >= 4 and m * n * k >= SMALL_PRODUCT


def _product(b: Builder, x: Value, y: Value, op: p.Contract) -> Value:
    (a, i), (c, j) = _parts(b, x), _parts(b, y)
    zero = b.const(0.0)
    real, imaginary = b.contract(a, c, op.over), zero
    if i is not None and j is not None:
        real = b.sub(real, b.contract(i, j, op.over))
    if j is not None:
        imaginary = b.contract(a, j, op.over)
    if i is not None:
        both = b.contract(i, c, op.over)
        imaginary = both if imaginary is zero else b.add(imaginary, both)
    return b.map("complex", real, imaginary)


def _parts(b: Builder, x: Value) -> tuple[Value, Value | None]:
    """The real part, and the imaginary one if there is any."""
    if x.kind != "complex":
        return b.cast(x, "real"), None
    if isinstance(x.op, p.Cast):
        return b.cast(x.args[0], "real"), None
    return b.map("real", x), b.map("imag", x)
