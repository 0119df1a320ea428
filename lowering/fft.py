"""The form `fft`: a convolution as a product of Fourier transforms, padded so that nothing wraps around."""

from __future__ import annotations

from lowering.build import Builder, called
from lowering.context import Choice
from lowering.filters import LAG, Filter, filter_of, folded
from lowering.grid import Grid
from lowering.program import Value
from mixer_ir.nodes.expr import SOURCE, TIME
from mixer_ir.nodes.matrix import Apply, Fourier


def lower(e: Apply, on: Grid, choice: Choice) -> Value:
    """y = F⁻¹(F h · F v)"""
    if isinstance(e.matrix, Fourier):
        b = on.b
        n = on.rows.size
        v = folded(b, b.rename(b.expand(on.col(e.of), {SOURCE: on.cols.size}), SOURCE, TIME), n)
        return b.transform("ifft" if e.matrix.inverse else "fft", v, TIME, n)
    f = filter_of(e, on, "fft")
    return f.rows(on.b, convolved(on.b, f, f.length if f.circular else fast(padded(f))))


def padded(f: Filter) -> int:
    """The shortest length at which no wanted row is reached from around the end."""
    past = f.v.size(TIME) + f.h.size(LAG) - 1
    ahead = 0 if f.anti is None else max(f.v.size(TIME), f.reaches) + f.anti.size(LAG) - 1
    return max(past, ahead, f.reaches)


def fast(n: int) -> int:
    """The next even number with no prime factor above 5."""
    n += n % 2
    while not _smooth(n):
        n += 2
    return n


def _smooth(n: int) -> bool:
    for p in (2, 3, 5):
        while n % p == 0:
            n //= p
    return n == 1


def taps(b: Builder, f: Filter, n: int) -> Value:
    """The filter around a circle of n places: lag l at l, the lag −l of what looks ahead at n − l."""
    h = b.pad(f.h, LAG, 0, n - f.h.size(LAG)) if n > f.h.size(LAG) else b.slice(f.h, LAG, 0, n)
    if f.anti is not None and f.anti.size(LAG) > 1:
        back = b.flip(b.slice(f.anti, LAG, 1, f.anti.size(LAG)), LAG)
        h = b.add(h, b.pad(back, LAG, n - back.size(LAG), 0))
    return h


@called("spectrum: the convolution as a product of Fourier transforms")
def convolved(b: Builder, f: Filter, n: int) -> Value:
    """The circular convolution of length n; of something complex with something real, one for each half."""
    if f.mixed:
        return b.map("complex", *(convolved(b, f.half(b, which), n) for which in ("real", "imag")))
    h = b.rename(taps(b, f, n), LAG, TIME)
    v = b.pad(f.v, TIME, 0, n - f.v.size(TIME))
    if "complex" in (h.kind, v.kind):
        product = b.mul(b.transform("fft", h, TIME, n), b.transform("fft", v, TIME, n))
        return b.transform("ifft", product, TIME, n)
    h, v = b.cast(h, "real"), b.cast(v, "real")
    product = b.mul(b.transform("rfft", v, TIME, n), b.transform("rfft", h, TIME, n))
    return b.transform("irfft", product, TIME, n)
