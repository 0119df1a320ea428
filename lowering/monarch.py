"""The form `monarch`: Fourier transforms as products with two block-diagonal matrices, for hardware that multiplies.

A transform of length n = n₁ n₂ is one of length n₁ along the columns of an n₁ × n₂ grid, a twist, and one of length n₂
along its rows; each is a matrix product, or again two of them. The columns' frequencies are the inner part of the
result's index: an inverse transform takes that as its rows, so that in a convolution nothing is moved between the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from lowering.build import Builder, called
from lowering.context import Choice
from lowering.fft import padded, taps
from lowering.filters import LAG, Filter, filter_of, folded
from lowering.grid import Grid
from lowering.program import Value
from mixer_ir.nodes.expr import SOURCE, TIME
from mixer_ir.nodes.matrix import Apply, Fourier, Monarch

LARGEST = 64
"""the longest transform that is one matrix product, where its length has factors"""
LEAST = 16
"""the shortest side of a product that tensor cores take"""
ALONE = 256
"""the same for a length that has none"""


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
    if not f.circular and "complex" not in (f.h.kind, f.v.kind):
        return _halved(b, f)
    n = f.length if f.circular else 1 << (padded(f) - 1).bit_length()
    h = fourier(b, b.rename(taps(b, f, n), LAG, TIME), TIME)
    v = fourier(b, b.pad(f.v, TIME, 0, n - f.v.size(TIME)), TIME)
    y = f.rows(b, fourier(b, b.mul(h, v), TIME, inverse=True))
    return y if "complex" in (f.h.kind, f.v.kind) else b.cast(y, "real")


def _halved(b: Builder, f: Filter) -> Value:
    """The wanted rows of a real convolution of n = 2m places, by complex transforms of length m.

    Products of polynomials modulo X^m − i: the second half of the places is the imaginary part of the first, and
    X = ω Y with ω = exp(πi / n) makes them products modulo Y^m − 1. What goes around the end of the n places
    comes back with the sign −, so lag −l is −h at n − l.
    """
    n = 1 << max((padded(f) - 1).bit_length(), 1)
    h = b.cast(b.rename(f.h, LAG, TIME), "real")
    h = b.slice(h, TIME, 0, min(n, h.size(TIME)))
    if f.anti is not None and f.anti.size(LAG) > 1:
        back = b.cast(b.rename(b.flip(b.slice(f.anti, LAG, 1, f.anti.size(LAG)), LAG), LAG, TIME), "real")
        h = b.sub(b.pad(h, TIME, 0, n - h.size(TIME)), b.pad(back, TIME, n - back.size(TIME), 0))
    spectra = [_spectrum(b, _wound(b, x, n), TIME) for x in (h, b.cast(f.v, "real"))]
    with b.named("spectrum: product of the transforms of filter and signal"):
        both = b.mul(*spectra)
    y = _back(b, both, TIME, n // 2)
    with b.named("unwound: complex places taken apart into real ones again: ω^−j"):
        y = b.mul(y, turn(b, b.iota(TIME, n // 2), -1, 2 * n))
    if isinstance(f.first, int) and f.first + f.length <= n // 2:
        return f.rows(b, b.cast(y, "real"))
    return f.rows(b, b.concat([b.map("real", y), b.map("imag", y)], TIME))


@called("wound: n real places as n / 2 complex ones: (x_j + i x_{j + n/2}) ω^j")
def _wound(b: Builder, x: Value, n: int) -> Value:
    """(x_j + i x_{j+m}) ω^j for j < m: n = 2m real places as m complex ones, ω = exp(πi / n)."""
    m = n // 2
    first = b.slice(x, TIME, 0, min(m, x.size(TIME)))
    first = b.pad(first, TIME, 0, m - first.size(TIME))
    if x.size(TIME) > m:
        second = b.pad(b.slice(x, TIME, m, x.size(TIME)), TIME, 0, n - x.size(TIME))
        first = b.map("complex", first, second)
    return b.mul(first, turn(b, b.iota(TIME, m), 1, 2 * n))


def factors(M: Monarch, e: Apply, on: Grid) -> Value:
    """y[(i, j)] = Σ_l left[i; j, l] Σ_k right[l; i, k] v[(k, l)]"""
    b, ((i, l), (k, j)) = on.b, (M.grid, M.rows)
    left, right = on.ctx.filled(on.ctx.of(M.left), (i, j, l)), on.ctx.filled(on.ctx.of(M.right), (l, i, k))
    v = b.split(b.expand(on.col(e.of), {SOURCE: on.cols.size}), SOURCE, k, l, right.size(l))
    return b.merge(b.contract(left, b.contract(right, v, (k,)), (l,)), i, j, TIME)


def fourier(b: Builder, x: Value, axis: str, *, inverse: bool = False) -> Value:
    """Σ_j exp(∓2πi j k / n) x_j, over n for the inverse."""
    n = x.size(axis)
    return _back(b, _split(b, x, axis, n), axis, n) if inverse else _merged(b, _spectrum(b, x, axis), axis, n)


def _spectrum(b: Builder, x: Value, axis: str, depth: int = 0) -> Value:
    """The transform along `axis`; of a length of several products the frequency has an axis for each."""
    n = x.size(axis)
    if (rows := _divisor(n)) == 1:
        return _product(b, x, axis, -1) if n <= ALONE else _chirped(b, x, axis, -1, depth)
    first, last = _grid(depth)
    rest = {a: m for a, m in x.sizes.items() if a != axis}
    grid = b.order(b.split(x, axis, first, last, n // rows), (*rest, last, first))
    columns = _twisted(b, _product(b, grid, first, -1), rest, (first, last), -1)
    return _spectrum(b, columns, last, depth + 1)


def _back(b: Builder, x: Value, axis: str, n: int, depth: int = 0) -> Value:
    """The inverse of `_spectrum`: it takes the axes that that one leaves."""
    if (rows := _divisor(n)) == 1:
        y = _product(b, x, axis, 1) if n <= ALONE else _chirped(b, x, axis, 1, depth)
        return b.mul(y, 1 / n)
    first, last = _grid(depth)
    rows_done = _back(b, x, last, n // rows, depth + 1)
    rest = {a: m for a, m in rows_done.sizes.items() if a not in (first, last)}
    columns = _twisted(b, rows_done, rest, (last, first), 1)
    return b.merge(b.mul(_product(b, columns, first, 1), 1 / rows), first, last, axis)


@called("twisted: the twist between the products: exp(± 2πi j k / n)")
def _twisted(b: Builder, x: Value, rest: Mapping[str, int], axes: tuple[str, str], sign: int) -> Value:
    """x exp(± 2πi j k / n) along the two axes of a grid of n: what is summed over next lies last."""
    x = b.order(b.expand(x, rest), (*rest, *axes))
    j, k = (b.iota(a, x.size(a)) for a in sorted(axes))
    return b.mul(x, turn(b, b.mul(j, k), sign, j.size(j.axes[0]) * k.size(k.axes[0])))


def _merged(b: Builder, x: Value, axis: str, n: int, depth: int = 0) -> Value:
    """The frequencies of `_spectrum` along one axis: the columns' are the inner part."""
    if (rows := _divisor(n)) == 1:
        return x
    first, last = _grid(depth)
    return b.merge(_merged(b, x, last, n // rows, depth + 1), last, first, axis)


def _split(b: Builder, x: Value, axis: str, n: int, depth: int = 0) -> Value:
    """The inverse of `_merged`."""
    if (rows := _divisor(n)) == 1:
        return x
    first, last = _grid(depth)
    return _split(b, b.split(x, axis, last, first, rows), last, n // rows, depth + 1)


def _grid(depth: int) -> tuple[str, str]:
    """The axes of a grid: its rows, and what is inside each."""
    return f"_a{depth}", f"_b{depth}"


def _divisor(n: int) -> int:
    """The rows of the grid of n; 1 if there is none. As few products as their largest size allows, of like sizes:

    the largest divisor of n that is at most n^(1/r), for r products. Where two leave both sides of a product LEAST or
    more, the longer one is the longest: tensor cores that read factors from memory want so many rows.
    """
    if n <= LARGEST:
        return 1
    if n % LARGEST == 0 and LEAST <= n // LARGEST < LARGEST:
        return n // LARGEST
    products = math.ceil(math.log(n) / math.log(LARGEST - 1))
    most = round(n ** (1 / products), 6)
    return next(d for d in range(int(most), 0, -1) if n % d == 0)


def turn(b: Builder, j: Value, sign: int, n: int) -> Value:
    """exp(± 2πi j / n): one value and its conjugate, so that both share what they take to compute."""
    with b.named("root"):
        z = b.map("exp", b.mul(b.map("mod", j, n), complex(0, 2 * math.pi / n)))
        return z if sign > 0 else b.map("conj", z)


def _product(b: Builder, x: Value, axis: str, sign: int) -> Value:
    """One product with the matrix of a transform."""
    way = "back" if sign > 0 else "forth"
    with b.named(f"transformed: transform {way} along {x.size(axis)} places: a product with its matrix"):
        return _multiplied(b, x, axis, sign)


def _multiplied(b: Builder, x: Value, axis: str, sign: int) -> Value:
    n = x.size(axis)
    matrix = turn(b, b.mul(b.iota("_j", n), b.iota("_k", n)), sign, n)  # one for all axes of this length
    return b.rename(b.contract(x, b.rename(matrix, "_j", axis), (axis,)), "_k", axis)


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
    spectra = b.mul(*(_spectrum(b, z, axis, depth + 1) for z in (signal, filt)))
    y = _back(b, spectra, axis, m, depth + 1)
    return b.mul(b.slice(y, axis, 0, n), chirp)
