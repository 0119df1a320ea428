"""Adjoints of what works entry by entry and of what moves entries: one row a function, one row an operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from lowering import program as p
from lowering.build import Builder, Operand
from lowering.program import Value

Rule: TypeAlias = Callable[[Builder, Value, Value], Sequence[Value | None]]
"""(builder, y, ȳ) -> the cotangents of y's arguments, on any axes; None where there is none"""

T = TypeVar("T")


def op_of(v: Value, kind: type[T]) -> T:
    """v's operation, which the caller knows to be of this kind."""
    assert isinstance(v.op, kind)
    return v.op


def conj(b: Builder, x: Operand) -> Value:
    """The conjugate; a value that is not complex is its own."""
    x = b.value(x)
    return b.map("conj", x) if x.kind == "complex" else x


def times(b: Builder, ct: Value, factor: Operand, x: Value) -> Value:
    """Σ ȳ conj(factor) over the axes that x lacks: multiplied and summed in one step."""
    return b.contract(ct, conj(b, factor), tuple(a for a in ct.axes if a not in x.axes))


def chain(slope: Callable[[Builder, Value, Value], Value]) -> Rule:
    """The rule of a holomorphic function of one argument with f′ = slope(b, x, y)."""
    return lambda b, y, ct: (b.mul(ct, conj(b, slope(b, y.args[0], y))),)


# ---------------------------------------------------------------------------------------------------- functions


