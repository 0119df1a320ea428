"""The reference backend: every operation by its definition, in NumPy, with float64 and complex128 numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backends.arrays import MOVES, Array, aligned, region, scan
from backends.plan import Call, check_shape, given, plan
from backends.uniform import uniform
from lowering import program as p
from lowering.program import Program, Value

DTYPE = {"bool": np.bool_, "int": np.int64, "real": np.float64, "complex": np.complex128}


def prepare(program: Program) -> Callable[[Mapping[str, Any]], dict[str, Array]]:
    """A function from arrays by input name to arrays by output name."""
    run = plan(uniform(program), spell)

    def call(arrays: Mapping[str, Any]) -> dict[str, Array]:
        inputs = [np.asarray(x) for x in given(program, arrays)]
        for v, x in zip(program.inputs, inputs, strict=True):
            check_shape(v, x.shape)
        with np.errstate(all="ignore"):
            results = run([x.astype(DTYPE[v.kind]) for v, x in zip(program.inputs, inputs, strict=True)])
        return {
            n: np.asarray(x, DTYPE[v.kind]) for n, v, x in zip(program.names, program.outputs, results, strict=True)
        }

    return call


def spell(v: Value) -> Call:
    """The function that computes v from the arrays of its arguments."""
    if isinstance(v.op, p.Scan):
        return scan(v, plan(v.op.body, spell))
    if isinstance(v.op, p.Region):
        return region(v, plan(v.op.body, spell))
    return OPERATIONS[type(v.op)](v)


# ------------------------------------------------------------------------------------------------ entry by entry


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x)) if np.iscomplexobj(x) else np.exp(-np.logaddexp(0.0, -x))


def _softplus(x: Array) -> Array:
    return np.log1p(np.exp(x)) if np.iscomplexobj(x) else np.logaddexp(0.0, x)


def _sign(x: Array) -> Array:
    return np.where(x == 0, 0, x / np.where(x == 0, 1, np.abs(x))) if np.iscomplexobj(x) else np.sign(x)


def _erf(x: Array) -> Array:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), dtype=np.float64)


MAPS: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "neg": np.negative,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sign": _sign,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "erf": _erf,
    "min": np.minimum,
    "max": np.maximum,
    "where": np.where,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "real": np.real,
    "imag": np.imag,
    "conj": np.conj,
    "complex": lambda x, y: np.real(x) + 1j * np.real(y),
    "mod": np.mod,
    "floordiv": np.floor_divide,
}


def entrywise(v: Value) -> Call:
    assert isinstance(v.op, p.Map)
    fn = MAPS[v.op.fn]
    axes = [a.axes for a in v.args]
    return lambda *args: fn(*(aligned(x, a, v.axes) for x, a in zip(args, axes, strict=True)))


def constant(v: Value) -> Call:
    assert isinstance(v.op, p.Constant)
    number: Array = np.asarray(v.op.value, dtype=DTYPE[v.kind])
    return lambda: number


def cast(v: Value) -> Call:
    dtype, real = DTYPE[v.kind], v.kind != "complex"
    return lambda x: (np.real(x) if real else x).astype(dtype)


# ---------------------------------------------------------------------------------------------- sums along axes


REDUCTIONS: dict[str, Callable[..., Array]] = {"sum": np.sum, "max": np.max, "min": np.min}
CUMULATIONS: dict[str, Callable[..., Array]] = {
    "sum": np.cumsum,
    "prod": np.cumprod,
    "max": np.maximum.accumulate,
}


def contract(v: Value) -> Call:
    letters = {a: i for i, a in enumerate(dict.fromkeys((*v.args[0].axes, *v.args[1].axes)))}
    x_axes, y_axes, axes = ([letters[a] for a in axes] for axes in (v.args[0].axes, v.args[1].axes, v.axes))
    return lambda x, y: np.einsum(x, x_axes, y, y_axes, axes, optimize=True)


def reduce(v: Value) -> Call:
    assert isinstance(v.op, p.Reduce)
    at = tuple(v.args[0].axes.index(a) for a in v.op.over)
    fn = REDUCTIONS[v.op.fn]
    return lambda x: fn(x, axis=at)


def neutral(fn: str, kind: str) -> float | int:
    """What a cumulation starts from."""
    return {"sum": 0, "prod": 1, "max": -math.inf if kind == "real" else int(np.iinfo(np.int64).min)}[fn]


def cumulate(v: Value) -> Call:
    op = v.op
    assert isinstance(op, p.Cumulate)
    at = v.axes.index(op.axis)
    fn = CUMULATIONS[op.fn]
    start = neutral(op.fn, v.kind)

    def cumulated(x: Array) -> Array:
        x = np.flip(x, at) if op.reverse else x
        y = fn(x, axis=at)
        if op.exclusive:
            y = np.roll(y, 1, at)
            np.moveaxis(y, at, 0)[0] = start
        return np.flip(y, at) if op.reverse else y

    return cumulated


def affine_scan(v: Value) -> Call:
    op = v.op
    assert isinstance(op, p.AffineScan)
    at = v.axes.index(op.axis)
    a_axes, x_axes = (arg.axes for arg in v.args)

    def scanned(a: Array, x: Array) -> Array:
        a, x = (np.moveaxis(aligned(z, axes, v.axes), at, 0) for z, axes in ((a, a_axes), (x, x_axes)))
        y: Array = np.empty((v.shape[at], *v.shape[:at], *v.shape[at + 1 :]), dtype=DTYPE[v.kind])
        h = np.zeros(y.shape[1:], dtype=y.dtype)
        for i in range(len(y) - 1, -1, -1) if op.reverse else range(len(y)):
            y[i] = h = a[i] * h + x[i]
        return np.moveaxis(y, 0, at)

    return scanned


def solve(v: Value) -> Call:
    op, (lower, r) = v.op, v.args
    assert isinstance(op, p.Solve)
    axes = (*(a for a in v.axes if a != op.row), op.row)
    matrix_axes = (*axes, op.col)
    n = v.size(op.row)
    shape = (*(v.size(a) for a in axes[:-1]), n)

    def solved(matrix: Array, right: Array) -> Array:
        matrix = aligned(matrix, lower.axes, matrix_axes)
        right = np.broadcast_to(aligned(right, r.axes, axes), shape)
        w: Array = np.zeros(shape, dtype=DTYPE[v.kind])
        for i in range(n - 1, -1, -1) if op.upper else range(n):
            read = slice(i + 1, n) if op.upper else slice(0, i)
            w[..., i] = right[..., i] + np.sum(matrix[..., i, read] * w[..., read], axis=-1)
        return aligned(w, axes, v.axes)

    return solved


def transform(v: Value) -> Call:
    op = v.op
    assert isinstance(op, p.Transform)
    fn: Callable[..., Array] = getattr(np.fft, op.which)
    at = v.axes.index(op.axis)
    return lambda x: fn(x, n=op.n, axis=at)


OPERATIONS: dict[type, Callable[[Value], Call]] = {
    **MOVES,
    p.Constant: constant,
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
