"""PyTorch spellings of sums along axes: matrix products, reductions, cumulations, solves and transforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backends.eager.products import Product
from backends.eager.setting import Setting, op_of, view
from backends.eager.solves import solve
from backends.plan import Call
from lowering import program as p
from lowering.program import Value


def contract(v: Value, setting: Setting) -> Call:
    """One batched matrix product where it has rows or columns."""
    product = Product.of(v)
    return _product_sum(v) if product is None else product.alone()


def _product_sum(v: Value) -> Call:
    x, y = v.args
    over = op_of(v, p.Contract).over
    axes = (*v.axes, *over)
    left, right = view(x.axes, axes), view(y.axes, axes)
    dims = tuple(range(len(v.axes), len(axes)))

    def product_sum(a: Tensor, b: Tensor) -> Tensor:
        return torch.mul(a if left is None else left(a), b if right is None else right(b)).sum(dims)

    return product_sum


REDUCTIONS: dict[str, Callable[..., Tensor]] = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}


def reduce(v: Value, setting: Setting) -> Call:
    op, x = op_of(v, p.Reduce), v.args[0]
    dims = tuple(x.axes.index(a) for a in op.over)
    if all(x.size(a) == 1 for a in op.over):
        return (lambda z: z.squeeze(dims[0])) if len(dims) == 1 else (lambda z: z.reshape(v.shape))
    fn = REDUCTIONS[op.fn]
    return lambda z: fn(z, dims)


def transform(v: Value, setting: Setting) -> Call:
    op = op_of(v, p.Transform)
    at = v.axes.index(op.axis)
    fn: Callable[..., Tensor] = getattr(torch.fft, op.which)
    return lambda x: fn(x, n=op.n, dim=at)


SUMS: dict[type, Callable[[Value, Setting], Call]] = {
    p.Contract: contract,
    p.Reduce: reduce,
    p.Solve: solve,
    p.Transform: transform,
}
