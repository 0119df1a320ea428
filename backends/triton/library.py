"""What PyTorch's own kernels do better: Fourier transforms (cuFFT) and triangular systems larger than a tile."""

from __future__ import annotations

import torch
from torch import Tensor

from backends.triton.real import PART
from lowering import program as p
from lowering.program import Value


def called(v: Value, args: list[Tensor]) -> Tensor:
    """The value of an operation on the values of its arguments; complex numbers have their parts on the axis PART."""
    op = v.op
    if isinstance(op, p.Transform):
        x = v.args[0]
        axes = tuple(a for a in x.axes if a != PART)
        z = args[0]
        if PART in x.axes:
            z = torch.view_as_complex(z.movedim(x.axes.index(PART), -1).contiguous())
        length = {} if op.which == "rfft" else {"n": op.n}
        y: Tensor = getattr(torch.fft, op.which)(z, dim=axes.index(op.axis), **length)
        return y if op.which == "irfft" else torch.view_as_real(y)
    assert isinstance(op, p.Solve)
    lower, right = v.args
    batch = [a for a in v.axes if a != op.row and a in lower.axes]
    columns = [a for a in v.axes if a != op.row and a not in batch]
    matrix = _ordered(args[0], lower.axes, [*batch, op.row, op.col])
    r = _ordered(args[1], right.axes, [*batch, op.row, *columns])
    sizes = [v.size(a) for a in batch]
    n = v.size(op.row)
    r = r.expand(*sizes, n, *(v.size(a) for a in columns)).reshape(*sizes, n, -1)
    eye = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    full = (eye - matrix).expand(*sizes, n, n)
    y = torch.linalg.solve_triangular(full, r, upper=op.upper, unitriangular=True)
    y = y.reshape(*sizes, n, *(v.size(a) for a in columns))
    return y.permute(*([*batch, op.row, *columns].index(a) for a in v.axes))


def _ordered(x: Tensor, axes: tuple[str, ...], wanted: list[str]) -> Tensor:
    """x with the axes `wanted`, of size 1 where it lacks one."""
    x = x.permute(*(axes.index(a) for a in wanted if a in axes))
    for i, a in enumerate(wanted):
        if a not in axes:
            x = x.unsqueeze(i)
    return x
