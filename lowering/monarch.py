"""The form `monarch`: Fourier transforms as products with two block-diagonal matrices, for hardware that multiplies.

A transform of length n = n₁ n₂ is one of length n₁ along the columns of an n₁ × n₂ grid, a twist, and one of length n₂
along its rows; each is a matrix product, or again two of them. The columns' frequencies are the inner part of the
result's index: an inverse transform takes that as its rows, so that in a convolution nothing is moved between the two.
"""

from __future__ import annotations

import math

from lowering.build import Builder
from lowering.context import Choice
from lowering.fft import padded, taps
from lowering.filters import LAG, Filter, filter_of, folded
from lowering.grid import Grid
from lowering.program import Value
from mixer_ir.nodes.expr import SOURCE, TIME
from mixer_ir.nodes.matrix import Apply, Fourier, Monarch

LARGEST = 256
"""the longest transform that is one matrix product"""


def lower(e: Apply, on: Grid, choice: Choice) -> Value:
    """y = F⁻¹(F h · F v), each F a product of block-diagonal matrices."""
    b = on.b
    match e.matrix:
        case Monarch():
            return factors(e.matrix, e, on)
        case Fourier(inverse=inverse):
            v = b.rename(b.expand(on.col(e.of), {SOURCE: on.cols.size}), SOURCE, TIME)
            return fourier(b, folded(b, v, on.rows.size), TIME, inverse=inverse)
    return convolved(b, filter_of(e, on, "monarch"))


def convolved(b: Builder, f: Filter) -> Value:
    """The wanted rows of the convolution."""
    n = f.length if f.circular else 1 << (padded(f) - 1).bit_length()
    h = fourier(b, b.rename(taps(b, f, n), LAG, TIME), TIME)
    v = fourier(b, b.pad(f.v, TIME, 0, n - f.v.size(TIME)), TIME)
    y = f.rows(b, fourier(b, b.mul(h, v), TIME, inverse=True))
    return y if "complex" in (f.h.kind, f.v.kind) else b.cast(y, "real")


def factors(M: Monarch, e: Apply, on: Grid) -> Value:
    """y[(i, j)] = Σ_l left[i; j, l] Σ_k right[l; i, k] v[(k, l)]"""
    b, ((i, l), (k, j)) = on.b, (M.grid, M.rows)
    left, right = on.ctx.filled(on.ctx.of(M.left), (i, j, l)), on.ctx.filled(on.ctx.of(M.right), (l, i, k))
    v = b.split(b.expand(on.col(e.of), {SOURCE: on.cols.size}), SOURCE, k, l, right.size(l))
    return b.merge(b.contract(left, b.contract(right, v, (k,)), (l,)), i, j, TIME)


def fourier(b: Builder, x: Value, axis: str, *, inverse: bool = False, depth: int = 0) -> Value:
    """Σ_j exp(∓2πi j k / n) x_j, over n for the inverse."""
    n = x.size(axis)
    y = _transform(b, x, axis, 1 if inverse else -1, depth)
    return b.mul(y, 1 / n) if inverse else y


def _transform(b: Builder, x: Value, axis: str, sign: int, depth: int) -> Value:
    n = x.size(axis)
    rows = _divisor(n)
    if n <= LARGEST:
        return _product(b, x, axis, sign)
    if rows == 1:
        return _chirped(b, x, axis, sign, depth)
    outer, inner = f"_a{depth}", f"_b{depth}"
    if sign > 0:
        outer, inner, rows = inner, outer, n // rows
    grid = _transform(b, b.split(x, axis, outer, inner, n // rows), outer, sign, depth + 1)
    turns = b.mul(b.iota(outer, rows), b.iota(inner, n // rows))
    twisted = b.mul(grid, turn(b, turns, sign, n))
    return b.merge(_transform(b, twisted, inner, sign, depth + 1), inner, outer, axis)


def _divisor(n: int) -> int:
    """The largest divisor of n that is at most √n."""
    return next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)


def turn(b: Builder, j: Value, sign: int, n: int) -> Value:
    """exp(± 2πi j / n)"""
    return b.map("exp", b.mul(b.map("mod", j, n), complex(0, sign * 2 * math.pi / n)))


def _product(b: Builder, x: Value, axis: str, sign: int) -> Value:
    n = x.size(axis)
    matrix = turn(b, b.mul(b.iota(axis, n), b.iota("_k", n)), sign, n)
    return b.rename(b.contract(x, matrix, (axis,)), "_k", axis)


def _chirped(b: Builder, x: Value, axis: str, sign: int, depth: int) -> Value:
    """A prime length: j k = (j² + k² − (k − j)²) / 2 makes the transform a convolution."""
    n = x.size(axis)
    m = 1 << (2 * n - 2).bit_length()
    j = b.iota(axis, n)
    chirp = turn(b, b.mul(j, j), sign, 2 * n)
    back = b.map("conj", chirp)
    around = b.flip(b.slice(back, axis, 1, n), axis)
    filt = b.add(b.pad(back, axis, 0, m - n), b.pad(around, axis, m - n + 1, 0))
    signal = b.pad(b.mul(x, chirp), axis, 0, m - n)
    spectra = b.mul(_transform(b, signal, axis, -1, depth + 1), _transform(b, filt, axis, -1, depth + 1))
    y = fourier(b, spectra, axis, inverse=True, depth=depth + 1)
    return b.mul(b.slice(y, axis, 0, n), chirp)
