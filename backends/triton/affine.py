"""Affine scans of real numbers, and of complex ones as pairs: h_i = a_i h_{i−1} + x_i, in parts.

    (a₂, x₂) ∘ (a₁, x₁)  =  (a₂ a₁, a₂ x₁ + x₂)     in complex numbers, on real and imaginary parts

A scan of pairs is a region: its body says what it is, as a loop step by step, and kernels spell the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from backends.triton.complexes import Pair, mul, zero
from lowering import program as p
from lowering.build import Builder, program
from lowering.program import Value

PAIRS = "affine scan of pairs"
GIVEN = ("a_re", "a_im", "x_re", "x_im")
NEUTRAL = (1.0, 0.0)
"""the parts of a factor that changes nothing"""

Parts: TypeAlias = tuple[Value, ...]
"""a number: itself, or its real and its imaginary part"""


@dataclass(frozen=True, slots=True)
class Affine:
    """An affine scan: along which axis and which way, the parts of a and x, the sizes of the states."""

    axis: str
    reverse: bool
    factors: Parts
    inputs: Parts
    sizes: Mapping[str, int]


def affine_of(v: Value) -> Affine | None:
    """What an affine scan of real or complex numbers computes; None for any other value."""
    if isinstance(v.op, p.AffineScan):
        return None if v.kind != "real" else Affine(v.op.axis, v.op.reverse, v.args[:1], v.args[1:], v.sizes)
    if not isinstance(v.op, p.Region) or v.op.label != PAIRS:
        return None
    (loop,) = (x.op for x in v.op.body.order if isinstance(x.op, p.Scan))
    return Affine(loop.axis, loop.reverse, v.args[:2], v.args[2:], v.op.body.outputs[0].sizes)


def scan_of(v: Value) -> Value:
    """The scan that a value is all of, or a part of; the value itself where it is neither."""
    return v.args[0] if isinstance(v.op, p.Pick) and affine_of(v.args[0]) is not None else v


def part_of(v: Value) -> int:
    """Which part of its scan's states a value is."""
    return v.op.index if isinstance(v.op, p.Pick) else 0


def times(b: Builder, x: Sequence[Value], y: Sequence[Value]) -> Parts:
    """x y, in parts."""
    return (b.mul(x[0], y[0]),) if len(x) == 1 else mul(b, Pair(*x), Pair(*y)).values


def scanned(b: Builder, a: Sequence[Value], x: Sequence[Value], axis: str, reverse: bool) -> Parts:
    """The states of an affine scan, in parts."""
    if len(a) == 1:
        return (b.affine_scan(a[0], x[0], axis, reverse=reverse),)
    return pairs(b, Pair(*a), Pair(*x), axis, reverse).values


def pairs(b: Builder, a: Pair, x: Pair, axis: str, reverse: bool) -> Pair:
    """h_i = a_i h_{i−1} + x_i of complex numbers; for real factors a scan for each part."""
    if zero(a.im):
        return Pair(*(y if zero(y) else b.affine_scan(a.re, y, axis, reverse=reverse) for y in x.values))
    args = (*a.values, *x.values)
    inner = Builder()
    given = [inner.input(n, y.axes, y.shape) for n, y in zip(GIVEN, args, strict=True)]
    made = in_steps(inner, Pair(*given[:2]), Pair(*given[2:]), axis, reverse, b.joint((*x.values, *a.values)))
    return Pair(*b.region(PAIRS, program({"re": made.re, "im": made.im}, given), args))


def in_steps(b: Builder, a: Pair, x: Pair, axis: str, reverse: bool, sizes: Mapping[str, int]) -> Pair:
    """The same as a loop, step by step; `sizes` are those of the states."""
    rest = {n: m for n, m in sizes.items() if n != axis}

    def body(k: Builder, c: list[Value], s: list[Value], _: list[Value]) -> tuple[list[Value], list[Value]]:
        h = mul(k, Pair(s[0], s[1]), Pair(c[0], c[1]))
        new = [k.order(k.expand(k.add(y, z), rest), tuple(rest)) for y, z in zip(h.values, s[2:], strict=True)]
        return new, new

    start = b.full(0.0, rest)
    steps = [b.expand(y, {axis: sizes[axis]}) for y in (*a.values, *x.values)]
    _, made = b.scan(axis, body, [start, start], steps, reverse=reverse)
    return Pair(*(b.order(y, tuple(sizes)) for y in made))