def _mul(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    x, z = y.args
    return times(b, ct, z, x), times(b, ct, x, z)


def _div(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    z = y.args[1]
    return b.map("div", ct, conj(b, z)), times(b, ct, b.map("neg", b.map("div", y, z)), z)


def _pow(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    """d x^z = z x^{z−1} dx + x^z log x dz; the first is 0 where z = 0, the second where x = 0 ≤ z."""
    x, z = y.args
    if isinstance(z.op, p.Constant):
        exponent = z.op.value
        power = x if exponent == 2 else b.map("pow", x, exponent - 1)
        return (b.mul(ct, conj(b, b.mul(exponent, power))) if exponent else None), None
    slope = b.where(b.map("eq", z, 0), 0, b.mul(z, b.map("pow", x, b.sub(z, 1))))
    vanishes = b.map("eq", x, 0)
    if z.kind != "complex":
        vanishes = b.map("and", vanishes, b.map("le", 0, z))
    return times(b, ct, slope, x), times(b, ct, b.where(vanishes, 0, b.mul(y, b.map("log", x))), z)


def _sign(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    """Of x / |x|: (ȳ − y Re(conj(y) ȳ)) / |x|; a real sign is flat."""
    (x,) = y.args
    if x.kind != "complex":
        return (None,)
    radial = b.mul(y, b.map("real", b.mul(conj(b, y), ct)))
    size = b.map("abs", x)
    return (b.where(b.map("eq", size, 0), 0, b.map("div", b.sub(ct, radial), size)),)


def _larger(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    return _chosen(b, ct, y.args[0], y.args[1], b.map("lt", y.args[1], y.args[0]))


def _smaller(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    return _chosen(b, ct, y.args[0], y.args[1], b.map("lt", y.args[0], y.args[1]))


def _chosen(b: Builder, ct: Value, x: Value, z: Value, first: Value) -> Sequence[Value | None]:
    """To the one that was chosen; half to each where they are equal."""
    tie = b.where(b.map("eq", x, z), b.mul(ct, 0.5), 0)
    return b.where(first, ct, tie), b.where(b.map("or", first, b.map("eq", x, z)), tie, ct)


def _where(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    condition = y.args[0]
    return None, b.where(condition, ct, 0), b.where(condition, 0, ct)


def _mod(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    x, z = y.args
    return ct, times(b, ct, b.map("neg", b.map("floordiv", x, z)), z)


def _flat(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    return [None] * len(y.args)


FUNCTIONS: dict[str, Rule] = {
    "add": lambda b, y, ct: (ct, ct),
    "sub": lambda b, y, ct: (ct, b.map("neg", ct)),
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "neg": lambda b, y, ct: (b.map("neg", ct),),
    "exp": chain(lambda b, x, y: y),
    "log": lambda b, y, ct: (b.map("div", ct, conj(b, y.args[0])),),
    "log1p": lambda b, y, ct: (b.map("div", ct, conj(b, b.add(y.args[0], 1))),),
    "expm1": chain(lambda b, x, y: b.add(y, 1)),
    "sqrt": lambda b, y, ct: (b.map("div", ct, conj(b, b.mul(y, 2))),),
    "abs": lambda b, y, ct: (b.mul(ct, b.map("sign", y.args[0])),),
    "sign": _sign,
    "sigmoid": chain(lambda b, x, y: b.mul(y, b.sub(1, y))),
    "softplus": chain(lambda b, x, y: b.map("sigmoid", x)),
    "tanh": chain(lambda b, x, y: b.sub(1, b.mul(y, y))),
    "sin": chain(lambda b, x, y: b.map("cos", x)),
    "cos": chain(lambda b, x, y: b.map("neg", b.map("sin", x))),
    "erf": chain(lambda b, x, y: b.mul(2 / math.sqrt(math.pi), b.map("exp", b.map("neg", b.mul(x, x))))),
    "min": _smaller,
    "max": _larger,
    "where": _where,
    "real": lambda b, y, ct: (ct,),
    "imag": lambda b, y, ct: (b.mul(ct, 1j),),
    "conj": lambda b, y, ct: (conj(b, ct),),
    "complex": lambda b, y, ct: (b.map("real", ct), b.map("imag", ct)),
    "mod": _mod,
    **dict.fromkeys(("lt", "le", "eq", "ne", "and", "or", "not", "floordiv"), _flat),
}


def _map(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    return FUNCTIONS[op_of(y, p.Map).fn](b, y, ct)


# ------------------------------------------------------------------------------------------------ moving entries


def _same(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    return (ct,)


def _slice(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    """The entries put back where they came from, zeros between and around them."""
    op = op_of(y, p.Slice)
    n, axis = y.args[0].size(op.axis), op.axis
    if op.step > 1:
        gaps = f"{axis}'"
        apart = b.pad(b.split(ct, axis, axis, gaps, 1), gaps, 0, op.step - 1)
        ct = b.merge(apart, axis, gaps, axis)
        ct = b.slice(ct, axis, 0, min(ct.size(axis), n - op.start))
    return (b.pad(ct, axis, op.start, n - op.start - ct.size(axis)),)


def _pad(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    op = op_of(y, p.Pad)
    return (b.slice(ct, op.axis, op.before, op.before + y.args[0].size(op.axis)),)


def _concat(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    axis, start, parts = op_of(y, p.Concat).axis, 0, []
    for x in y.args:
        parts.append(b.slice(ct, axis, start, start + x.size(axis)))
        start += x.size(axis)
    return parts


def _split(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    op = op_of(y, p.Split)
    return (b.merge(ct, op.outer, op.inner, op.axis),)


def _merge(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    op = op_of(y, p.Merge)
    return (b.split(ct, op.axis, op.outer, op.inner, y.args[0].size(op.inner)),)


def _take(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    table, index = y.args
    axis = op_of(y, p.Take).axis
    keep = {a: n for a, n in table.sizes.items() if a != axis}
    if axis in ct.axes:  # the index has an axis of the same name
        ct, index = (b.rename(z, axis, f"{axis}'") for z in (ct, index))
    return b.put(ct, index, axis, table.size(axis), keep), None


def _put(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    return b.take(ct, op_of(y, p.Put).axis, y.args[1]), None


ENTRIES: dict[type, Rule] = {
    p.Map: _map,
    p.Expand: _same,
    p.Order: _same,
    p.Cast: _same,
    p.Slice: _slice,
    p.Pad: _pad,
    p.Concat: _concat,
    p.Flip: lambda b, y, ct: (b.flip(ct, op_of(y, p.Flip).axis),),
    p.Rename: lambda b, y, ct: (b.rename(ct, op_of(y, p.Rename).new, op_of(y, p.Rename).old),),
    p.Split: _split,
    p.Merge: _merge,
    p.Take: _take,
    p.Put: _put,
}
