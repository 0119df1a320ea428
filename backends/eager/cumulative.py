"""PyTorch spellings of what runs along an axis: cumulations, and h_i = a_i h_{i−1} + x_i.

PyTorch's own cumulations are fast along the last axis alone. Along others a loop of whole-array steps, each written
where it ends up, is faster as soon as a step holds some hundred entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backends import pages
from backends.eager.setting import Setting, op_of, view
from backends.plan import Call
from lowering import program as p
from lowering.program import Value

STEP = 256  # entries: a step that holds fewer costs more than it saves
LONG = 512  # steps: sums over more of them are left to PyTorch, which adds up in higher precision

WHOLE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum": torch.cumsum,
    "prod": torch.cumprod,
    "max": lambda x, at: torch.cummax(x, at).values,
}
STEPS: dict[str, Callable[..., Tensor]] = {"sum": torch.add, "prod": torch.mul, "max": torch.maximum}


def neutral(fn: str, dtype: torch.dtype) -> float | int:
    """What a cumulation starts from."""
    if fn != "max":
        return 0 if fn == "sum" else 1
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def cumulate(v: Value, setting: Setting) -> Call:
    op = op_of(v, p.Cumulate)
    at, n = v.axes.index(op.axis), v.size(op.axis)
    last = at == len(v.axes) - 1
    start = neutral(op.fn, setting.dtype(v.kind))
    if not (setting.recorded or last) and n <= LONG and math.prod(v.shape) >= STEP * n:
        return _stepwise(op, at, n, start)
    whole = WHOLE[op.fn]
    widths = [0, 0] * (len(v.axes) - 1 - at) + [1, 0]

    def cumulated(x: Tensor) -> Tensor:
        x = x.flip(at) if op.reverse else x
        if op.exclusive:
            y = torch.constant_pad_nd(whole(x.narrow(at, 0, n - 1), at), widths, start)
        else:
            y = whole(x, at) if last else whole(x.movedim(at, -1).contiguous(), -1).movedim(-1, at)
        return y.flip(at) if op.reverse else y

    return cumulated


def _stepwise(op: p.Cumulate, at: int, n: int, start: float) -> Call:
    fn = STEPS[op.fn]
    order = range(n - 1, -1, -1) if op.reverse else range(n)
    behind = 1 if op.exclusive else 0

    def cumulated(x: Tensor) -> Tensor:
        y = pages.empty(x.shape, x.dtype, x.device)
        read, write = x.unbind(at), y.unbind(at)
        total = write[order[0]]
        if op.exclusive:
            total.fill_(start)
        else:
            total.copy_(read[order[0]])
        for i, here in enumerate(order[1:], 1):
            total = fn(total, read[order[i - behind]], out=write[here])
        return y

    return cumulated


def affine_scan(v: Value, setting: Setting) -> Call:
    """One step after the other where a step is large; else in chunks, all chunks at once."""
    op, (a, x) = op_of(v, p.AffineScan), v.args
    at, axes = v.axes.index(op.axis), _step_first(v)
    shape = tuple(v.size(axis) for axis in axes)
    as_a, as_x = view(a.axes, axes), view(x.axes, axes)
    n, chunk = shape[0], _chunk(v, setting)

    def scanned(factor: Tensor, term: Tensor) -> Tensor:
        factor, term = (factor if as_a is None else as_a(factor)), (term if as_x is None else as_x(term))
        if op.reverse:
            factor, term = factor.flip(0), term.flip(0)
        y = run(factor, term)
        y = y.flip(0) if op.reverse else y
        return y.movedim(0, at)

    def run(factor: Tensor, term: Tensor) -> Tensor:
        if setting.recorded:
            return _recorded(factor, term, shape)
        y = None if chunk == n else _chunked(factor, term, shape, chunk)
        return _in_order(factor.unbind(0), term.unbind(0), shape) if y is None else y

    return scanned


def _step_first(v: Value) -> tuple[str, ...]:
    axis = op_of(v, p.AffineScan).axis
    return (axis, *(a for a in v.axes if a != axis))


def _chunk(v: Value, setting: Setting) -> int:
    """How many steps are done one after the other."""
    n, *rest = (v.size(axis) for axis in _step_first(v))
    small = math.prod(rest) < 4096 or setting.device.type != "cpu"
    return 1 << (n.bit_length() // 2) if small and n >= 64 and not setting.recorded else n


def in_parts(v: Value, setting: Setting) -> bool:
    """Whether the terms of this affine scan may come as the parts of a concatenation, which is never written then."""
    op = v.op
    if not isinstance(op, p.AffineScan) or op.reverse or setting.recorded or _chunk(v, setting) < v.size(op.axis):
        return False
    terms = v.args[1]
    return isinstance(terms.op, p.Concat) and terms.op.axis == op.axis


def affine_scan_of_parts(v: Value, setting: Setting) -> Call:
    """One step after the other; the terms are a tuple of arrays, one after the other along the axis."""
    a, x = v.args
    at, axes = v.axes.index(op_of(v, p.AffineScan).axis), _step_first(v)
    shape = tuple(v.size(axis) for axis in axes)
    as_a, as_x = view(a.axes, axes), view(x.axes, axes)

    def scanned(factor: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        factor = factor if as_a is None else as_a(factor)
        terms = [term for part in parts for term in (part if as_x is None else as_x(part)).unbind(0)]
        return _in_order(factor.unbind(0), terms, shape).movedim(0, at)

    return scanned


def _in_order(factors: Sequence[Tensor], terms: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    y = pages.empty(shape, terms[0].dtype, terms[0].device)
    places = y.unbind(0)
    h = places[0].copy_(terms[0])
    for a, x, here in zip(factors[1:], terms[1:], places[1:], strict=True):
        h = torch.addcmul(x, a, h, out=here)
    return y


def _recorded(factor: Tensor, term: Tensor, shape: tuple[int, ...]) -> Tensor:
    h = term[0].expand(shape[1:])
    made = [h]
    for a, x in zip(factor.unbind(0)[1:], term.unbind(0)[1:], strict=True):
        made.append(h := torch.addcmul(x, a, h))
    return torch.stack(made)


def _chunked(factor: Tensor, term: Tensor, shape: tuple[int, ...], chunk: int) -> Tensor | None:
    """h = h from zero within the chunk + Π a · h entering the chunk; None if a product overflows (h need not)."""
    count = -(-shape[0] // chunk)
    a, x = (_cut(z, count, chunk) for z in (factor, term.expand(shape)))
    within, products = torch.empty_like(x), torch.empty_like(a)
    h, product = within[0].copy_(x[0]), products[0].copy_(a[0])
    for i in range(1, chunk):
        h = torch.addcmul(x[i], a[i], h, out=within[i])
        product = torch.mul(product, a[i], out=products[i])
    if not bool(torch.isfinite(products).all()):
        return None
    entering = torch.zeros_like(h)
    for j in range(1, count):
        torch.addcmul(h[j - 1], product[j - 1], entering[j - 1], out=entering[j])
    y = within.addcmul_(products, entering)
    return y.transpose(0, 1).reshape(count * chunk, *shape[1:])[: shape[0]]


def _cut(x: Tensor, count: int, chunk: int) -> Tensor:
    """(position in the chunk, chunk, …), zeros after the end."""
    missing = count * chunk - x.shape[0]
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.reshape(count, chunk, *x.shape[1:]).transpose(0, 1).contiguous()
