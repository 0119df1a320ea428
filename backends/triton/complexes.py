"""Complex numbers as pairs of real ones: the functions that act entry by entry.

A part that is the number 0, as the imaginary part of what was real, takes no part in products and sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from lowering import program as p
from lowering.build import Builder
from lowering.program import Value


@dataclass(frozen=True, slots=True)
class Pair:
    """A complex value."""

    re: Value
    im: Value

    @property
    def values(self) -> tuple[Value, Value]:
        return self.re, self.im


Number: TypeAlias = Value | Pair


def contract(b: Builder, x: Pair, y: Pair, over: tuple[str, ...]) -> Pair:
    """Σ x y. No factor is negated: it would be one more matrix in registers and in shared memory."""

    def part(u: Value, v: Value) -> Value:
        return b.const(0.0) if zero(u) or zero(v) else b.contract(u, v, over)

    return Pair(_sub(b, part(x.re, y.re), part(x.im, y.im)), _add(b, part(x.re, y.im), part(x.im, y.re)))


def mul(b: Builder, x: Pair, y: Pair) -> Pair:
    def part(u: Value, v: Value) -> Value:
        return b.const(0.0) if zero(u) or zero(v) else b.mul(u, v)

    re = _sub(b, part(x.re, y.re), part(x.im, y.im))
    return Pair(re, _add(b, part(x.re, y.im), part(x.im, y.re)))


def zero(x: Value) -> bool:
    """Whether x is the number 0."""
    return isinstance(x.op, p.Constant) and x.op.value == 0


def _add(b: Builder, x: Value, y: Value) -> Value:
    return y if zero(x) else x if zero(y) else b.add(x, y)


def _sub(b: Builder, x: Value, y: Value) -> Value:
    return x if zero(y) else neg(b, y) if zero(x) else b.sub(x, y)


def neg(b: Builder, x: Value) -> Value:
    """−x, without a sign that another takes back."""
    if isinstance(x.op, p.Map) and x.op.fn == "neg":
        return x.args[0]
    if isinstance(x.op, p.Rename):
        return b.rename(neg(b, x.args[0]), x.op.old, x.op.new)
    return x if zero(x) else b.map("neg", x)


def _div(b: Builder, x: Pair, y: Pair) -> Pair:
    """x ȳ / |y|², scaled by the larger part of y."""
    scale = b.map("max", b.map("abs", y.re), b.map("abs", y.im))
    u = Pair(b.map("div", y.re, scale), b.map("div", y.im, scale))
    size = b.mul(b.add(b.mul(u.re, u.re), b.mul(u.im, u.im)), scale)
    z = mul(b, x, Pair(u.re, b.map("neg", u.im)))
    return Pair(b.map("div", z.re, size), b.map("div", z.im, size))


def _abs(b: Builder, x: Pair) -> Value:
    """|x|, scaled by its larger part."""
    re, im = b.map("abs", x.re), b.map("abs", x.im)
    large, small = b.map("max", re, im), b.map("min", re, im)
    ratio = b.map("div", small, b.where(b.map("eq", large, 0.0), 1.0, large))
    return b.mul(large, b.map("sqrt", b.add(b.mul(ratio, ratio), 1.0)))


def _exp(b: Builder, x: Pair) -> Pair:
    if zero(x.re):
        return Pair(b.map("cos", x.im), b.map("sin", x.im))
    size = b.map("exp", x.re)
    return Pair(b.mul(size, b.map("cos", x.im)), b.mul(size, b.map("sin", x.im)))


def _sigmoid(b: Builder, x: Pair) -> Pair:
    e = _exp(b, _negative(b, x))
    return _div(b, Pair(b.const(1.0), b.const(0.0)), Pair(b.add(e.re, 1.0), e.im))


def _negative(b: Builder, x: Pair) -> Pair:
    return Pair(neg(b, x.re), neg(b, x.im))


def _sign(b: Builder, x: Pair) -> Pair:
    size = _abs(b, x)
    size = b.where(b.map("eq", size, 0.0), 1.0, size)
    return Pair(b.map("div", x.re, size), b.map("div", x.im, size))


def _equal(b: Builder, x: Pair, y: Pair) -> Value:
    return b.map("and", b.map("eq", x.re, y.re), b.map("eq", x.im, y.im))


def _cosine(b: Builder, x: Pair) -> Pair:
    up, down = b.map("exp", x.im), b.map("exp", b.map("neg", x.im))
    even, odd = b.mul(b.add(up, down), 0.5), b.mul(b.sub(up, down), 0.5)
    return Pair(b.mul(b.map("cos", x.re), even), b.map("neg", b.mul(b.map("sin", x.re), odd)))


def _sine(b: Builder, x: Pair) -> Pair:
    up, down = b.map("exp", x.im), b.map("exp", b.map("neg", x.im))
    even, odd = b.mul(b.add(up, down), 0.5), b.mul(b.sub(up, down), 0.5)
    return Pair(b.mul(b.map("sin", x.re), even), b.mul(b.map("cos", x.re), odd))


COMPLEX: Mapping[str, Callable[..., Number]] = {
    "add": lambda b, x, y: Pair(_add(b, x.re, y.re), _add(b, x.im, y.im)),
    "sub": lambda b, x, y: Pair(_sub(b, x.re, y.re), _sub(b, x.im, y.im)),
    "mul": mul,
    "div": _div,
    "neg": _negative,
    "exp": _exp,
    "cos": _cosine,
    "sin": _sine,
    "sigmoid": _sigmoid,
    "abs": _abs,
    "sign": _sign,
    "eq": _equal,
    "ne": lambda b, x, y: b.map("not", _equal(b, x, y)),
}
