"""PyTorch spellings of triangular systems and of their inverses, by blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from backends.eager.inverses import SIDE, is_inverse
from backends.eager.setting import Setting, op_of, view
from backends.plan import Call
from lowering import program as p
from lowering.program import Value

BLOCK = 16
"""rows that are solved one after the other; more go block by block"""


def solve(v: Value, setting: Setting) -> Call:
    """By substitution, for all columns at once; what lies on and beyond the diagonal is not read."""
    op, (lower, r) = op_of(v, p.Solve), v.args
    columns = tuple(a for a in r.axes if a != op.row and a not in lower.axes)
    batch = tuple(a for a in v.axes if a != op.row and a not in columns)
    n, count = v.size(op.row), math.prod(v.size(a) for a in columns)
    sizes = tuple(v.size(a) for a in batch)
    made = (*batch, op.row, *columns)
    matrix, right = view(lower.axes, (*batch, op.row, op.col)), view(r.axes, made)
    shape = tuple(v.size(a) for a in made)
    back = [made.index(a) for a in v.axes]
    blocked = n % BLOCK == 0 and not setting.recorded
    unit = is_inverse(v) and columns == (SIDE,)

    def solved(x: Tensor, y: Tensor) -> Tensor:
        x = x if matrix is None else matrix(x)
        if blocked and unit:
            w = _inverse(x.expand(*sizes, n, n).reshape(-1, n, n), op.upper)
            return w.view(shape).permute(back)
        y = (y if right is None else right(y)).expand(shape).reshape(*sizes, n, count)
        if blocked:
            w = _by_blocks(x.expand(*sizes, n, n).reshape(-1, n, n), y.reshape(-1, n, count), op.upper)
        else:
            w = torch.linalg.solve_triangular(-x, y, upper=op.upper, unitriangular=True)
        return w.reshape(shape).permute(back)

    return solved


def _blocks(n: int, upper: bool) -> Iterator[tuple[int, slice, slice]]:
    """Blocks of rows in the order in which they are solved: which, its rows, and the rows that are solved before."""
    for i in reversed(range(n // BLOCK)) if upper else range(n // BLOCK):
        start, stop = i * BLOCK, (i + 1) * BLOCK
        yield i, slice(start, stop), slice(stop, n) if upper else slice(0, start)


def _inverses(x: Tensor, upper: bool) -> Sequence[Tensor]:
    """(I − L)⁻¹ of the blocks on the diagonal."""
    n = x.shape[1] // BLOCK
    blocks = x.view(-1, n, BLOCK, n, BLOCK).diagonal(dim1=1, dim2=3).movedim(-1, 1)
    eye = torch.eye(BLOCK, dtype=x.dtype, device=x.device)
    # the same from either side, and faster where rows lie side by side
    made: Tensor = torch.linalg.solve_triangular(-blocks, eye, upper=upper, left=False, unitriangular=True)
    return made.unbind(1)


def _by_blocks(x: Tensor, y: Tensor, upper: bool) -> Tensor:
    """(I − L)⁻¹ y: what solved blocks contribute is a product of matrices, and so is the rest of each."""
    inverses = _inverses(x, upper)
    w = torch.empty_like(y, memory_format=torch.contiguous_format)
    for i, here, before in _blocks(x.shape[1], upper):
        known = (
            y[:, here] if before.start == before.stop else torch.baddbmm(y[:, here], x[:, here, before], w[:, before])
        )
        w[:, here] = torch.bmm(inverses[i], known)
    return w


def _inverse(x: Tensor, upper: bool) -> Tensor:
    """(I − L)⁻¹: each block of rows is that of the block times what L has before it times the rows before."""
    w = torch.zeros_like(x, memory_format=torch.contiguous_format)
    inverses = _inverses(x, upper)
    for i, here, before in _blocks(x.shape[1], upper):
        w[:, here, here] = inverses[i]
        if before.start != before.stop:
            w[:, here, before] = torch.bmm(inverses[i], torch.bmm(x[:, here, before], w[:, before, before]))
    return w
