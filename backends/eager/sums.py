"""PyTorch spellings of sums along axes: matrix products, reductions, cumulations, solves and transforms."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from backends.eager.setting import Setting, op_of, view
from backends.plan import Call
from lowering import program as p
from lowering.program import Value


def contract(v: Value, setting: Setting) -> Call:
    """One batched matrix product: (batch, rows, over) · (batch, over, columns)."""
    over = op_of(v, p.Contract).over
    x, y = v.args
    if v.kind in ("bool", "int"):
        return _product_sum(v)
    batch = tuple(a for a in x.axes if a in y.axes and a not in over)
    rows = tuple(a for a in x.axes if a not in y.axes)
    columns = tuple(a for a in y.axes if a not in x.axes)
    if not rows and not columns:
        return _product_sum(v)
    left = _grouped(x, (batch, rows, over))
    right = _grouped(y, (batch, over, columns))
    product = torch.bmm if batch else torch.mm
    made = (*batch, *rows, *columns)
    shape = tuple(v.size(a) for a in made)
    permutation = [made.index(a) for a in v.axes]
    plain = len(batch) <= 1 and len(rows) == len(columns) == 1
    if permutation == list(range(len(made))):
        if plain:
            return lambda x, y: product(left(x), right(y))
        return lambda x, y: product(left(x), right(y)).view(shape)
    return lambda x, y: product(left(x), right(y)).view(shape).permute(permutation)


def _grouped(x: Value, groups: tuple[tuple[str, ...], ...]) -> Callable[[Tensor], Tensor]:
    """x with one axis a group (the first group may be absent)."""
    first, *rest = groups
    groups = (first, *rest) if first else tuple(rest)
    permutation = [x.axes.index(a) for group in groups for a in group]
    shape = tuple(math.prod(x.size(a) for a in group) for group in groups)
    ordered = permutation == list(range(len(x.axes)))
    if all(len(group) == 1 for group in groups):
        if ordered:
            return lambda z: z
        if len(permutation) == 2:
            return torch.t
        return lambda z: z.permute(permutation)
    if ordered:
        return lambda z: z.reshape(shape)
    return lambda z: z.permute(permutation).reshape(shape)


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


def solve(v: Value, setting: Setting) -> Call:
    """By substitution, row after row, for all columns at once; what lies on and beyond the diagonal is not read."""
    op, (lower, r) = op_of(v, p.Solve), v.args
    columns = tuple(a for a in r.axes if a != op.row and a not in lower.axes)
    batch = tuple(a for a in v.axes if a != op.row and a not in columns)
    n, count = v.size(op.row), math.prod(v.size(a) for a in columns)
    sizes = tuple(v.size(a) for a in batch)
    made = (*batch, op.row, *columns)
    matrix, right = view(lower.axes, (*batch, op.row, op.col)), view(r.axes, made)
    shape = tuple(v.size(a) for a in made)
    back = [made.index(a) for a in v.axes]
    blocked = n > BLOCK and n % BLOCK == 0 and not setting.recorded

    def solved(x: Tensor, y: Tensor) -> Tensor:
        x, y = (x if matrix is None else matrix(x)), (y if right is None else right(y))
        y = y.expand(shape).reshape(*sizes, n, count)
        if blocked:
            w = _by_blocks(x.expand(*sizes, n, n).reshape(-1, n, n), y.reshape(-1, n, count), op.upper)
        else:
            w = torch.linalg.solve_triangular(-x, y, upper=op.upper, unitriangular=True)
        return w.reshape(shape).permute(back)

    return solved


def _by_blocks(x: Tensor, y: Tensor, upper: bool) -> Tensor:
    """Block after block: what the solved blocks contribute is a product of matrices, and so is the rest of each."""
    n, size = x.shape[1], BLOCK
    blocks = x.reshape(-1, n // size, size, n // size, size).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    eye = torch.eye(size, dtype=x.dtype, device=x.device)
    inverses = torch.linalg.solve_triangular(-blocks, eye, upper=upper, unitriangular=True).unbind(1)
    w = torch.empty_like(y)
    starts = range(0, n, size)
    for i in reversed(starts) if upper else starts:
        here, done = slice(i, i + size), slice(i + size, n) if upper else slice(0, i)
        known = torch.baddbmm(y[:, here], x[:, here, done], w[:, done])
        w[:, here] = torch.bmm(inverses[i // size], known)
    return w


BLOCK = 16
"""rows that are solved one after the other; more go block by block"""


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
