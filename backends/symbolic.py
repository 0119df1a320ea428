"""The symbolic backend: arrays of SymPy expressions, every operation exact, for sizes that a person could write down.

Numbers are rationals, infinities or named constants, never floats. A condition that depends on indices alone is
decided; one that depends on symbols stays, as a Piecewise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce as fold
from typing import Any, TypeAlias

import numpy as np

from backends.arrays import MOVES, Array, aligned, pad, region, scan
from backends.plan import Call, check_shape, given, plan
from backends.uniform import uniform
from lowering import program as p
from lowering.program import Program, Value
from mixer_ir.nodes.functions import number, part

S: TypeAlias = Any
"""the module sympy, opened when a program is prepared"""


def prepare(program: Program, algebra: S = None) -> Callable[[Mapping[str, Any]], dict[str, Array]]:
    """A function from arrays of SymPy expressions (or numbers) by input name to arrays by output name.

    algebra   what computes with formulas instead of SymPy, if anything: an object with SymPy's functions
    """
    s = algebra
    if s is None:
        import sympy

        s = sympy
    run = plan(uniform(program), lambda v: spell(v, s))

    def call(arrays: Mapping[str, Any]) -> dict[str, Array]:
        inputs = [each(lambda x: number(s, x), np.asarray(x, dtype=object)) for x in given(program, arrays)]
        for v, x in zip(program.inputs, inputs, strict=True):
            check_shape(v, x.shape)
        return {n: np.asarray(x, dtype=object) for n, x in zip(program.names, run(inputs), strict=True)}

    return call


def symbols(program: Program) -> dict[str, Array]:
    """An array of symbols for each input: q[0,1] for entry (0, 1) of q. Truth values must be known: none for them."""
    import sympy

    facts = {"int": {"integer": True}, "real": {"real": True}, "complex": {"complex": True}}
    made: dict[str, Array] = {}
    for name, v in zip(program.input_names, program.inputs, strict=True):
        if v.kind != "bool":
            made[name] = np.empty(v.shape, dtype=object)
            for i in np.ndindex(v.shape):
                made[name][i] = sympy.Symbol(f"{name}[{','.join(map(str, i))}]" if i else name, **facts[v.kind])
    return made


def spell(v: Value, s: S) -> Call:
    """The function that computes v from the arrays of its arguments."""
    if isinstance(v.op, p.Scan | p.Region):
        run = plan(v.op.body, lambda x: spell(x, s))
        return scan(v, run) if isinstance(v.op, p.Scan) else region(v, run)
    return OPERATIONS[type(v.op)](v, s)


def each(fn: Callable[..., Any], *arrays: Array) -> Array:
    """fn entry by entry."""
    return np.asarray(np.frompyfunc(fn, len(arrays), 1)(*arrays), dtype=object)


# ------------------------------------------------------------------------------------------------ entry by entry


def _where(s: S, condition: Any, yes: Any, no: Any) -> Any:
    if condition in (True, False):
        return yes if condition else no
    return s.Piecewise((yes, condition), (no, True))


MAPS: dict[str, Callable[..., Any]] = {
    "add": lambda s, x, y: x + y,
    "sub": lambda s, x, y: x - y,
    "mul": lambda s, x, y: x * y,
    "div": lambda s, x, y: x / y,
    "pow": lambda s, x, y: x**y,
    "neg": lambda s, x: -x,
    "exp": lambda s, x: s.exp(x),
    "log": lambda s, x: s.log(x) if x != 0 else -s.oo,
    "log1p": lambda s, x: s.log(1 + x) if x != -1 else -s.oo,
    "expm1": lambda s, x: s.exp(x) - 1,
    "sqrt": lambda s, x: s.sqrt(x),
    "abs": lambda s, x: s.Abs(x),
    "sign": lambda s, x: s.sign(x),
    "sigmoid": lambda s, x: 1 / (1 + s.exp(-x)),
    "softplus": lambda s, x: s.log(1 + s.exp(x)),
    "tanh": lambda s, x: s.tanh(x),
    "sin": lambda s, x: s.sin(x),
    "cos": lambda s, x: s.cos(x),
    "erf": lambda s, x: s.erf(x),
    "min": lambda s, x, y: s.Min(x, y),
    "max": lambda s, x, y: s.Max(x, y),
    "where": _where,
    "lt": lambda s, x, y: s.Lt(x, y),
    "le": lambda s, x, y: s.Le(x, y),
    "eq": lambda s, x, y: s.Eq(x, y),
    "ne": lambda s, x, y: s.Ne(x, y),
    "and": lambda s, x, y: s.And(x, y),
    "or": lambda s, x, y: s.Or(x, y),
    "not": lambda s, x: s.Not(x),
    "real": lambda s, x: part(s, x, "re"),
    "imag": lambda s, x: part(s, x, "im"),
    "conj": lambda s, x: s.conjugate(x),
    "complex": lambda s, x, y: x + s.I * y,
    "mod": lambda s, x, y: s.Mod(x, y),
    "floordiv": lambda s, x, y: s.floor(x / y),
}


def entrywise(v: Value, s: S) -> Call:
    assert isinstance(v.op, p.Map)
    fn = MAPS[v.op.fn]
    axes = [a.axes for a in v.args]
    return lambda *args: each(
        lambda *entries: fn(s, *entries), *(aligned(x, a, v.axes) for x, a in zip(args, axes, strict=True))
    )


def constant(v: Value, s: S) -> Call:
    assert isinstance(v.op, p.Constant)
    made = np.asarray(number(s, v.op.value), dtype=object)
    return lambda: made


def iota(v: Value, s: S) -> Call:
    return lambda: each(s.Integer, np.arange(v.shape[0]).astype(object))


def padded(v: Value, s: S) -> Call:
    assert isinstance(v.op, p.Pad)
    return pad(v, number(s, v.op.value))


def cast(v: Value, s: S) -> Call:
    source, kind = v.args[0].kind, v.kind
    if kind == "bool":
        return lambda x: each(lambda e: s.Ne(e, 0), x)
    if source == "bool":
        return lambda x: each(lambda e: _where(s, e, s.Integer(1), s.Integer(0)), x)
    if source == "complex":
        return lambda x: each(lambda e: part(s, e, "re"), x)
    if kind == "int":
        return lambda x: each(lambda e: s.sign(e) * s.floor(s.Abs(e)), x)
    return lambda x: x


# ---------------------------------------------------------------------------------------------- sums along axes


def contract(v: Value, s: S) -> Call:
    assert isinstance(v.op, p.Contract)
    (x, y), axes = v.args, (*v.axes, *v.op.over)
    summed = tuple(range(len(v.axes), len(axes)))
    return lambda left, right: np.sum(aligned(left, x.axes, axes) * aligned(right, y.axes, axes), axis=summed)


def reduce(v: Value, s: S) -> Call:
    assert isinstance(v.op, p.Reduce)
    source, over = v.args[0].axes, v.op.over
    at = [source.index(a) for a in over]
    fn = {"sum": lambda x, y: x + y, "max": s.Max, "min": s.Min}[v.op.fn]

    def reduced(x: Array) -> Array:
        flat = np.moveaxis(x, at, range(len(at))).reshape(-1, *v.shape)
        return fold(lambda a, b: each(fn, a, b), flat)

    return reduced


def cumulate(v: Value, s: S) -> Call:
    op = v.op
    assert isinstance(op, p.Cumulate)
    at = v.axes.index(op.axis)
    fn, start = {
        "sum": (lambda x, y: x + y, s.Integer(0)),
        "prod": (lambda x, y: x * y, s.Integer(1)),
        "max": (s.Max, -s.oo),
    }[op.fn]

    def cumulated(x: Array) -> Array:
        x = np.moveaxis(x, at, 0)
        made = np.empty(x.shape, dtype=object)
        total = np.full(x.shape[1:], start, dtype=object)
        for i in range(len(x) - 1, -1, -1) if op.reverse else range(len(x)):
            after = each(fn, total, x[i])
            made[i, ...] = total if op.exclusive else after
            total = after
        return np.moveaxis(made, 0, at)

    return cumulated


def affine_scan(v: Value, s: S) -> Call:
    op = v.op
    assert isinstance(op, p.AffineScan)
    at, (a_axes, x_axes) = v.axes.index(op.axis), (arg.axes for arg in v.args)

    def scanned(a: Array, x: Array) -> Array:
        a, x = (np.moveaxis(aligned(z, axes, v.axes), at, 0) for z, axes in ((a, a_axes), (x, x_axes)))
        n = v.shape[at]
        made = np.empty((n, *v.shape[:at], *v.shape[at + 1 :]), dtype=object)
        h: Any = s.Integer(0)
        for i in range(n - 1, -1, -1) if op.reverse else range(n):
            made[i, ...] = h = a[i % len(a)] * h + x[i % len(x)]
        return np.moveaxis(made, 0, at)

    return scanned


def solve(v: Value, s: S) -> Call:
    op, (lower, r) = v.op, v.args
    assert isinstance(op, p.Solve)
    axes = (op.row, *(a for a in v.axes if a != op.row))
    matrix_axes = (op.row, op.col, *axes[1:])
    n = v.size(op.row)

    def solved(matrix: Array, right: Array) -> Array:
        matrix, right = aligned(matrix, lower.axes, matrix_axes), aligned(right, r.axes, axes)
        w = np.zeros([v.size(a) for a in axes], dtype=object)
        for i in range(n - 1, -1, -1) if op.upper else range(n):
            read = range(i + 1, n) if op.upper else range(i)
            w[i, ...] = fold(lambda total, j, i=i: total + matrix[i, j] * w[j], read, right[i])  # type: ignore[misc]
        return aligned(w, axes, v.axes)

    return solved


def transform(v: Value, s: S) -> Call:
    """By the sum itself, with exact roots of unity; the imaginary parts that irfft does not read are dropped."""
    op = v.op
    assert isinstance(op, p.Transform)
    at, n, m = v.axes.index(op.axis), op.n, v.args[0].size(op.axis)
    sign = 1 if op.which.startswith("i") else -1
    weights: list[Any] = [s.Rational(1, n) if sign == 1 else 1] * m
    if op.which == "irfft":
        weights = [s.Rational(2 if 0 < 2 * k < n else 1, n) for k in range(m)]
    roots = np.array([[w * s.exp(sign * 2 * s.I * s.pi * j * k / n) for k, w in enumerate(weights)]
                      for j in range(v.shape[at])], dtype=object)  # fmt: skip

    def transformed(x: Array) -> Array:
        made = np.tensordot(roots, x, axes=(1, at))
        made = each(lambda e: part(s, e, "re"), made) if op.which == "irfft" else made
        return np.moveaxis(made, 0, at)

    return transformed


def indexed(move: Callable[[Value], Call]) -> Callable[[Value, S], Call]:
    """Of an operation whose second argument must be known integers."""

    def spelled(v: Value, s: S) -> Call:
        run = move(v)
        return lambda x, index: run(x, np.asarray(index).astype(np.int64))

    return spelled


OPERATIONS: dict[type, Callable[[Value, S], Call]] = {
    **{op: (lambda v, s, move=move: move(v)) for op, move in MOVES.items()},  # type: ignore[misc]
    p.Pad: padded,
    p.Take: indexed(MOVES[p.Take]),
    p.Put: indexed(MOVES[p.Put]),
    p.Constant: constant,
    p.Iota: iota,
    p.Map: entrywise,
    p.Cast: cast,
    p.Contract: contract,
    p.Reduce: reduce,
    p.Cumulate: cumulate,
    p.AffineScan: affine_scan,
    p.Solve: solve,
    p.Transform: transform,
    p.Scan: spell,
    p.Region: spell,
}
