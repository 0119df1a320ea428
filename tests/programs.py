"""Small random programs, one operation each: what the tests of operations, adjoints and backends draw from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lowering import program as p
from lowering.build import Builder, program
from lowering.program import Program, Value
from mixer_ir.nodes.functions import FUNCTIONS, Kind

Draw = Callable[[st.SearchStrategy[Any]], Any]

PRIMITIVE = [name for name, f in FUNCTIONS.items() if f.primitive]
REAL_ONLY = {
    "softplus",
    "erf",
    "min",
    "max",
    "lt",
    "le",
    "mod",
    "floordiv",
    "complex",
    "and",
    "or",
    "not",
    "log1p",
    "expm1",
}
BOOLEAN = {"and", "or", "not"}


class Drawn:
    """A builder with inputs of drawn sizes."""

    def __init__(self, draw: Draw) -> None:
        self.draw, self.b = draw, Builder()
        self.inputs: list[Value] = []
        self.sizes = {axis: draw(st.integers(1, 3)) for axis in ("b", "h", "k", "v")} | {"t": draw(st.integers(1, 6))}

    def axes(self, *needed: str) -> tuple[str, ...]:
        """`needed` among some others, in any order."""
        others = self.draw(st.sets(st.sampled_from([a for a in ("b", "h", "k") if a not in needed]), max_size=2))
        return tuple(self.draw(st.permutations([*needed, *sorted(others)])))

    def new(self, axes: tuple[str, ...], kind: Kind = "real", **sizes: int) -> Value:
        shape = tuple({**self.sizes, **sizes}[a] for a in axes)
        self.inputs.append(self.b.input(f"x{len(self.inputs)}", axes, shape, kind))
        return self.inputs[-1]

    def kind(self) -> Kind:
        return self.draw(st.sampled_from(["real", "real", "complex"]))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    def program(self, *results: Value) -> Program:
        return program({f"y{i}": y for i, y in enumerate(results)}, self.inputs)


def mapped(d: Drawn, fn: str) -> Program:
    """One function of arguments that lack some of each other's axes."""
    kinds: list[Kind] = ["bool" if fn in BOOLEAN else "real" if fn in REAL_ONLY else d.kind()] * FUNCTIONS[fn].arity
    if fn == "where":
        kinds[0] = "bool"
    return d.program(d.b.map(fn, *(d.new(d.axes(), kind) for kind in kinds)))


def _map(d: Drawn) -> Program:
    return mapped(d, d.draw(st.sampled_from(["add", "mul", "sub", "where"])))


def _cast(d: Drawn) -> Program:
    kinds: dict[Kind, list[Kind]] = {"bool": ["int", "real"], "real": ["complex"], "complex": ["real"], "int": ["real"]}
    kind = d.draw(st.sampled_from(sorted(kinds)))
    return d.program(d.b.cast(d.new(d.axes(), kind), d.draw(st.sampled_from(kinds[kind]))))


def _contract(d: Drawn) -> Program:
    x, y = d.new(d.axes("k", "t"), d.kind()), d.new(d.axes("k", "v"), d.kind())
    shared = [a for a in x.axes if a in y.axes]
    over = d.draw(st.sets(st.sampled_from(shared), min_size=1))
    return d.program(d.b.contract(x, y, tuple(over)))


def _reduce(d: Drawn) -> Program:
    fn = d.draw(st.sampled_from(["sum", "max", "min"]))
    x = d.new(d.axes("t"), d.kind() if fn == "sum" else "real")
    return d.program(d.b.reduce(fn, x, tuple(d.draw(st.sets(st.sampled_from(x.axes), min_size=1)))))


def _cumulate(d: Drawn) -> Program:
    fn = d.draw(st.sampled_from(["sum", "prod", "max"]))
    x = d.new(d.axes("t"), "real" if fn == "max" else d.kind())
    y = d.b.cumulate(fn, x, "t", reverse=d.flag(), exclusive=d.flag())
    return d.program(d.b.where(d.b.map("lt", -1e9, y), y, 0.0) if fn == "max" else y)


def _affine_scan(d: Drawn) -> Program:
    a, x = d.new(d.axes("t"), d.kind()), d.new(d.axes("t"), d.kind())
    return d.program(d.b.affine_scan(a, x, "t", reverse=d.flag()))


def _solve(d: Drawn) -> Program:
    lower, r = d.new(d.axes("t", "s"), d.kind(), s=d.sizes["t"]), d.new(d.axes("t"), d.kind())
    return d.program(d.b.solve(lower, r, "t", "s", upper=d.flag()))


