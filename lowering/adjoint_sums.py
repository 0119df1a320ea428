"""Adjoints of the operations that sum along an axis: contractions, reductions, cumulations, affine scans, solves."""

from __future__ import annotations

from collections.abc import Sequence

from lowering import program as p
from lowering.adjoint_entries import Rule, conj, op_of, times
from lowering.build import Builder
from lowering.program import Value


def _contract(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    x, z = y.args
    return times(b, ct, z, x), times(b, ct, x, z)


def _reduce(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    """max and min: shared evenly by the entries that are the largest (smallest)."""
    op, x = op_of(y, p.Reduce), y.args[0]
    if op.fn == "sum":
        return (ct,)
    chosen = b.map("eq", x, y)
    return (b.where(chosen, b.map("div", ct, b.sum(chosen, op.over)), 0),)


def _cumulate(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    op, x = op_of(y, p.Cumulate), y.args[0]
    if op.fn == "sum":
        return (b.cumulate("sum", ct, op.axis, reverse=not op.reverse, exclusive=op.exclusive),)
    if op.fn == "prod":
        return (_cumulated_product(b, op, x, ct),)
    return (_cumulated_maximum(b, op, x, ct),)


def _cumulated_product(b: Builder, op: p.Cumulate, x: Value, ct: Value) -> Value:
    """x̄_j = Π_{l<j} x_l · Σ_{i≥j} ȳ_i Π_{j<l≤i} x_l, both without division: right where an x is 0."""
    step = 1 if op.reverse else -1
    before = conj(b, b.cumulate("prod", x, op.axis, reverse=op.reverse, exclusive=True))
    factors = conj(b, x)
    if op.exclusive:
        later = b.affine_scan(factors, ct, op.axis, reverse=not op.reverse)
        return b.mul(before, b.delay(later, op.axis, step))
    return b.mul(before, b.affine_scan(b.delay(factors, op.axis, step), ct, op.axis, reverse=not op.reverse))


def _cumulated_maximum(b: Builder, op: p.Cumulate, x: Value, ct: Value) -> Value:
    """To the last entry that set the maximum."""
    n = x.size(op.axis)
    if op.exclusive:
        ct = b.delay(ct, op.axis, 1 if op.reverse else -1)
    place = b.iota(op.axis, n)
    place = b.sub(n - 1, place) if op.reverse else place
    sets = b.map("eq", x, b.cumulate("max", x, op.axis, reverse=op.reverse))
    source = b.cumulate("max", b.where(sets, place, 0), op.axis, reverse=op.reverse)
    source = b.sub(n - 1, source) if op.reverse else source
    ct, source = (b.rename(z, op.axis, f"{op.axis}'") for z in (ct, source))
    return b.put(ct, source, op.axis, n, {a: m for a, m in x.sizes.items() if a != op.axis})


def _affine_scan(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    """x̄_i = ȳ_i + conj(a_{i+1}) x̄_{i+1},   ā_i = x̄_i conj(h_{i−1})"""
    op, (a, _) = op_of(y, p.AffineScan), y.args
    step = 1 if op.reverse else -1
    g = b.affine_scan(conj(b, b.delay(a, op.axis, step)), ct, op.axis, reverse=not op.reverse)
    return times(b, g, b.delay(y, op.axis, -step), a), g


def _solve(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    """r̄ = (I − L)⁻ᴴ w̄,   L̄ = r̄ wᴴ below the diagonal"""
    op, (lower, _) = op_of(y, p.Solve), y.args
    spare = f"{op.row}'"
    swapped = b.rename(b.rename(b.rename(lower, op.row, spare), op.col, op.row), spare, op.col)
    g = b.solve(conj(b, swapped), ct, op.row, op.col, upper=not op.upper)
    product = times(b, g, b.rename(y, op.row, op.col), lower)
    row, col = b.iota(op.row, y.size(op.row)), b.iota(op.col, y.size(op.row))
    read = b.map("lt", row, col) if op.upper else b.map("lt", col, row)
    return b.where(read, product, 0), g


def _transform(b: Builder, y: Value, ct: Value) -> Sequence[Value | None]:
    """The conjugate transposes; half spectra count each pair of frequencies twice but the first and the middle one."""
    op = op_of(y, p.Transform)
    axis, n = op.axis, op.n
    if op.which in ("fft", "ifft"):
        back, scale = ("ifft", float(n)) if op.which == "fft" else ("fft", 1 / n)
        return (b.mul(b.transform(back, ct, axis, n), scale),)
    k = b.iota(axis, n // 2 + 1)
    paired = b.map("and", b.map("lt", 0, k), b.map("lt", b.mul(k, 2), n))
    if op.which == "rfft":
        return (b.transform("irfft", b.mul(ct, b.where(paired, n / 2, float(n))), axis, n),)
    return (b.mul(b.transform("rfft", ct, axis, n), b.where(paired, 2 / n, 1 / n)),)


SUMS: dict[type, Rule] = {
    p.Contract: _contract,
    p.Reduce: _reduce,
    p.Cumulate: _cumulate,
    p.AffineScan: _affine_scan,
    p.Solve: _solve,
    p.Transform: _transform,
}