def _transform(d: Drawn) -> Program:
    which = d.draw(st.sampled_from(["fft", "ifft", "rfft", "irfft"]))
    n = d.sizes["t"]
    x = d.new(d.axes("t"), "real" if which == "rfft" else "complex", t=n // 2 + 1 if which == "irfft" else n)
    return d.program(d.b.transform(which, x, "t", n))


def _slice(d: Drawn) -> Program:
    start = d.draw(st.integers(0, d.sizes["t"] - 1))
    stop = d.draw(st.integers(start + 1, d.sizes["t"]))
    return d.program(d.b.slice(d.new(d.axes("t"), d.kind()), "t", start, stop, d.draw(st.integers(1, 3))))


def _pad(d: Drawn) -> Program:
    before, after = d.draw(st.integers(0, 2)), d.draw(st.integers(0, 2))
    return d.program(d.b.pad(d.new(d.axes("t"), d.kind()), "t", before, after, d.draw(st.sampled_from([0, 1.5]))))


def _concat(d: Drawn) -> Program:
    parts = [d.new(d.axes("t"), d.kind(), t=d.draw(st.integers(1, 3))) for _ in range(d.draw(st.integers(2, 3)))]
    return d.program(d.b.concat(parts, "t"))


def _split(d: Drawn) -> Program:
    inner = d.draw(st.integers(1, 3))
    return d.program(d.b.split(d.new(d.axes("t"), d.kind(), t=inner * d.sizes["v"]), "t", "i", "j", inner))


def _take(d: Drawn) -> Program:
    table, index = d.new(d.axes("c"), d.kind(), c=3), d.new(d.axes("t"), "int")
    return d.program(d.b.take(table, "c", index))


def _put(d: Drawn) -> Program:
    update, index = d.new(d.axes("t"), d.kind()), d.new(d.axes("t"), "int")
    sizes = {**update.sizes, **index.sizes}
    keep = d.draw(st.sets(st.sampled_from(sorted(sizes))))
    return d.program(d.b.put(update, index, "c", 3, {a: sizes[a] for a in sorted(keep)}))


def _scan(d: Drawn) -> Program:
    """Two carries, one of which the other reads; a step and a constant."""
    s, x, c = d.new(("h", "k")), d.new(d.axes("t", "k")), d.new(("k",), d.kind())
    start = d.b.cast(d.b.expand(s, x.sizes), "complex" if c.kind == "complex" else "real")
    start = d.b.sum(start, ("t",))
    n = d.b.full(0.5, {"k": d.sizes["k"]})

    def body(b: Builder, carry: list[Value], step: list[Value], rest: list[Value]) -> tuple[list[Value], list[Value]]:
        h = b.add(b.mul(carry[0], rest[0]), b.mul(step[0], carry[1]))
        return [h, b.map("sigmoid", b.add(carry[1], b.sum(step[0], ("b",))))], [b.sum(b.mul(h, h), ("k",)), carry[0]]

    x = x if "h" not in x.axes else d.b.sum(x, ("h",))
    last, results = d.b.scan("t", body, [start, n], [x], [c], reverse=d.flag())
    return d.program(*last, *results)


def _region(d: Drawn) -> Program:
    inner = Builder()
    x = d.new(d.axes("t"))
    at = inner.input("x", x.axes, x.shape)
    part = program({"square": inner.mul(at, at), "sum": inner.sum(at, ("t",))}, [at])
    return d.program(*d.b.region("squares", part, [x]))


def _on_one(make: Callable[[Drawn, Value], Value], *axes: str) -> Callable[[Drawn], Program]:
    return lambda d: d.program(make(d, d.new(d.axes("t", *axes), d.kind())))


DRAWN: dict[type, Callable[[Drawn], Program]] = {
    p.Constant: _on_one(lambda d, x: d.b.mul(x, 2.5)),
    p.Iota: _on_one(lambda d, x: d.b.add(x, d.b.iota("t", x.size("t")))),
    p.Map: _map,
    p.Expand: _on_one(lambda d, x: d.b.expand(x, {"w": 2, "u": 3})),
    p.Order: _on_one(lambda d, x: d.b.order(x, tuple(d.draw(st.permutations(x.axes))))),
    p.Cast: _cast,
    p.Detach: _on_one(lambda d, x: d.b.mul(x, d.b.detach(x))),
    p.Contract: _contract,
    p.Reduce: _reduce,
    p.Cumulate: _cumulate,
    p.AffineScan: _affine_scan,
    p.Solve: _solve,
    p.Transform: _transform,
    p.Slice: _slice,
    p.Pad: _pad,
    p.Concat: _concat,
    p.Flip: _on_one(lambda d, x: d.b.flip(x, "t")),
    p.Rename: _on_one(lambda d, x: d.b.rename(x, "t", "s")),
    p.Split: _split,
    p.Merge: _on_one(lambda d, x: d.b.merge(x, *d.draw(st.permutations(["t", "v"])), "m"), "v"),
    p.Take: _take,
    p.Put: _put,
    p.Scan: _scan,
    p.Region: _region,
}
"""for each operation a program around it; Pick comes with Scan and Region"""


def arrays(of: Program, seed: int = 0, spread: float = 1.0) -> dict[str, np.ndarray]:
    """Random arrays for the program's inputs; whole numbers are 0, 1 or 2."""
    rng = np.random.default_rng(seed)

    def one(v: Value) -> np.ndarray:
        if v.kind == "bool":
            return np.asarray(rng.integers(0, 2, v.shape), dtype=bool)
        if v.kind == "int":
            return np.asarray(rng.integers(0, 3, v.shape))
        x = np.asarray(spread * rng.normal(size=v.shape))
        return np.asarray(x + 1j * spread * rng.normal(size=v.shape)) if v.kind == "complex" else x

    return {name: one(v) for name, v in zip(of.input_names, of.inputs, strict=True)}


def largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x))) if x.size else math.nan
